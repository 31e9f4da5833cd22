package accesslog

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// stamp is `started` as Envoy writes it, and theTime the same in a line.
var (
	stamp   = started.UTC().Format("2006-01-02T15:04:05.000Z")
	theTime = `"start_time":"` + stamp + `","duration":250`
)

// fromLine is a transaction of a request that began at `started`, took 250 ms and had the answer 200.
func fromLine(changes ...want) traffic.Transaction {
	t := traffic.Transaction{Gateway: "-", At: started.Add(took), Duration: took, StatusCode: 200, Success: true}
	for _, change := range changes {
		change(&t)
	}
	return t
}

func failed(t *traffic.Transaction) { t.Success = false }

// readLines are lines and what they mean.
func readLines() map[string]struct {
	line string
	want traffic.Transaction
} {
	type c = struct {
		line string
		want traffic.Transaction
	}
	began := func(name string, value any) c {
		return c{fmt.Sprintf(`{%q:%v,"duration":250,"response_code":200}`, name, value), fromLine()}
	}
	lasting := func(name string, value any) c {
		return c{fmt.Sprintf(`{"start_time":%q,%q:%v,"response_code":200}`, stamp, name, value), fromLine()}
	}
	ok := func(more string, changes ...want) c {
		return c{"{" + theTime + `,"response_code":200,` + more + "}", fromLine(changes...)}
	}
	code := func(more string, changes ...want) c { return c{"{" + theTime + "," + more + "}", fromLine(changes...)} }
	decision := `{"domain":"edge","gateway":"gw-main","endpoint":"pay","limit":"gw-main/pay"}`
	return map[string]c{
		"Istio": {strings.Replace(istioLine, `"start_time":"2026-09-21T12:13:14.123Z"`, `"start_time":"`+stamp+`"`, 1), fromLine(named("gw-main", "orders"), inDomain("edge"), func(t *traffic.Transaction) {
			t.At, t.Duration = started.Add(25*time.Millisecond), 25*time.Millisecond
		})},
		"Istio, TCP":                     code(`"method":null,"path":null,"protocol":null,"response_code":0,"response_flags":"-","upstream_cluster":"outbound|3306||db","route_name":null`, named("outbound|3306||db", ""), ended(0, true)),
		"of a route, and never answered": code(`"route_name":"r","response_code":0,"response_flags":"-","upstream_cluster":"app"`, named("app", "r"), ended(0, false)),
		"Envoy Gateway": code(`"method":"GET","x-envoy-origin-path":"/a","protocol":"HTTP/1.1","response_code":503,"response_flags":"UF,URX","upstream_cluster":"httproute/default/backend/rule/0","route_name":"r",":authority":"shop.test"`,
			named("httproute/default/backend/rule/0", "r"), ended(503, false)),
		"Contour":                           {`{"@timestamp":"` + stamp + `","duration":"250","response_code":"200","response_flags":"-","upstream_cluster":"default_app_80","path":"/"}`, fromLine(named("default_app_80", ""))},
		"OpenTelemetry":                     {`{"start_time":"` + stamp + `","http.server.request.duration":0.25,"http.response.status_code":200,"http.request.method":"GET","http.route":"api","server.address":"shop","rpc.grpc.status_code":0,"upstream_cluster":"app"}`, fromLine(named("app", "api"))},
		"nested as in OpenTelemetry":        code(`"http":{"response":{"status_code":200},"route":"api"},"upstream":{"cluster":"app"}`, named("app", "api")),
		"upper case and other separators":   {`{"START-TIME":"` + stamp + `","Duration":250,"ResponseCode":200,"upstream.cluster":"app","route name":"x"}`, fromLine(named("app", ""))},
		"a row of ours":                     {`{"timestamp":"` + started.Add(took).UTC().Format(time.RFC3339Nano) + `","gateway":"gw-main","endpoint":"pay","domain":"edge","duration_ms":150,"waited_ms":100,"status_code":418,"throttled":false,"success":true}`, fromLine(toPay, inDomain("edge"), ended(418, true), func(t *traffic.Transaction) { t.Duration, t.Waited = 150*time.Millisecond, 100*time.Millisecond })},
		"a row of ours, failed":             {`{"timestamp":"` + started.Add(took).UTC().Format(time.RFC3339Nano) + `","gateway":"gw-main","duration_ms":"250","status_code":"200","success":"false"}`, fromLine(named("gw-main", ""), failed)},
		"a row that claims both":            code(`"success":true,"throttled":true,"response_code":200,"timestamp":"`+started.Add(took).UTC().Format(time.RFC3339Nano)+`"`, throttled),
		"tags":                              ok(`"gateway":"gw-main","endpoint":"pay"`, toPay),
		"tags in an object":                 ok(`"custom_tags":{"gateway":"gw-main","endpoint":"pay"}`, toPay),
		"tags that found nothing":           ok(`"gateway":"-","endpoint":null,"upstream_cluster":"app","route_name":"api"`, named("app", "api")),
		"names that are no texts":           ok(`"gateway":7,"endpoint":true,"upstream_cluster":["x"],"route_name":{"x":1}`),
		"decision by its filter":            ok(`"metadata":{"envoy.filters.http.ratelimit":`+decision+`}`, toPay, inDomain("edge")),
		"decision of the network filter":    ok(`"dynamic_metadata":{"filter_metadata":{"envoy.filters.network.ratelimit":`+decision+`}}`, toPay, inDomain("edge")),
		"decision under a name of the user": ok(`"rate_limit":`+decision, toPay, inDomain("edge")),
		"decision as metadata":              ok(`"metadata":`+decision, toPay, inDomain("edge")),
		"decision in a text":                ok(`"metadata":`+fmt.Sprintf("%q", `{"envoy.filters.http.ratelimit":`+decision+`}`), toPay, inDomain("edge")),
		"decision in flat names":            ok(`"envoy.filters.http.ratelimit.gateway":"gw-main","envoy.filters.http.ratelimit:endpoint":"pay"`, toPay),
		"decision goes before tags":         ok(`"gateway":"x","endpoint":"y","ratelimit":{"gateway":"gw-main"}`, named("gw-main", "")),
		"decision that is none":             ok(`"ratelimit":null,"gateway":"gw-main"`, named("gw-main", "")),
		"a text that is no object":          ok(`"metadata":"{gateway","gateway":"gw-main"`, named("gw-main", "")),
		"held":                              ok(`"ratelimit":{"gateway":"gw-main","waited_ms":100.5}`, named("gw-main", ""), waited(took, 100500*time.Microsecond)),
		"held, by itself":                   ok(`"waited_ms":"100.5"`, waited(took, 100500*time.Microsecond)),
		"refused by the decision":           ok(`"ratelimit":{"gateway":"gw-main","throttled":true}`, named("gw-main", ""), throttled),
		"refused by itself":                 ok(`"throttled":"true"`, throttled),
		"refused by the flag":               code(`"response_code":429,"response_flags":"RL"`, ended(429, false), throttled),
		"refused by the long flag":          code(`"response_code":429,"response_flags":"RateLimited"`, ended(429, false), throttled),
		"several flags":                     ok(`"response_flags":"DI, UF"`, failed),
		"flags of no fault":                 ok(`"response_flags":"DI,RFCF,DC"`),
		"a flag that nobody knows":          ok(`"response_flags":"XYZ"`, failed),
		"a client that has left":            code(`"response_code":0,"response_flags":"DC","method":"GET"`, ended(0, false)),
		"gRPC, well":                        ok(`"grpc_status":"OK"`),
		"gRPC, failed":                      ok(`"grpc_status":"Unavailable"`, failed),
		"gRPC by number, well":              ok(`"grpc_status_number":"0"`),
		"gRPC by number, failed":            ok(`"grpc_status_number":14`, failed),
		"no gRPC":                           ok(`"grpc_status":"-"`),
		"a code beyond all":                 code(`"response_code":1e999`, ended(999, false)),
		"the better name counts":            {`{"duration_ms":9,` + theTime + `,"duration_us":7,"status_code":500,"response_code":200,"status":301}`, fromLine()},
		"the better name tells nothing":     {`{"duration":null,"duration_ms":250,"start_time":"` + stamp + `","response_code":"-","status_code":200}`, fromLine()},
		"the last of two counts":            {`{"response_code":500,"response_code":200,` + theTime + `,"gateway":"x","gateway":"gw"}`, fromLine(named("gw", ""))},
		"escapes":                           ok(`"g\u0061teway":"caf\u00e9\n","endpoint":"\ud83d\ude00\ud800"`, named("café\ufffd", "😀\ufffd")),
		"the end":                           {`{"end_time":"` + stamp + `","response_code":200,"duration":9}`, fromLine(at(started), func(t *traffic.Transaction) { t.Duration = 9 * time.Millisecond })},
		"no time":                           {`{"response_code":200,"duration":250}`, fromLine(at(receivedAt))},
		"no duration":                       {`{"response_code":200,"start_time":"` + stamp + `"}`, fromLine(waited(0, 0))},
		"a duration below zero":             {`{"response_code":200,"start_time":"` + stamp + `","duration":-5}`, fromLine(waited(0, 0))},
		"a duration beyond all":             {`{"response_code":200,"duration":1e300}`, fromLine(at(receivedAt), func(t *traffic.Transaction) { t.Duration = traffic.MaxDuration })},
		"lists":                             ok(`"a":[1,"}",{"gateway":"x"}],"_":[{"gateway":"x"}]`),
		"deep objects":                      ok(`"_":{"_":{"_":{"_":{"_":{"gateway":"gw-main","x":{"y":["}"]}}}}}}`, named("gw-main", "")),
		"objects deeper than names can be":  ok(`"_":{"_":{"_":{"_":{"_":{"_":{"gateway":"gw-main"}}}}}}`),
		"white space":                       {" \t{ " + theTime + " , \r\n \"response_code\" :\t200 } \n", fromLine()},
		"milliseconds":                      lasting("duration_ms", 250),
		"microseconds":                      lasting("duration_us", 250_000),
		"nanoseconds":                       lasting("request_duration_nanos", 250_000_000),
		"seconds":                           lasting("latency_seconds", "0.25"),
		"a duration with its unit":          lasting("duration", `"250ms"`),
		"RFC 3339":                          began("time", `"`+started.In(time.FixedZone("", 7200)).Format(time.RFC3339)+`"`),
		"a zone without a colon":            began("ts", `"`+started.In(time.FixedZone("", -5400)).Format("2006-01-02T15:04:05.000-0700")+`"`),
		"no zone":                           began("timestamp", `"`+started.UTC().Format("2006-01-02 15:04:05")+`"`),
		"brackets":                          began("start_time", `"[`+stamp+`]"`),
		"seconds since 1970":                began("start_time", started.Unix()),
		"seconds with decimals":             began("start_time", fmt.Sprintf("%d.000", started.Unix())),
		"seconds in a text":                 began("start_time", fmt.Sprintf(`"%d.000"`, started.Unix())),
		"milliseconds since 1970":           began("start_time", started.UnixMilli()),
		"microseconds since 1970":           began("start_time", started.UnixMicro()),
		"nanoseconds since 1970":            began("start_time", started.UnixNano()),
	}
}

