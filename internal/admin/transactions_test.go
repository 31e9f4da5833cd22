package admin_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// keeper keeps what the API takes, as the recorder does.
type keeper struct {
	recorded []traffic.Transaction
	received []traffic.Batch
	next     map[traffic.Source]int64
	full     bool
	err      error
}

func (k *keeper) Record(ts []traffic.Transaction) bool {
	k.recorded = append(k.recorded, ts...)
	return !k.full
}

func (k *keeper) Receive(ctx context.Context, b traffic.Batch) (int, error) {
	if _, bounded := ctx.Deadline(); !bounded {
		return 0, errors.New("may take for ever")
	}
	k.received = append(k.received, b)
	if k.err != nil {
		return 0, k.err
	}
	if k.next == nil {
		k.next = make(map[traffic.Source]int64)
	}
	fresh := b.From(k.next[b.Source])
	k.next[b.Source] = b.Next()
	return len(fresh.Transactions), nil
}

// line reads a line as a stand-in for package accesslog: "ok NAME" is counted, "start" is not.
func (k *keeper) line(line []byte) (t traffic.Transaction, counted bool, err error) {
	switch name, ok := strings.CutPrefix(string(line), "ok "); {
	case ok:
		return traffic.Transaction{Gateway: name}, true, nil
	case string(line) == "start":
		return t, false, nil
	}
	return t, false, fmt.Errorf("%q\nis no entry", line)
}

func (k *keeper) handler(cfg admin.Config) http.Handler {
	return admin.New(cfg, admin.Deps{
		Record: k.Record, Receive: k.Receive, Line: k.line,
		Gatherer: prometheus.NewRegistry(), JSON: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler),
	})
}

func (k *keeper) start(tb testing.TB) *server {
	tb.Helper()
	s := &server{logs: new(testenv.Logs)}
	s.serve(tb, k.handler(admin.Config{}), "127.0.0.1:0")
	return s
}

const (
	ndjson = "application/x-ndjson"
	path   = "/api/v1/transactions"
)

func post(query, kind, body string) request {
	return request{method: http.MethodPost, path: path + query, body: body, header: map[string]string{"Content-Type": kind}}
}

func (r request) with(name, value string) request {
	r.header[name] = value
	return r
}

func zipped(tb testing.TB, texts ...string) string {
	tb.Helper()
	var b bytes.Buffer
	for _, text := range texts { // each is a member of its own, which is as good as one of all
		w := gzip.NewWriter(&b)
		_, err := io.WriteString(w, text)
		if err := errors.Join(err, w.Close()); err != nil {
			tb.Fatal(err)
		}
	}
	return b.String()
}

const (
	one   = `{"gateway":"a","timestamp":"2026-01-02T03:04:05Z","duration_ms":1.5}`
	two   = `{"gateway":"b","timestamp":"2026-01-02T03:04:05Z","throttled":true}`
	stale = `{"gateway":"a","timestamp":"2001-01-02T03:04:05Z"}`
)

// at is the time of one and two, moved to where it can be believed.
func fresh(text string) string {
	return strings.ReplaceAll(text, "2026-01-02T03:04:05Z", time.Now().Add(-time.Hour).UTC().Format(time.RFC3339))
}

