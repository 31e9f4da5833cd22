package collector_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/collector"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const token = "s3cret"

// central is a collector: the real API over a store in memory.
type central struct {
	mu     sync.Mutex
	stored []traffic.Transaction
	next   map[traffic.Source]int64
	asked  int
	err    error // of the store
}

func (c *central) receive(_ context.Context, b traffic.Batch) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked++; c.err != nil {
		return 0, c.err
	}
	if c.next == nil {
		c.next = make(map[traffic.Source]int64)
	}
	fresh := b.From(c.next[b.Source])
	c.next[b.Source] = b.Next()
	c.stored = append(c.stored, fresh.Transactions...)
	return len(fresh.Transactions), nil
}

func (c *central) handler(tb testing.TB) http.Handler {
	tb.Helper()
	tokens, err := admin.ParseTokens("write:" + token + ",read:reader")
	if err != nil {
		tb.Fatal(err)
	}
	return admin.New(admin.Config{Tokens: tokens}, admin.Deps{
		Receive:  c.receive,
		Gatherer: prometheus.NewRegistry(), JSON: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler),
	})
}

func serve(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL
}

func connect(tb testing.TB, cfg collector.Config) *collector.Client {
	tb.Helper()
	if cfg.Token == "" {
		cfg.Token = token
	}
	c, err := collector.New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

// batch holds n transactions from an offset on.
func batch(first int64, n int) traffic.Batch {
	b := traffic.Batch{Source: traffic.Source{Server: "edge 1/ö", Run: "run&1"}, First: first}
	at := time.Now().UTC().Add(-time.Hour)
	for i := range n {
		t := traffic.Transaction{
			Gateway: "shop", Endpoint: fmt.Sprintf("/%d", first+int64(i)), At: at.Add(time.Duration(i)), Duration: time.Duration(i)*time.Millisecond + 1, StatusCode: 200, Success: true,
		}
		if i%3 == 1 {
			t = traffic.Transaction{Domain: `a"\b`, Gateway: "-", At: at, Waited: time.Duration(i) * time.Microsecond, Throttled: true, StatusCode: 429}
		}
		b.Transactions = append(b.Transactions, t)
	}
	return b
}

func TestBatchesAreStoredOnce(t *testing.T) {
	var c central
	client := connect(t, collector.Config{URL: serve(t, c.handler(t))})
	whole := batch(0, 300)
	write := func(b traffic.Batch, want int) {
		t.Helper()
		if fresh, err := client.Write(t.Context(), b); fresh != want || err != nil {
			t.Fatalf("offsets %d to %d: %d new, %v; want %d", b.First, b.Next(), fresh, err, want)
		}
	}
	write(traffic.Batch{Source: whole.Source}, 0)
	first := whole
	first.Transactions = whole.Transactions[:200]
	write(first, 200)
	write(first, 0)
	write(whole.From(100), 100)
	other := batch(0, 1)
	other.Run = "run&2"
	write(other, 1)
	if diff := cmp.Diff(append(whole.Transactions, other.Transactions...), c.stored); diff != "" {
		t.Errorf("-sent +stored:\n%s", diff)
	}
	if want := map[traffic.Source]int64{{Server: "edge 1/ö", Run: "run&1"}: 300, {Server: "edge 1/ö", Run: "run&2"}: 1}; !cmp.Equal(c.next, want) {
		t.Errorf("sources %v, want %v", c.next, want)
	}
}

// What the other side has stored before the connection broke is not stored again.
func TestAnswersThatGetLost(t *testing.T) {
	var c central
	api := c.handler(t)
	var cut atomic.Bool // the first answer has been
	client := connect(t, collector.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cut.Swap(true) {
			api.ServeHTTP(w, r)
			return
		}
		api.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}))})
	b := batch(7, 10)
	if fresh, err := client.Write(t.Context(), b); err == nil || refused(err) {
		t.Fatalf("%d new, %v; want an error after which it is tried again", fresh, err)
	}
	fresh, err := client.Write(t.Context(), b)
	if fresh != 0 || err != nil || len(c.stored) != 10 {
		t.Errorf("sent again: %d new, %v; %d are stored", fresh, err, len(c.stored))
	}
}

func refused(err error) bool {
	_, is := errors.AsType[*traffic.RefusedError](err)
	return is
}