func TestLine(t *testing.T) {
	for name, c := range readLines() {
		t.Run(name, func(t *testing.T) {
			got, counted, err := defaultMapping.Line([]byte(c.line), receivedAt)
			if err != nil || !counted {
				t.Fatalf("line %s: counted %t, error %v", c.line, counted, err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("line %s (-want +got):\n%s", c.line, diff)
			}
			assertLikeEncodingJSON(t, []byte(c.line))
		})
	}
}

// The path of a line is one as any other.
func TestLineWithAPathTemplate(t *testing.T) {
	m := must(NewMapping(MappingConfig{Gateway: []string{"authority"}, PathTemplates: []string{"/users/{id}", "POST /users/{id}"}}))
	for line, want := range map[string]string{
		`{"status":1,":authority":"Shop:80",":path":"/users/7?x"}`:                           "shop /users/{id}",
		`{"status":1,"http.host":"shop","http":{"method":"POST","target":"/users/7"}}`:       "shop POST /users/{id}",
		`{"status":1,"authority":"shop","url.full":"https://shop/users/7#x","method":"GET"}`: "shop /users/{id}",
		`{"status":1,"path":"/carts/7"}`:                                                     "- ",
	} {
		got, counted, err := m.Line([]byte(line), receivedAt)
		if names := got.Gateway + " " + got.Endpoint; err != nil || !counted || names != want {
			t.Errorf("line %s: %q, counted %t, error %v; want %q", line, names, counted, err, want)
		}
	}
}

func TestLinesThatAreOfNoRequest(t *testing.T) {
	for _, line := range []string{
		`{}`, `{"level":"info","time":"2026-09-21T00:00:00Z","msg":"all dependencies initialized"}`, `{"gateway":"gw","endpoint":"pay","path":"/"}`,
		`{"duration":1,"access_log_type":"DownstreamStart"}`, `{"duration":1,"access_log_type":5}`, `{"duration":1,"access_log_type":"TcpUpstreamConnected"}`,
		`{"duration":null,"response_code":"-"}`, `{"status":{"code":{}}}`, `{"status":[200]}`, `{"a":{"b":{"c":{"d":{"e":{"f":{"duration":1}}}}}}}`,
	} {
		if got, counted, err := defaultMapping.Line([]byte(line), receivedAt); counted || err != nil || got != (traffic.Transaction{}) {
			t.Errorf("line %s: %+v, counted %t, error %v; want nothing", line, got, counted, err)
		}
	}
	for _, kind := range []string{`"DownstreamEnd"`, `"NotSet"`, `"TcpConnectionEnd"`, `"UdpSessionEnd"`, `6`, `"3"`, `"-"`, `null`} {
		if _, counted, err := defaultMapping.Line([]byte(`{"duration":1,"access_log_type":`+kind+`}`), receivedAt); !counted || err != nil {
			t.Errorf("kind %s: counted %t, error %v; want it counted", kind, counted, err)
		}
	}
}

func TestFaultsOfLines(t *testing.T) {
	long := strings.Repeat("x", 200)
	for line, want := range map[string]string{
		"":                                           "is not JSON: unexpected end of JSON input, at byte 0 of ",
		"GET / HTTP/1.1":                             "is not JSON: invalid character 'G' looking for beginning of value, at byte 1 of GET / HTTP/1.1",
		`{"duration":1`:                              "is not JSON: unexpected end of JSON input, at byte 13 of ",
		`{"duration":1} {}`:                          "is not JSON: invalid character '{' after top-level value, at byte 16 of ",
		`[{"duration":1}]`:                           `is no JSON object: [{"duration":1}]`,
		`"` + long + `"`:                             `is no JSON object: "` + long[:63] + "…",
		`7`:                                          "is no JSON object: 7",
		"{\"duration\":\x00\n\x1b}":                  "of {\"duration\":\ufffd\ufffd\ufffd}",
		`{"duration":"slow"}`:                        `duration "slow": is not a number or a duration, at byte 13 of {"duration":"slow"}`,
		`{"duration":true}`:                          `duration true: is not a number or a duration, at byte 13 of `,
		`{"duration":1,"response_code":"x"}`:         `response_code "x": is not a number, at byte 31 of `,
		`{"status_code":-200}`:                       `status_code -200: is below 0, at byte 16 of `,
		`{"response_flags":5}`:                       `response_flags 5: is not a text, at byte 19 of `,
		`{"duration":1,"throttled":"maybe"}`:         `throttled "maybe": is not true or false, at byte 27 of `,
		`{"duration":1,"code":503}`:                  `has a duration, but no response code, response flags or success by a name that is known: {"duration":1,"code":503}`,
		`{"success":2}`:                              `success 2: is not true or false, at byte 12 of `,
		`{"duration":1,"start_time":"now"}`:          `start_time "now": is not a time after 1970, `,
		`{"duration":1,"start_time":-5}`:             `start_time -5: is not a time after 1970, `,
		`{"duration":1,"ts":1e300}`:                  `ts 1e+300: is not a time after 1970, `,
		`{"status":1,"time":99999999999}`:            `end 5138-11-16T09:46:39Z: is more than 366 days ago, or a day ahead, in {"status":1,`,
		`{"status":1,"time":"2020-01-01T00:00:00Z"}`: `end 2020-01-01T00:00:00Z: is more than 366 days ago, or a day ahead, in `,
		`{"duration":1,"ratelimit":"{\"waited_ms\":\"x\"}"}`:                `waited_ms "x": is not a number or a duration, at byte 27 of `,
		`{"Duration_MS":"` + long + `"}`:                                    `Duration_MS "` + long[:64] + `…": is not a number or a duration, at byte 16 of {"Duration_MS":"`,
		`{"response_code":"0x10"}`:                                          `response_code "0x10": is not a number`,
		`{"response_code":"inf"}`:                                           `response_code "inf": is not a number`,
		`{"duration":1,"response_code":"1_0"}`:                              `response_code "1_0": is not a number`,
		`{"http":{"response":{"status_code":"x"}}}`:                         `status_code "x": is not a number, at byte 36 of `,
		strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000): "exceeded max depth, at byte ",
	} {
		got, counted, err := defaultMapping.Line([]byte(line), receivedAt)
		if err == nil || counted || got != (traffic.Transaction{}) || !strings.Contains(err.Error(), want) {
			t.Errorf("line %.80s: counted %t, error %v; want %s", line, counted, err, want)
			continue
		}
		if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\n\r\x00") {
			t.Errorf("line %.80s: the error has %d bytes, or more than one line: %q", line, len(err.Error()), err)
		}
	}
}

