//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/encoding/protojson"
)

// httpInput is a request to the HTTP port, and its answer as answerText has it. Content-Type is
// that of JSON where headers do not say another.
type httpInput struct {
	name, method, path string
	headers            []string // "name: value"
	body               string
	want               string
}

func (c *httpInput) input() badInput {
	return badInput{c.name, func(tb testing.TB, v *victim) {
		tb.Helper()
		before := v.metric(tb, "ratelimitd_limits")
		if got := v.send(tb, c); got != c.want {
			tb.Errorf("got\n%s, want\n%s", got, c.want)
		}
		added := v.metric(tb, "ratelimitd_limits") - before
		if c.method == http.MethodPut && strings.HasPrefix(c.want, "200 ") {
			added--
		}
		if added != 0 {
			tb.Errorf("%+g limits are in force for it", added)
		}
	}}
}

func (v *victim) send(tb testing.TB, c *httpInput) string {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), c.method, "http://"+v.httpAddr+c.path, strings.NewReader(c.body))
	if err != nil {
		tb.Fatal(err)
	}
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, header := range c.headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			req.Host = value
		}
		req.Header.Set(name, value)
	}
	transport := &http.Transport{DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return answerText(tb, resp, body)
}

// answerText is the status, and after it the detail of a problem, a decision as told has it, or a
// row without its times and version.
func answerText(tb testing.TB, resp *http.Response, body []byte) string {
	tb.Helper()
	code, text := strconv.Itoa(resp.StatusCode), string(bytes.TrimSpace(body))
	switch resp.Header.Get("Content-Type") {
	case "application/problem+json":
		var problem struct {
			Title, Detail string
			Status        int
		}
		if err := json.Unmarshal(body, &problem); err != nil || problem.Status != resp.StatusCode || problem.Title != http.StatusText(resp.StatusCode) {
			tb.Errorf("the problem of status %d is %s, %v", resp.StatusCode, body, err)
		}
		text = problem.Detail
	case "application/json":
		text = jsonText(tb, body)
	}
	if strings.ContainsAny(text, "\r\n") || len(text) > 2000 {
		tb.Errorf("the answer is not one line of bounded length: %q", text)
	}
	return strings.TrimSpace(code + " " + text)
}

func jsonText(tb testing.TB, body []byte) string {
	tb.Helper()
	var decision ratelimitv3.RateLimitResponse
	if protojson.Unmarshal(body, &decision) == nil {
		return told(&decision)
	}
	var row map[string]any
	if err := json.Unmarshal(body, &row); err != nil {
		tb.Errorf("the answer is %s: %v", body, err)
	}
	for _, name := range []string{"created_at", "updated_at", "version"} {
		delete(row, name)
	}
	short, err := json.Marshal(row)
	if err != nil {
		tb.Error(err)
	}
	return string(short)
}

// raw sends bytes that no HTTP client would, and wants the first line of the answer.
func raw(name, sent, want string) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		conn, err := net.DialTimeout("tcp", v.httpAddr, rawTimeout)
		if err != nil {
			tb.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // the answer was read
		if err := conn.SetDeadline(time.Now().Add(rawTimeout)); err != nil {
			tb.Fatal(err)
		}
		_, _ = io.WriteString(conn, sent) // the answer may come before the end of what is sent
		answer, err := io.ReadAll(conn)
		if line, _, _ := strings.Cut(string(answer), "\r\n"); line != want {
			tb.Errorf("got %q, %v; want %q", answer, err, want)
		}
	}}
}

