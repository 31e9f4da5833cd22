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
	"strings"
	"testing"
	"time"

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

func (k *keeper) Offer(_ context.Context, ts []traffic.Transaction) error {
	if k.full {
		return errors.New("there is no room")
	}
	if len(ts) > 50_000 {
		return tooManyError{}
	}
	k.recorded = append(k.recorded, ts...)
	return nil
}

// tooManyError is as the recorder has it.
type tooManyError struct{}

func (tooManyError) Error() string { return "more than there is ever room for" }

func (tooManyError) TooMany() bool { return true }

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
		Offer: k.Offer, Receive: k.Receive, Line: k.line,
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
		"JSON lines":                post("", "application/jsonl; charset=utf-8", one+"\n"+two),
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
	if b := k.received[0]; b.Source != (traffic.Source{Run: "key:order 66"}) || b.First != 0 || len(b.Transactions) != 2 || b.Transactions[1].Gateway != "b" || len(k.recorded) > 0 {
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
		{keeper{full: true}, plain, 503, "there is no room"},
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