func TestAnswersThatAreNoSuccess(t *testing.T) {
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "http://elsewhere/x")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	var away, refuses, ok central
	away.err, refuses.err = errors.New("no database"), &traffic.RefusedError{Err: errors.New("no such rows")}
	for name, c := range map[string]struct {
		handler http.Handler
		token   string
		refused bool
		want    string
	}{
		"a store that is away":     {away.handler(t), "", false, "it answered 503 Service Unavailable: no database"},
		"a store that refuses":     {refuses.handler(t), "", true, "it answered 422 Unprocessable Entity: no such rows"},
		"another token":            {ok.handler(t), "wrong", false, "it answered 401 Unauthorized: the token is none of TPS_API_TOKENS"},
		"a token that reads":       {ok.handler(t), "reader", false, "it answered 403 Forbidden: the token's role is read"},
		"an older ratelimitd":      {answer(404, `{"detail":"path: there is nothing"}`), "", false, "it answered 404 Not Found: path: there is nothing"},
		"a bad request":            {answer(400, `{"detail":"line 1: is not JSON"}`), "", true, "it answered 400 Bad Request: line 1: is not JSON"},
		"too large":                {answer(413, "nginx"), "", true, "it answered 413 Request Entity Too Large"},
		"gzip refused":             {answer(415, `{"detail":"the content encoding is not known"}`), "", false, "it answered 415 Unsupported Media Type: the content encoding"},
		"a redirect":               {answer(307, ""), "", false, "it answered 307 Temporary Redirect: it points to http://elsewhere/x, which is not followed"},
		"a page":                   {answer(200, "<html>"), "", false, "reading the answer: invalid character '<'"},
		"another service":          {answer(200, `{"ok":true}`), "", false, `the answer is not that of a ratelimitd: {"ok":true}`},
		"too many":                 {answer(200, `{"accepted":4}`), "", false, `the answer is not that of a ratelimitd: {"accepted":4}`},
		"fewer than none":          {answer(200, `{"accepted":-1}`), "", false, "the answer is not that of a ratelimitd"},
		"no content":               {answer(204, ""), "", false, "it answered 204 No Content"},
		"a proxy's error":          {answer(502, "upstream"), "", false, "it answered 502 Bad Gateway"},
		"a long reason":            {answer(500, `{"detail":"`+strings.Repeat("ö", 1000)+`"}`), "", false, "it answered 500 Internal Server Error: " + strings.Repeat("ö", 150) + "…"},
		"an answer without an end": {http.HandlerFunc(endless), "", false, "reading the answer: "},
		"half an answer": {http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, `{"accepted":3`)
		}), "", false, "reading the answer: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, c.handler)
			fresh, err := connect(t, collector.Config{URL: url, Token: c.token}).Write(t.Context(), batch(0, 3))
			want := "sending 3 transactions to the collector " + strings.TrimPrefix(url, "http://") + ": " + c.want
			if fresh != 0 || err == nil || !strings.Contains(err.Error(), want) || refused(err) != c.refused || len(err.Error()) > 500 {
				t.Errorf("%d new, refused %v, %v; want %v, %s", fresh, refused(err), err, c.refused, want)
			}
		})
	}
}

// endless sends white space for as long as somebody listens.
func endless(w http.ResponseWriter, _ *http.Request) {
	for _, err := io.WriteString(w, " "); err == nil; {
		_, err = w.Write(bytes.Repeat([]byte{' '}, 1<<16))
	}
}

func TestServersThatHang(t *testing.T) {
	hangs := make(chan struct{})
	url := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hangs }))
	defer close(hangs)
	_, err := connect(t, collector.Config{URL: url, Timeout: 50 * time.Millisecond}).Write(t.Context(), batch(0, 3))
	if timeout, ok := errors.AsType[interface {
		error
		Timeout() bool
	}](err); !ok || !timeout.Timeout() || refused(err) {
		t.Errorf("got %v, want a timeout", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := connect(t, collector.Config{URL: url}).Write(ctx, batch(0, 3)); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want that it was canceled", err)
	}
	if _, err := connect(t, collector.Config{URL: "http://127.0.0.1:1"}).Write(t.Context(), batch(0, 3)); err == nil || refused(err) || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("where nobody listens: %v", err)
	}
}

// One connection is used again and again, but not after an error.
func TestConnections(t *testing.T) {
	var c central
	api, fail := c.handler(t), false
	peers := map[string]bool{}
	client := connect(t, collector.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if peers[r.RemoteAddr] = true; fail {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		api.ServeHTTP(w, r)
	}))})
	for i, want := range []int{1, 1, 1, 2, 2} {
		fail = i == 2
		if _, err := client.Write(t.Context(), batch(int64(i), 1)); (err != nil) != fail || len(peers) != want {
			t.Errorf("write %d: %v, %d connections so far, want %d", i, err, len(peers), want)
		}
	}
}