func TestTransactionsAreTaken(t *testing.T) {
	for name, r := range map[string]request{
		"an array":                  post("", "application/json", " [ "+one+" , "+two+" ] "),
		"an array by its name":      post("", "application/json; charset=utf-8", `{ "transactions" : [`+one+","+two+"] } \n"),
		"NDJSON":                    post("", ndjson, one+"\n"+two+"\n"),
		"NDJSON with blank lines":   post("", ndjson, "\n \r\n"+one+"\r\n\n\t\n"+two),
		"an array, gzip":            post("", "application/json", "["+one+","+two+"]").with("Content-Encoding", "gzip"),
		"NDJSON, gzip, two members": post("", ndjson, one+"\n"+two).with("Content-Encoding", "X-GZIP"),
		"no encoding":               post("", ndjson, one+"\n"+two).with("Content-Encoding", "identity"),
	} {
		k := &keeper{}
		if r.body = fresh(r.body); strings.Contains(name, "gzip") {
			r.body = zipped(t, r.body[:20], r.body[20:])
		}
		if got := k.start(t).do(t, r); got.code != http.StatusOK || got.body != `{"accepted":2,"duplicate":false}`+"\n" {
			t.Errorf("%s: %+v", name, got)
		}
		if len(k.recorded) != 2 || k.recorded[0].Gateway != "a" || k.recorded[0].Duration != 1500*time.Microsecond || !k.recorded[1].Throttled || len(k.received) > 0 {
			t.Errorf("%s: recorded %+v, received %+v", name, k.recorded, k.received)
		}
	}
	k := &keeper{}
	s := k.start(t)
	s.do(t, post("", "application/json", `{"gateway":"c"}`)).want(t, http.StatusOK, `{"accepted":1,"duplicate":false}`)
	if len(k.recorded) != 1 || k.recorded[0].Gateway != "c" || time.Since(k.recorded[0].At).Abs() > time.Minute || !k.recorded[0].Success {
		t.Errorf("of one that says nothing but its gateway there is %+v", k.recorded)
	}
	for kind, body := range map[string]string{"application/json": "[]", ndjson: "\n\n"} {
		s.do(t, post("", kind, body)).want(t, http.StatusOK, `{"accepted":0,"duplicate":false}`)
		s.do(t, post("", kind, body).with("Idempotency-Key", "k")).want(t, http.StatusOK, `{"accepted":0,"duplicate":false}`)
	}
	if len(k.recorded) != 1 || len(k.received) > 0 {
		t.Errorf("of nothing there is %+v, %+v", k.recorded, k.received)
	}
}