func jsonInputs() []badInput {
	const syntax, none = "400 body is no RateLimitRequest: syntax error (line 1:%d): %s", "400 body is no RateLimitRequest: (line 1:%d): %s"
	const ask = `{"domain":"edge","descriptors":[{"entries":[{"key":"gateway","value":"%s"}]%s}]}`
	post := func(name, body, want string, headers ...string) badInput {
		return (&httpInput{name, http.MethodPost, "/json", headers, body, want}).input()
	}
	odd := func(name, number, want string) badInput {
		return post(name, fmt.Sprintf(`{"domain":"edge","descriptors":[{}],"hitsAddend":%s}`, number), want)
	}
	cut := func(reason string) string { return "400 body is no RateLimitRequest: " + reason[:256] + "…" }
	good := func(name, more string) string { return fmt.Sprintf(ask, name, more) }
	return slices.Concat([]badInput{
		post("no body", "", fmt.Sprintf(syntax, 1, "unexpected token")),
		post("no JSON", "domain=edge", fmt.Sprintf(syntax, 1, "invalid value domain")),
		post("cut JSON", `{"domain":"edge","descriptors":[`, "400 body is no RateLimitRequest: unexpected EOF"),
		post("a list", "[]", fmt.Sprintf(syntax, 1, "unexpected token [")),
		post("null", "null", fmt.Sprintf(syntax, 1, "unexpected token null")),
		post("BOM", "\ufeff"+good("bom", ""), fmt.Sprintf(syntax, 1, `invalid value `+"\ufeff")),
		post("two documents", good("two", "")+"{}", fmt.Sprintf(syntax, 80, "unexpected token {")),
		post("field twice", `{"domain":"a","domain":"b"}`, fmt.Sprintf(none, 15, `duplicate field "domain"`)),
		post("unknown field", `{"domain":"edge","descriptor":[]}`, fmt.Sprintf(none, 18, `unknown field "descriptor"`)),
		post("invalid UTF-8", good("a\xff", ""), fmt.Sprintf(syntax, 70, `invalid UTF-8 in string`)),
		post("half a surrogate", good(`a\ud800`, ""), fmt.Sprintf(syntax, 70, `invalid escape code "\"}]}]}" in string`)),
		post("raw control character", good("a\nb", ""), fmt.Sprintf(syntax, 70, `invalid character '\n' in string`)),
		post("descriptors as an object", `{"domain":"edge","descriptors":{}}`, fmt.Sprintf(syntax, 32, "unexpected token {")),
		post("domain as a number", `{"domain":7}`, fmt.Sprintf(none, 11, "invalid value for string field domain: 7")),
		post("100,000 lists within each other", `{"domain":`+strings.Repeat("[", 100_000), fmt.Sprintf(none, 11, "invalid value for string field domain: [")),
		post("domain as a number of 100,000 digits", `{"domain":`+strings.Repeat("7", 100_000)+"}", cut("(line 1:11): invalid value for string field domain: "+strings.Repeat("7", 300))),
		post("unknown field of 100,000 bytes", `{"`+strings.Repeat("f", 100_000)+`":1}`, cut(`(line 1:2): unknown field "`+strings.Repeat("f", 300))),
		post("no domain", `{"descriptors":[{}]}`, "400 domain is empty"),
		post("no descriptors", `{"domain":"edge"}`, "400 descriptors is empty"),
		odd("hits NaN", "NaN", fmt.Sprintf(syntax, 50, "invalid value NaN")),
		odd("hits 1e400", "1e400", fmt.Sprintf(none, 50, "invalid value for uint32 field hitsAddend: 1e400")),
		odd("hits -1", "-1", fmt.Sprintf(none, 50, "invalid value for uint32 field hitsAddend: -1")),
		odd("hits 1.5", "1.5", fmt.Sprintf(none, 50, "invalid value for uint32 field hitsAddend: 1.5")),
		odd("hits 2^32", "4294967296", fmt.Sprintf(none, 50, "invalid value for uint32 field hitsAddend: 4294967296")),
		odd("hits 2^32-1", "4294967295", "400 descriptors[0].hits_addend (of the request) 4294967295"+tooMany),
		post("hits of a descriptor 2^64", good("j", `,"hitsAddend":"18446744073709551616"`), fmt.Sprintf(none, 89, `invalid value for uint64 field value: "18446744073709551616"`)),
		post("unit by a wrong name", good("j", `,"limit":{"requestsPerUnit":1,"unit":"FORTNIGHT"}`), fmt.Sprintf(none, 112, `invalid value for enum field unit: "FORTNIGHT"`)),
		post("unit 99", good("j", `,"limit":{"requestsPerUnit":1,"unit":99}`), "400 descriptors[0].limit.unit 99"+badUnit),
		post("2 MiB", good("j", "")+strings.Repeat(" ", 2<<20), "413 body: is over 1048576 bytes"),
		post("gzip", "\x1f\x8b\x08\x00", fmt.Sprintf(syntax, 1, "invalid value \x1f"), "Content-Encoding: gzip"),
		post("bad X-Max-Wait-Ms", good("j", ""), `400 header X-Max-Wait-Ms "-1": is not a whole number of milliseconds`, "X-Max-Wait-Ms: -1"),
		post("X-Max-Wait-Ms of 2^64", good("forever", ""), "200 "+byDefault("forever"), "X-Max-Wait-Ms: 18446744073709551616"),
		post("another content type", good("plain", ""), "200 "+byDefault("plain"), "Content-Type: text/plain"),
		post("NUL and line ends in a name", good(`a\u0000\r\nb`, ""), "200 "+byDefault("a\x00\r\nb")),
		(&httpInput{"GET", http.MethodGet, "/json", nil, "", `405 method "GET": /json takes POST`}).input(),
		raw("a body that breaks off", "POST /json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}\r\nzzz", "HTTP/1.1 400 Bad Request"),
	})
}