// What is too much for one request goes in several, each of which the other side takes.
func TestLargeBatches(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	name := func() string {
		b := make([]byte, 3*traffic.MaxName)
		for i := range b {
			b[i] = byte(' ' + random.IntN(95))
		}
		return string(b)
	}
	incompressible := batch(5, 2_500)
	for i := range incompressible.Transactions {
		n, t := name(), &incompressible.Transactions[i]
		t.Domain, t.Gateway, t.Endpoint = n[:255], n[255:510], n[510:]
	}
	for name, b := range map[string]traffic.Batch{"many": batch(5, 25_001), "incompressible": incompressible} {
		var c central
		bodies := 0
		api := c.handler(t)
		client := connect(t, collector.Config{URL: serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if bodies++; r.ContentLength > 1<<20 {
				t.Errorf("%s: a body of %d bytes", name, r.ContentLength)
			}
			api.ServeHTTP(w, r)
		}))})
		fresh, err := client.Write(t.Context(), b)
		if err != nil || fresh != len(b.Transactions) || !cmp.Equal(c.stored, b.Transactions) || c.next[b.Source] != b.Next() || bodies != 4 && name == "many" || bodies < 2 {
			t.Errorf("%s: %v, %d of %d new, %d stored in %d requests, up to %d", name, err, fresh, len(b.Transactions), len(c.stored), bodies, c.next[b.Source])
		}
	}
	var c central
	c.err = errors.New("no database")
	if fresh, err := connect(t, collector.Config{URL: serve(t, c.handler(t))}).Write(t.Context(), batch(0, 25_001)); fresh != 0 || err == nil || c.asked != 1 {
		t.Errorf("without a store: %d new, %v, after %d requests", fresh, err, c.asked)
	}
}

func TestNew(t *testing.T) {
	for url, want := range map[string]string{
		"http://host": "", "https://host:8080/": "", "http://[::1]:8080/a/b/": "",
		"":                      "is not http(s)://host:port",
		"host:8080":             "is not http(s)://host:port",
		"ftp://host":            "is not http(s)://host:port",
		"http://:8080":          "is not http(s)://host:port",
		"http:///path":          "is not http(s)://host:port",
		"http://u:secret@host":  "has a user or password; it takes a token instead",
		"http://u:secret@ho st": "is no URL such as",
		"http://u:secret/x@h:1": "is no URL such as",
		"http://host:port":      "is no URL such as",
		"http://host?secret":    "has a query or fragment",
		"http://host?":          "has a query or fragment",
		"http://host/#x":        "has a query or fragment",
	} {
		_, err := collector.New(collector.Config{URL: url})
		if (err == nil) != (want == "") || (err != nil && (!strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret"))) {
			t.Errorf("%q: %v, want %q", url, err, want)
		}
	}
	if _, err := collector.New(collector.Config{URL: "http://host", Token: "s3cret\n"}); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a token with a line end: %v", err)
	}
	if _, err := collector.New(collector.Config{URL: "http://host", Timeout: -1}); err == nil {
		t.Error("a timeout below 0 is taken")
	}
}

// Where the address has a path, it stands before that of the API.
func TestPrefix(t *testing.T) {
	var c central
	url := serve(t, http.StripPrefix("/tps/one", c.handler(t)))
	if fresh, err := connect(t, collector.Config{URL: url + "/tps/one/"}).Write(t.Context(), batch(0, 3)); fresh != 3 || err != nil {
		t.Errorf("%d new, %v", fresh, err)
	}
}

func TestManyAtOnce(t *testing.T) {
	var c central
	client := connect(t, collector.Config{URL: serve(t, c.handler(t))})
	var all sync.WaitGroup
	for i := range 16 {
		all.Go(func() {
			b := batch(0, 500)
			b.Run = strconv.Itoa(i)
			for range 5 {
				if _, err := client.Write(t.Context(), b); err != nil {
					t.Errorf("run %d: %v", i, err)
				}
			}
		})
	}
	if all.Wait(); len(c.stored) != 16*500 {
		t.Errorf("%d are stored", len(c.stored))
	}
}

func BenchmarkWrite(b *testing.B) {
	sent := 0
	client := connect(b, collector.Config{URL: serve(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent = int(r.ContentLength)
		z, err := gzip.NewReader(r.Body)
		if err == nil {
			_, err = io.Copy(io.Discard, z)
		}
		if err != nil {
			b.Error(err)
		}
		_, _ = io.WriteString(w, `{"accepted":1}`)
	}))})
	x := batch(0, 10_000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.Write(b.Context(), x); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(x.Transactions)), "ns/transaction")
	b.ReportMetric(float64(sent)/float64(len(x.Transactions)), "B/transaction")
}