// Where anything is wrong, nothing is taken.
func TestTransactionsAreRefused(t *testing.T) {
	const kind = "application/json"
	k := &keeper{}
	s := k.start(t)
	for _, c := range []struct {
		request request
		code    int
		detail  string
	}{
		{post("", kind, " \n"), 400, "body: is empty"},
		{post("", kind, "["), 400, "body: unexpected EOF"},
		{post("", kind, "["+one), 400, "body: unexpected EOF"},
		{post("", kind, "["+one+" "+two+"]"), 400, "body: is not JSON: at byte"},
		{post("", kind, "["+one+"}"), 400, "body: is not JSON: at byte"},
		{post("", kind, "["+one+",]"), 400, "body: is not JSON: at byte"},
		{post("", kind, one+two), 400, "body: has more than one JSON value"},
		{post("", kind, "["+one+"] x"), 400, "body: is not JSON: at byte"},
		{post("", kind, `{"transactions":[`+one+`]`), 400, "body: unexpected EOF"},
		{post("", kind, "7"), 422, "transaction 7: is no JSON object"},
		{post("", kind, "["+one+`,{"gateway":"b","duration_ms":-1}]`), 422, "transactions[1]: duration_ms -1: is not within 0 to 31622400000"},
		{post("", kind, `{"transactions":[`+one+`,{}]}`), 422, `transactions[1]: gateway "": is missing`},
		{post("", kind, `{"transactions":{}}`), 422, "transactions {}: is no JSON array"},
		{post("", kind, `{"transactions" : null}`), 422, "transactions null: is no JSON array"},
		{post("", kind, `{"transactions":[],"gateway":"a"}`), 422, `field "gateway": is not known beside transactions`},
		{post("", kind, `{"gateway":"a","transactions":[]}`), 422, `field "transactions": is no column of a transaction`},
		{post("", kind, `{"gateway":7,"success":8}`), 422, "gateway 7: is no text; success 8: is not true or false"},
		{post("", kind, stale), 422, `timestamp "2001-01-02T03:04:05Z": is more than 366 days ago, or a day ahead`},
		{post("", ndjson, one+"\n\n"+`{"gateway":""}`), 422, `line 3: gateway "": is empty`},
		{post("", ndjson, one+"\n{"), 400, "line 2: is not JSON: at byte 1"},
		{post("", ndjson, one+" "+two), 400, "line 1: is not JSON"},
		{post("", ndjson, "["+one+"]"), 422, "line 1: transaction [" + one[:20]},
		{post("", ndjson, one+"\n"+strings.Repeat(" ", 1<<20)+"{"), 413, "body: is over 1048576 bytes"},
		{post("", "text/plain", one), 403, `the content type "text/plain" is not application/json or application/x-ndjson`},
		{request{method: http.MethodPost, path: path}, 415, `the content type "" is not application/json or application/x-ndjson`},
		{post("", kind, one).with("Content-Encoding", "br"), 415, `the content encoding "br" is not gzip`},
		{post("", kind, one).with("Content-Encoding", "gzip, gzip"), 415, `the content encoding "gzip, gzip" is not gzip`},
		{post("", kind, one).with("Content-Encoding", "gzip"), 400, "body: is not gzip"},
		{post("", ndjson, zipped(t, one)[:20]).with("Content-Encoding", "gzip"), 400, "body: unexpected EOF"},
		{post("", ndjson, spoiled(zipped(t, fresh(one)))).with("Content-Encoding", "gzip"), 400, "body: gzip: invalid checksum"},
		{post("", kind, spoiled(zipped(t, fresh(one)))).with("Content-Encoding", "gzip"), 400, "body: gzip: invalid checksum"},
		{post("", ndjson, zipped(t, fresh(one))+"x").with("Content-Encoding", "gzip"), 400, "body: "},
		{post("?format=xml", kind, one), 422, `format "xml": is not access-log`},
		{post("?format=access-log", kind, one), 422, `format "access-log": goes with the content type application/x-ndjson only`},
		{post("?frist=1", kind, one), 422, `query parameter "frist"`},
		{post("", kind, one).with("Idempotency-Key", ""), 422, `header Idempotency-Key "": is not 1 to 255 printable characters`},
		{post("", kind, one).with("Idempotency-Key", strings.Repeat("k", 256)), 422, "is not 1 to 255 printable characters"},
		{post("", kind, one).with("Idempotency-Key", "kéy"), 422, `header Idempotency-Key "kéy": is not`},
		{post("?server=s&run=r", ndjson, one), 422, `first "": is not within 0 to`},
		{post("?server=s&first=0", ndjson, one), 422, `run "": is not 1 to 259 bytes of text`},
		{post("?run=r&first=0", ndjson, one), 422, `server "": is not 1 to 255 bytes of text`},
		{post("?server=s&run=r&first=-1", ndjson, one), 422, `first "-1": is not within 0 to`},
		{post("?server=s&run=r&first=9223372036854775807", ndjson, one), 422, `first "9223372036854775807": is not within 0 to`},
		{post("?server=s&run=r&first=1.5", ndjson, one), 422, `first "1.5": is not within 0 to`},
		{post("?server=%ff&run=r&first=0", ndjson, one), 422, `server "\xff": is not 1 to 255 bytes of text`},
		{post("?server=s&run=a%0ab&first=0", ndjson, one), 422, `run "a\nb": is not 1 to 259 bytes of text`},
		{post("?server=s&run=r&first=0&format=access-log", ndjson, one), 422, "with them goes no Idempotency-Key and no format"},
		{post("?server=s&run=r&first=0", ndjson, one).with("Idempotency-Key", "k"), 422, "with them goes no Idempotency-Key and no format"},
	} {
		t.Run(fmt.Sprintf("%.40q", c.request.path+c.request.body), func(t *testing.T) {
			c.request.body = fresh(c.request.body)
			if s.do(t, c.request).wantProblem(t, c.code, fresh(c.detail)); len(k.recorded)+len(k.received) > 0 {
				t.Errorf("recorded %+v, received %+v", k.recorded, k.received)
				k.recorded, k.received = nil, nil
			}
		})
	}
	twice := post("", kind, one)
	r := httptest.NewRequestWithContext(t.Context(), twice.method, "http://localhost"+path, strings.NewReader(one))
	r.RemoteAddr, r.Header = "127.0.0.1:9", http.Header{"Content-Type": {kind}, "Idempotency-Key": {"a", "b"}}
	w := httptest.NewRecorder()
	if k.handler(admin.Config{}).ServeHTTP(w, r); w.Code != http.StatusUnprocessableEntity || !strings.Contains(w.Body.String(), "header Idempotency-Key: comes 2 times") {
		t.Errorf("two keys: %d %s", w.Code, w.Body)
	}
}