func restInputs() []badInput {
	return slices.Concat(putInputs(), putsRefused(), readInputs(), []badInput{
		raw("no HTTP", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", "HTTP/1.1 400 Bad Request"),
		raw("no host", "GET /api/v1/limits HTTP/1.1\r\n\r\n", "HTTP/1.1 400 Bad Request: missing required Host header"),
		raw("length -1", "PUT /api/v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", "HTTP/1.1 400 Bad Request"),
		raw("2 MiB of headers", "GET / HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 2<<20)+"\r\n\r\n", "HTTP/1.1 431 Request Header Fields Too Large"),
		raw("a body that never ends", "PUT /api/v1/limits HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", "HTTP/1.1 408 Request Timeout"),
	})
}

const limitsPath = "/api/v1/limits"

func put(name, body, want string, headers ...string) badInput {
	return (&httpInput{name, http.MethodPut, limitsPath, headers, body, want}).input()
}

// column is a row with one odd column.
func column(name, text, want string) badInput {
	return put(name, fmt.Sprintf(`{"gateway":"rest",%s}`, text), want)
}

func putInputs() []badInput {
	const whole, short = ": is no whole number of at most 63 bits, written in digits", "rest-of-it"
	name := func(what, gateway, want string) badInput {
		return put("gateway "+what, fmt.Sprintf(`{"gateway":"%s"}`, gateway), want)
	}
	stored := func(gateway string, tps int) string {
		return fmt.Sprintf(`200 {"algorithm":"token_bucket","burst":null,"domain":"","enabled":true,"endpoint":null,"gateway":%q,"max_tps":%d,"max_wait_ms":0,"note":"","per":null,"per_seconds":1,"shadow":false}`, gateway, tps)
	}
	long := strings.Repeat("n", 256)
	return []badInput{
		column("max_tps 10^9+1", `"max_tps":1000000001`, "422 max_tps 1000000001: is not within 0 to 1000000000"),
		column("max_tps -1", `"max_tps":-1`, "422 max_tps -1: is not within 0 to 1000000000"),
		column("max_tps 2^63", `"max_tps":9223372036854775808`, "422 max_tps 9223372036854775808"+whole),
		column("max_tps 1e400", `"max_tps":1e400`, "422 max_tps 1e400"+whole),
		column("max_tps 1.5", `"max_tps":1.5`, "422 max_tps 1.5"+whole),
		column("max_tps as text", `"max_tps":"5"`, `422 max_tps "5"`+whole),
		column("max_tps as a list", `"max_tps":[5]`, `422 max_tps [5]`+whole),
		column("max_tps NaN", `"max_tps":NaN`, "400 body: is not JSON: at byte 29: invalid character 'N' looking for beginning of value"),
		column("burst 0", `"burst":0`, "422 burst 0: is not within 1 to 1000000000"),
		column("max_wait_ms of half an hour and 1", `"max_wait_ms":1800001`, "422 max_wait_ms 1800001: is not within 0 to 1800000"),
		column("enabled 1", `"enabled":1`, "422 enabled 1: is not true or false"),
		column("shadow as text", `"shadow":"true"`, `422 shadow "true": is not true or false`),
		column("note of 4097 bytes", `"note":"`+strings.Repeat("x", 4097)+`"`, `422 note "`+strings.Repeat("x", 64)+`"… (4097 bytes): is longer than 4096 bytes`),
		column("note with NUL", `"note":"\u0000"`, `422 note "\x00": is not valid UTF-8 text`),
		column("per_seconds 0", `"per_seconds":0`, "422 per_seconds 0: is not within 1 to 31622400"),
		column("per_seconds of more than a year", `"per_seconds":31622401`, "422 per_seconds 31622401: is not within 1 to 31622400"),
		column("per_seconds 0.5", `"per_seconds":0.5`, "422 per_seconds 0.5"+whole),
		column("algorithm that is none", `"algorithm":"leaky_bucket"`, `422 algorithm "leaky_bucket": is not token_bucket, fixed_window or sliding_window`),
		column("algorithm as a number", `"algorithm":1`, "422 algorithm 1: is no text"),
		column("burst of a window", `"algorithm":"sliding_window","burst":5`, "422 burst 5: has no meaning with algorithm sliding_window, which has room for max_tps"),
		column("unknown column", `"max_tpss":5`, `422 field "max_tpss": is no column of a limit`),
		column("column in capitals", `"Max_TPS":5`, `422 field "Max_TPS": is no column of a limit`),
		column("column twice", `"burst":1,"burst":2`, "422 burst 2: comes twice"),
		column("two faults", `"burst":0,"max_tps":-1`, "422 max_tps -1: is not within 0 to 1000000000; burst 0: is not within 1 to 1000000000"),
		put("no gateway", `{"max_tps":5}`, `422 gateway "": is empty`),
		name("null", `",  "endpoint":null, "per":"`, `422 gateway "": is empty`),
		name("of 256 bytes", long, fmt.Sprintf("422 gateway %q… (256 bytes): is longer than 255 bytes", long[:64])),
		name("with CR LF", `a\r\nx-evil: 1`, `422 gateway "a\r\nx-evil: 1": has a control character`),
		name("with NUL", `a\u0000`, `422 gateway "a\x00": has a control character`),
		name("with a C1 control", `a\u0085`, `422 gateway "a\u0085": has a control character`),
		name("that is half a surrogate", `a\udfff`, `422 gateway "a\udfff": has one half of a surrogate pair`),
		name("of 255 bytes", long[1:], stored(long[1:], 1000)),
		put("max_tps -0", `{"gateway":"minus","max_tps":-0}`, stored("minus", 0)),
		put("gateway with U+202E", `{"gateway":"rest\u202eevil"}`, strings.ReplaceAll(stored("rest|evil", 1000), "|", "\u202e")),
		put("odd times and version", `{"gateway":"`+short+`","version":-1,"created_at":"yesterday","updated_at":[]}`, stored(short, 1000)),
	}
}

// putsRefused are bodies that are no row at all, or must not come this way.
func putsRefused() []badInput {
	const row, alone = `{"gateway":"rest"}`, "403 without TPS_API_TOKENS writes are for this host alone: "
	return []badInput{
		put("no body", "", "400 body: is empty"),
		put("no JSON", "gateway=rest", "400 body: is not JSON: at byte 1: invalid character 'g' looking for beginning of value"),
		put("cut JSON", row[:10], "400 body: is not JSON: at byte 10: unexpected end of JSON input"),
		put("a list", "["+row+"]", `422 body "[{\"gateway\":\"rest\"}]": is no JSON object`),
		put("null", "null", `422 body "null": is no JSON object`),
		put("BOM", "\ufeff"+row, "400 body: is not JSON: at byte 1: invalid character 'ï' looking for beginning of value"),
		put("two documents", row+row, "400 body: is not JSON: at byte 19: invalid character '{' after top-level value"),
		put("invalid UTF-8", "{\"gateway\":\"\xff\"}", "400 body: is not UTF-8"),
		put("100,000 objects within each other", strings.Repeat(`{"gateway":`, 50_000)+strings.Repeat("}", 50_000), "400 body: is not JSON: at byte 110001: invalid character '{' exceeded max depth"),
		put("2 MiB", row+strings.Repeat(" ", 2<<20), "413 body: is over 1048576 bytes"),
		put("as a form", row, alone+`the content type "application/x-www-form-urlencoded" is not application/json or application/x-ndjson`, "Content-Type: application/x-www-form-urlencoded"),
		put("forwarded", row, alone+"the header X-Forwarded-For says that the request was forwarded", "X-Forwarded-For: 127.0.0.1"),
		put("for another host", row, alone+`the host "evil.example" is not localhost, 127.0.0.1 or [::1]`, "Host: evil.example"),
	}
}

func readInputs() []badInput {
	request := func(method, name, path, want string) badInput {
		return (&httpInput{method + " " + name, method, path, nil, "", want}).input()
	}
	const get, del = http.MethodGet, http.MethodDelete
	long := strings.Repeat("n", 256)
	return []badInput{
		request(del, "without a key", limitsPath, `422 gateway "": is empty`),
		request(del, "of what is not there", limitsPath+"?gateway=nobody", `404 deleting the limit (domain "", gateway "nobody", endpoint "", per ""): no such limit`),
		request(del, "by an unknown parameter", limitsPath+"?gateway=good&endpiont=kept", `422 query parameter "endpiont": is none of [domain gateway endpoint per per_seconds]`),
		request(del, "by a window of 0", limitsPath+"?gateway=good&per_seconds=0", `422 per_seconds "0": is not within 1 to 31622400`),
		request(del, "by a window that is no number", limitsPath+"?gateway=good&per_seconds=day", `422 per_seconds "day": is not within 1 to 31622400`),
		request(del, "by a parameter that comes twice", limitsPath+"?gateway=good&gateway=rest", "422 query parameter gateway: comes 2 times"),
		request(del, "by half an escape", limitsPath+"?gateway=%z", `422 query "gateway=%z": invalid URL escape "%z"`),
		request(del, "with a semicolon", limitsPath+"?gateway=good;endpoint=kept", `422 query "gateway=good;endpoint=kept": invalid semicolon separator in query`),
		request(del, "with NUL", limitsPath+"?gateway=a%00", `422 gateway "a\x00": has a control character`),
		request(del, "of invalid UTF-8", limitsPath+"?gateway=%ff", `422 gateway "\xff": is not valid UTF-8`),
		request(del, "of 256 bytes", limitsPath+"?gateway="+long, fmt.Sprintf("422 gateway %q… (256 bytes): is longer than 255 bytes", long[:64])),
		request(get, "of an unknown path", "/api/v2/limits", `404 path "/api/v2/limits": there is nothing`),
		request(get, "of a path above", "/api/v1/%2e%2e/%2e%2e/etc/passwd", `404 path "/api/v1/../../etc/passwd": there is nothing`),
		request(get, "of two domains", limitsPath+"/active?domain=a&domain=b", "422 query parameter domain: comes 2 times"),
		request(get, "of active limits by gateway", limitsPath+"/active?gateway=good", `422 query parameter "gateway": is none of [domain]`),
		request(http.MethodPatch, "a limit", limitsPath, `405 method "PATCH": /api/v1/limits takes DELETE, GET, PUT`),
		request("BREW", "coffee", limitsPath, `405 method "BREW": /api/v1/limits takes DELETE, GET, PUT`),
		request(http.MethodPost, "stats", "/api/v1/stats", `405 method "POST": /api/v1/stats takes GET`),
	}
}