func TestUnitsOfTimes(t *testing.T) {
	for n, want := range map[int64]string{
		1: "1970-01-01T00:00:01Z", 99_999_999_999: "5138-11-16T09:46:39Z", 100_000_000_000: "1973-03-03T09:46:40Z",
		99_999_999_999_999: "5138-11-16T09:46:39.999Z", 100_000_000_000_000: "1973-03-03T09:46:40Z",
		99_999_999_999_999_999: "5138-11-16T09:46:39.999999Z", 100_000_000_000_000_000: "1973-03-03T09:46:40Z", math.MaxInt64: "2262-04-11T23:47:16.854775807Z",
	} {
		if got := sinceEpoch(n).UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

// Every name is known, by one fact only, as itself and however it is written.
func TestVocabularyHasNoNameTwice(t *testing.T) {
	seen := map[string]fact{}
	for _, of := range factNames() {
		for _, name := range of.names {
			folded, ok := fold(nil, name)
			if other, twice := seen[string(folded)]; twice && other != of.fact || !ok {
				t.Errorf("name %q: folded to %q, a name of fact %d and of %d", name, folded, other, of.fact)
			}
			seen[string(folded)] = of.fact
			upper, _ := fold(nil, strings.ToUpper(name))
			if w, known := defaultMapping.vocabulary.of(upper); !known || w.fact != of.fact {
				t.Errorf("name %q: is known as one of fact %d, want %d", name, w.fact, of.fact)
			}
		}
	}
}

// The names of flags are those of the fields that have the same numbers in ALS.
func TestFlagsLikeALS(t *testing.T) {
	otherwise := map[string]string{"UnauthorizedExternalService": "unauthorized_details", "OverloadManagerTerminated": "overload_manager", "DnsResolutionFailed": "dns_resolution_failure"}
	fields := new(logpb.ResponseFlags).ProtoReflect().Descriptor().Fields()
	numbers := map[responseFlags]bool{}
	for _, f := range envoyFlags() {
		if f.bit == flagUnknown {
			continue
		}
		num := protowire.Number(0)
		for f.bit != 1<<num {
			num++
		}
		name := string(fields.ByNumber(num).Name())
		wanted, known := otherwise[f.long]
		if !known {
			wanted = f.long
		}
		a, _ := fold(nil, name)
		b, _ := fold(nil, wanted)
		if !bytes.Equal(a, b) {
			t.Errorf("flag %s %s: has the number of %s", f.short, f.long, name)
		}
		numbers[f.bit] = true
	}
	if len(numbers) != fields.Len() {
		t.Errorf("%d flags, want the %d of ALS", len(numbers), fields.Len())
	}
}

// assertLikeEncodingJSON compares with what the tokens of encoding/json tell.
func assertLikeEncodingJSON(tb testing.TB, line []byte) {
	tb.Helper()
	if !utf8.Valid(line) {
		return // the library replaces bytes that Clean would replace later
	}
	var e, want entry
	ofRequest, err := defaultMapping.readLine(line, &e)
	f := facts{vocabulary: &defaultMapping.vocabulary}
	d := json.NewDecoder(bytes.NewReader(line))
	d.UseNumber()
	if token, _ := d.Token(); token != json.Delim('{') || !json.Valid(line) {
		if err == nil {
			tb.Errorf("line %s: no error, though it is no object", line)
		}
		return
	}
	tokensTell(tb, d, &f, nil, 0)
	errWant := errors.Join(f.entry(&want), f.outcomeNamed())
	if ofRequest != (f.ofRequest() && errWant == nil) || ofRequest && e != want {
		tb.Errorf("line %s: of a request %t, %v; encoding/json has %t, %v (-encoding/json +own):\n%s", line, ofRequest, err, f.ofRequest(), errWant, cmp.Diff(want, e, exactly))
	}
}

// tokensTell tells the members of the object that d is in.
func tokensTell(tb testing.TB, d *json.Decoder, f *facts, path []byte, depth int) {
	tb.Helper()
	for d.More() {
		key := must(d.Token()).(string)
		path, ok := fold(bytes.Clone(path), key)
		switch v := must(d.Token()).(type) {
		case json.Delim:
			if v == '{' && ok && depth < mostNested {
				tokensTell(tb, d, f, path, depth+1)
				continue
			}
			tellIf(ok, f, path, scalar{})
			for level := 1; level > 0; {
				switch must(d.Token()) {
				case json.Delim('{'), json.Delim('['):
					level++
				case json.Delim('}'), json.Delim(']'):
					level--
				}
			}
		case nil:
			tellIf(ok, f, path, scalar{})
		case string:
			tellIf(ok, f, path, textScalar(v))
		case bool:
			tellIf(ok, f, path, truthScalar(v))
		case json.Number:
			n, _ := v.Float64()
			s := floatScalar(n)
			if whole, err := v.Int64(); err == nil {
				s = wholeScalar(whole)
			}
			tellIf(ok, f, path, s)
		}
	}
	if _, err := d.Token(); err != nil {
		tb.Fatal(err)
	}
}

func tellIf(ok bool, f *facts, path []byte, s scalar) {
	if ok {
		f.tell(path, "", s, 0)
	}
}

func FuzzLine(f *testing.F) {
	for _, c := range readLines() {
		f.Add([]byte(c.line))
	}
	for _, line := range []string{
		"", "{", `{"a":[]}`, `{"a":{"b":[{"c":"]}"}]}}`, `{"duration":1,"\ud800":"\udc00"}`, "{\"duration\":1,\"gateway\":\"\xff\"}", `{"duration":-0.0,"start_time":1e10}`, `[]`,
		`{"duration":1,"status":null}`, `{"duration":1,"status":[1]}`, `{"duration":1,"response_flags":"-"}`,
	} {
		f.Add([]byte(line))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, counted, err := defaultMapping.Line(line, receivedAt)
		switch {
		case counted && err != nil:
			t.Errorf("line %q: counted, and error %v", line, err)
		case counted:
			assertStorable(t, got)
		case got != traffic.Transaction{}:
			t.Errorf("line %q: not counted, and yet %+v", line, got)
		}
		if err != nil && (len(err.Error()) > 500 || strings.ContainsAny(err.Error(), "\n\r")) {
			t.Errorf("line %q: its error has %d bytes, or several lines: %q", line, len(err.Error()), err)
		}
		assertLikeEncodingJSON(t, line)
	})
}