// spoiled is a gzip with another checksum.
func spoiled(text string) string {
	b := []byte(text)
	b[len(b)-8] ^= 1
	return string(b)
}

func TestTransactionsWithAKey(t *testing.T) {
	k := &keeper{}
	s := k.start(t)
	body := fresh("[" + one + "," + two + "]")
	send := func() reply {
		return s.do(t, post("", "application/json", body).with("Idempotency-Key", "order 66"))
	}
	send().want(t, http.StatusOK, `{"accepted":2,"duplicate":false}`)
	send().want(t, http.StatusOK, `{"accepted":0,"duplicate":true}`)
	body = fresh("[" + one + "," + two + "," + one + "]")
	send().want(t, http.StatusOK, `{"accepted":1,"duplicate":false}`)
	if b := k.received[0]; b.Source != (traffic.Source{Server: "api", Run: "key:order 66"}) || b.First != 0 || len(b.Transactions) != 2 || b.Transactions[1].Gateway != "b" || len(k.recorded) > 0 {
		t.Errorf("received %+v, recorded %+v", k.received, k.recorded)
	}
}

func TestTransactionsOfAnotherServer(t *testing.T) {
	k := &keeper{}
	s := k.start(t)
	longest := "key:" + strings.Repeat("k", 255)
	for range 2 {
		s.do(t, post("?server=edge%201&run="+longest+"&first=7", ndjson, fresh(one+"\n"+two)))
	}
	want := traffic.Source{Server: "edge 1", Run: longest}
	if len(k.received) != 2 || k.received[0].Source != want || k.received[0].First != 7 || len(k.received[0].Transactions) != 2 {
		t.Errorf("received %+v", k.received)
	}
	// Its clock may be wrong: what it has recorded is not lost.
	s.do(t, post("?server=edge&run=r&first=0", ndjson, stale)).want(t, http.StatusOK, `{"accepted":1,"duplicate":false}`)
	if got := k.received[2].Transactions[0].At; time.Since(got).Abs() > time.Minute {
		t.Errorf("what it has recorded long ago has the time %s, want now", got)
	}
	many := strings.Repeat(`{"gateway":"a"}`+"\n", 10_001)
	s.do(t, post("?server=edge&run=s&first=0", ndjson, many)).wantProblem(t, http.StatusRequestEntityTooLarge, "line 10001: has too many transactions: at most 10000 are taken at once")
	s.do(t, post("?server=edge&run=s&first=0", ndjson, many[:len(many)/10_001*10_000])).want(t, http.StatusOK, `"accepted":10000,`)
}

func TestAccessLogIsTaken(t *testing.T) {
	k := &keeper{}
	s := k.start(t)
	const log = "ok a\nstart\n\nbad\nok b\r\nstart\n"
	s.do(t, post("?format=access-log", ndjson, log)).want(t, http.StatusOK, `{"accepted":2,"duplicate":false,"ignored":2,"malformed":1,"errors":["line 4: \"bad\"; is no entry"]}`)
	if len(k.recorded) != 2 || k.recorded[1].Gateway != "b" {
		t.Errorf("recorded %+v", k.recorded)
	}
	for _, want := range []string{`{"accepted":2,"duplicate":false,"ignored":2,`, `{"accepted":0,"duplicate":true,"ignored":2,`} {
		s.do(t, post("?format=access-log", ndjson, log).with("Idempotency-Key", "k")).want(t, http.StatusOK, want)
	}
	s.do(t, post("?format=access-log", ndjson, "ok a")).want(t, http.StatusOK, `{"accepted":1,"duplicate":false,"ignored":0,"malformed":0,"errors":[]}`)

	got := s.do(t, post("?format=access-log", ndjson, strings.Repeat(strings.Repeat("x", 300)+"\n", 12)))
	var answer struct {
		Malformed int
		Errors    []string
	}
	if err := json.Unmarshal([]byte(got.body), &answer); err != nil || answer.Malformed != 12 || len(answer.Errors) != 10 || len(answer.Errors[9]) > 250 {
		t.Errorf("%v: %s", err, got.body)
	}
	long := zipped(t, "ok a\n"+strings.Repeat("x", 1<<20+1)+"\nok b")
	s.do(t, post("?format=access-log", ndjson, long).with("Content-Encoding", "gzip")).want(t, http.StatusOK, `"errors":["line 2: is longer than a line may be"]`)
	if n := len(k.recorded); n != 5 {
		t.Errorf("recorded %d, want 5", n)
	}
	lines := zipped(t, strings.Repeat("start\n", 100_001))
	s.do(t, post("?format=access-log", ndjson, lines).with("Content-Encoding", "gzip")).wantProblem(t, http.StatusRequestEntityTooLarge, "line 100001: has too many transactions: at most 100000 lines are taken at once")
}

func TestTransactionsThatCannotBeStored(t *testing.T) {
	body := fresh(one)
	plain := post("", "application/json", body)
	keyed := post("", "application/json", body).with("Idempotency-Key", "k")
	for _, c := range []struct {
		keeper  keeper
		request request
		code    int
		detail  string
	}{
		{keeper{full: true}, plain, 503, "there is no room for transactions at this moment"},
		{keeper{err: errors.New("storing: no database")}, keyed, 503, "storing: no database"},
		{keeper{err: fmt.Errorf("storing: %w", &traffic.RefusedError{Err: errors.New("such rows are not taken")})}, keyed, 422, "storing: such rows are not taken"},
	} {
		got := c.keeper.start(t).do(t, c.request)
		got.wantProblem(t, c.code, c.detail)
		if after := got.header.Get("Retry-After"); (after == "1") != (c.code == http.StatusServiceUnavailable) {
			t.Errorf("%s: Retry-After is %q", c.detail, after)
		}
	}
}

// However small a body was made, what it costs is bounded.
func TestTransactionsThatUnpackToTooMuch(t *testing.T) {
	k := &keeper{}
	s := k.start(t)
	const much = 34 << 20
	for name, c := range map[string]struct {
		kind, start, repeated, detail string
	}{
		"blank lines":          {ndjson, "", strings.Repeat(" ", 15) + "\n", "body: is over 33554432 bytes unpacked"},
		"one line":             {ndjson, "", " ", "body: is over 33554432 bytes unpacked"},
		"one text":             {"application/json", `{"gateway":"`, "a", "body: is over 33554432 bytes unpacked"},
		"one array":            {"application/json", `[`, "[", "body: "},
		"transactions":         {ndjson, "", `{"gateway":"a"}` + "\n", "has too many transactions: at most 100000 are taken at once"},
		"transactions in JSON": {"application/json", "[" + `{"gateway":"a"}`, `,{"gateway":"a"}`, "has too many transactions: at most 100000 are taken at once"},
	} {
		packed := bomb(t, c.start, c.repeated, much)
		if len(packed) > 1<<20 {
			t.Fatalf("%s: %d bytes are sent", name, len(packed))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := s.do(t, post("", c.kind, packed).with("Content-Encoding", "gzip"))
		runtime.ReadMemStats(&after)
		if got.code != http.StatusRequestEntityTooLarge && name != "one array" || !strings.Contains(got.body, c.detail) || got.code == http.StatusOK {
			t.Errorf("%s: %d %s, want 413 %s", name, got.code, got.body, c.detail)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
	}
	if len(k.recorded) > 0 {
		t.Errorf("%d were recorded", len(k.recorded))
	}
}

func bomb(tb testing.TB, start, repeated string, size int) string {
	tb.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.WriteString(z, start)
	const at = 1 << 16
	for chunk := strings.Repeat(repeated, at); size > 0 && err == nil; size -= len(chunk) {
		_, err = io.WriteString(z, chunk)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

func TestTransactionsThatDoNotArrive(t *testing.T) {
	k := &keeper{}
	s := &server{logs: new(testenv.Logs)}
	s.serve(t, k.handler(admin.Config{BodyTimeout: 50 * time.Millisecond}), "127.0.0.1:0")
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: %s\r\nContent-Length: 100\r\n\r\n%s", path, ndjson, "{")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusRequestTimeout {
		t.Errorf("the answer is %d, want 408", resp.StatusCode)
	}
}

// FuzzTransactions: a body is taken if and only if each of its parts is a transaction, and then all are.
func FuzzTransactions(f *testing.F) {
	for _, seed := range []string{
		"[]", "[" + one + "," + two + "]", `{"transactions":[` + one + `]}`, `{"transactions":[` + one + `],"a":1}`, one, one + "\n" + two, "\n\r\n" + one + "\r\n", "[" + one, `[[{"gateway":"}"}]]`, "{\"transactions\" :\n[] } ", "null", "{}x", "[]]",
	} {
		f.Add([]byte(fresh(seed)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for kind, oracle := range map[string]func([]byte) (parts [][]byte, ok bool){"application/json": partsOfJSON, ndjson: partsOfLines} {
			k := &keeper{}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path, bytes.NewReader(body))
			r.RemoteAddr, r.Header = "127.0.0.1:9", http.Header{"Content-Type": {kind}}
			w := httptest.NewRecorder()
			k.handler(admin.Config{}).ServeHTTP(w, r)
			if len(body) == 0 {
				continue // without a body there is no type
			}
			var want []traffic.Transaction
			parts, ok := oracle(body)
			for _, part := range parts {
				x, err := traffic.ParseJSON(part, time.Now())
				ok = ok && err == nil
				want = append(want, x)
			}
			if (w.Code == http.StatusOK) != ok || (kind != ndjson && w.Code == http.StatusBadRequest && json.Valid(body)) {
				t.Fatalf("%s %q: %d %s; that it is good is %v", kind, body, w.Code, w.Body, ok)
			}
			near := cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute })
			if diff := cmp.Diff(want, k.recorded, near); ok && diff != "" {
				t.Fatalf("%s %q (-want +got):\n%s", kind, body, diff)
			} else if !ok && len(k.recorded) > 0 {
				t.Fatalf("%s %q: recorded %+v", kind, body, k.recorded)
			}
		}
	})
}

func partsOfLines(body []byte) (parts [][]byte, ok bool) {
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		if len(bytes.TrimSpace(line)) > 0 {
			parts = append(parts, line)
		}
	}
	return parts, true
}

func partsOfJSON(body []byte) (parts [][]byte, ok bool) {
	if !json.Valid(body) {
		return nil, false
	}
	var list []json.RawMessage
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) == nil && len(members) == 1 && len(members["transactions"]) > 0 {
		body = members["transactions"]
		if body[0] != '[' {
			return nil, false
		}
	}
	if bytes.TrimLeft(body, " \t\r\n")[0] != '[' {
		return [][]byte{body}, true
	}
	if json.Unmarshal(body, &list) != nil {
		return nil, false
	}
	for _, raw := range list {
		parts = append(parts, raw)
	}
	return parts, true
}

func BenchmarkTransactions(b *testing.B) {
	at := time.Now()
	var body []byte
	const n = 10_000
	for i := range n {
		x := traffic.Transaction{Domain: "edge", Gateway: "payments", Endpoint: "/orders/{id}", At: at.Add(time.Duration(i)), Duration: 25*time.Millisecond + time.Duration(i)*time.Microsecond, StatusCode: 200, Success: true}
		body = append(traffic.AppendJSON(body, &x), '\n')
	}
	packed := zipped(b, string(body))
	k := &keeper{}
	h := k.handler(admin.Config{})
	b.ReportAllocs()
	for b.Loop() {
		k.received = k.received[:0]
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "http://localhost"+path+"?server=s&run=r&first=0", strings.NewReader(packed))
		r.RemoteAddr, r.Header = "127.0.0.1:9", http.Header{"Content-Type": {ndjson}, "Content-Encoding": {"gzip"}}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/transaction")
	b.ReportMetric(float64(len(packed))/n, "B/transaction")
}
