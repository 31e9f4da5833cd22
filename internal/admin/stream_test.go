package admin_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// bubble is a real server and its clients, over pipes: in a bubble of synctest, whose time they
// have. A pipe has no buffer, so that who does not read is noticed at once.
type bubble struct {
	conns  chan net.Conn
	server *http.Server
	client *http.Client
	open   atomic.Int64 // requests that are handled now
	done   chan struct{}
}

func newBubble(tb testing.TB, deps admin.Deps) *bubble {
	tb.Helper()
	b := &bubble{conns: make(chan net.Conn), done: make(chan struct{})}
	deps.Done = b.done
	h := handler(deps)
	b.server = &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.open.Add(1)
		defer b.open.Add(-1)
		h.ServeHTTP(w, r)
	})}
	b.client = &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(), nil },
	}}
	ended := make(chan error, 1)
	go func() { ended <- b.server.Serve(b) }()
	tb.Cleanup(func() {
		if err := errors.Join(b.server.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("the server ended with %v", err)
		}
	})
	return b
}

func (b *bubble) dial() net.Conn {
	ours, theirs := net.Pipe()
	b.conns <- theirs
	return ours
}

func (b *bubble) Accept() (net.Conn, error) {
	conn, ok := <-b.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (b *bubble) Close() error { close(b.conns); return nil }

func (b *bubble) Addr() net.Addr { return &net.TCPAddr{} }

// watcher is a client that reads a stream.
type watcher struct {
	code   int
	header http.Header
	lines  chan string // without empty ones; closed at the end of the stream
	stop   context.CancelFunc
}

func (b *bubble) watch(tb testing.TB, query string) *watcher {
	tb.Helper()
	ctx, cancel := context.WithCancel(tb.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://server/api/v1/stats/stream"+query, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := b.client.Do(req) //nolint:bodyclose // who reads it closes it
	if err != nil {
		tb.Fatal(err)
	}
	w := &watcher{resp.StatusCode, resp.Header, make(chan string, 1000), cancel}
	go func() {
		defer close(w.lines)
		defer resp.Body.Close()
		for s := bufio.NewScanner(resp.Body); s.Scan(); {
			if s.Text() != "" {
				w.lines <- s.Text()
			}
		}
	}()
	tb.Cleanup(cancel)
	return w
}

// came returns what the watcher has received until now, and whether the stream has ended.
func (w *watcher) came() (lines []string, ended bool) {
	synctest.Wait()
	for {
		select {
		case line, open := <-w.lines:
			if !open {
				return lines, true
			}
			lines = append(lines, line)
		default:
			return lines, false
		}
	}
}

// counting counts how often it is asked for figures, which fail from the call failFrom on (0 = never).
type counting struct {
	calls    atomic.Int64
	failFrom int64
}

func (c *counting) stats(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
	if n := c.calls.Add(1); c.failFrom > 0 && n >= c.failFrom {
		return admin.StatsAnswer{}, errors.New("bad")
	}
	now := time.Now().UTC()
	return admin.StatsAnswer{Snapshot: rollup.Snapshot{From: now.Add(-q.Window), To: now}, Source: admin.SourceMemory}, nil
}

// wait lets the time of the bubble go on, and those who wake then do what they do.
func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func TestStreamOfFigures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := rollup.NewWindows(rollup.NewNames(100))
		b := newBubble(t, admin.Deps{Stats: inMemory(w)})
		wait(300 * time.Millisecond)
		count(w, 3, transaction("edge", "shop", "pay"))
		s := b.watch(t, "?window=10s&gateway=shop")
		lines, _ := s.came()
		if len(lines) != 3 || lines[0] != "retry: 2000" || lines[1] != "event: stats" || !strings.HasPrefix(lines[2], `data: {"from":"`) {
			t.Fatalf("at first there are the lines %q", lines)
		}
		for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"} {
			if got := s.header.Get(name); got != want {
				t.Errorf("header %s is %q, want %q", name, got, want)
			}
		}
		wait(699 * time.Millisecond) // the next whole second is not there yet
		if lines, ended := s.came(); len(lines) != 0 || ended {
			t.Errorf("before the next second there is %q, ended %v", lines, ended)
		}
		for i, requests := range []int64{3, 5, 5} {
			if i == 1 {
				count(w, 2, transaction("edge", "shop", "pay"))
				count(w, 2, transaction("edge", "other", "pay"))
			}
			wait(time.Second)
			lines, _ := s.came()
			if len(lines) != 2 || lines[0] != "event: stats" {
				t.Fatalf("second %d: the lines %q, want one event", i, lines)
			}
			got := decode[statsBody](t, strings.TrimPrefix(lines[1], "data: "))
			if got.Total.Requests != requests || len(got.Endpoints) != 1 || !got.To.Equal(time.Now().Truncate(time.Second)) {
				t.Errorf("second %d: %+v, want %d requests of one endpoint up to now", i, got, requests)
			}
		}
		s.stop()
		synctest.Wait()
		if n := b.open.Load(); n != 0 {
			t.Errorf("after the client has gone %d requests are handled", n)
		}
	})
}

// Every event is made once, for all who want the same.
func TestStreamsShareEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		b := newBubble(t, admin.Deps{Stats: c.stats})
		watchers := make([]*watcher, 0, 100)
		for i := range 100 {
			watchers = append(watchers, b.watch(t, []string{"", "?window=1m", "?window=60&interval=1s", "?window=5m"}[i%4]))
		}
		synctest.Wait()
		if n := c.calls.Load(); n != 2 {
			t.Errorf("100 clients with two questions have asked %d times, want 2", n)
		}
		wait(3 * time.Second)
		if n := c.calls.Load(); n != 8 {
			t.Errorf("after 3 s they have asked %d times, want 8", n)
		}
		for i, w := range watchers {
			if lines, ended := w.came(); len(lines) != 9 || ended {
				t.Errorf("client %d has the lines %q, ended %v", i, lines, ended)
			}
		}
	})
}

func TestStreamsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, admin.Deps{Stats: (&counting{}).stats})
		first := b.watch(t, "")
		for range 99 {
			b.watch(t, "?window=5m")
		}
		beyond := b.watch(t, "")
		lines, ended := beyond.came()
		if beyond.code != http.StatusServiceUnavailable || beyond.header.Get("Retry-After") != "10" || !ended || !strings.Contains(lines[0], "100 clients watch the figures already") {
			t.Errorf("client 101: %d %v %q", beyond.code, beyond.header, lines)
		}
		first.stop()
		synctest.Wait()
		if again := b.watch(t, ""); again.code != http.StatusOK {
			t.Errorf("when one has gone, the next is answered with %d", again.code)
		}
	})
}

// A client that does not read loses its connection, and its seat.
func TestStreamOfASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, admin.Deps{Stats: (&counting{}).stats})
		other := b.watch(t, "")
		conn := b.dial()
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "GET /api/v1/stats/stream HTTP/1.1\r\nHost: server\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		wait(4900 * time.Millisecond)
		if n := b.open.Load(); n != 2 {
			t.Errorf("before its time is over, %d requests are handled, want 2", n)
		}
		wait(200 * time.Millisecond)
		if n := b.open.Load(); n != 1 {
			t.Errorf("after it, %d requests are handled, want 1", n)
		}
		if lines, ended := other.came(); len(lines) != 3+2*5 || ended {
			t.Errorf("the other client has %q, ended %v", lines, ended)
		}
		if _, err := io.ReadAll(conn); err != nil {
			t.Errorf("the connection is not closed: %v", err)
		}
	})
}

// HEAD goes where GET goes, but is not held.
func TestHeadOfAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, admin.Deps{Stats: (&counting{}).stats})
		conn := b.dial()
		defer func() { _ = conn.Close() }()
		if _, err := io.WriteString(conn, "HEAD /api/v1/stats/stream HTTP/1.1\r\nHost: server\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1000)
		n, err := conn.Read(head)
		synctest.Wait()
		if got := string(head[:n]); err != nil || !strings.HasPrefix(got, "HTTP/1.1 200 OK\r\n") || !strings.Contains(got, "text/event-stream") || b.open.Load() != 0 {
			t.Errorf("%v, %q, and %d requests are handled", err, got, b.open.Load())
		}
	})
}

func TestStreamsEndWithTheDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, admin.Deps{Stats: (&counting{}).stats})
		s := []*watcher{b.watch(t, ""), b.watch(t, "?interval=1m")}
		began := time.Now()
		close(b.done)
		for i, w := range s {
			if _, ended := w.came(); !ended {
				t.Errorf("stream %d goes on", i)
			}
		}
		if err := b.server.Shutdown(t.Context()); err != nil || time.Since(began) > time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(began))
		}
		synctest.Wait()
	})
}

func TestStreamHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &counting{}
		b := newBubble(t, admin.Deps{Stats: c.stats})
		s := b.watch(t, "?interval=40")
		s.came()
		wait(121 * time.Second) // the clock of a bubble begins 40 s after a whole multiple, or 0
		lines, _ := s.came()
		events, beats := 0, 0
		for _, line := range lines {
			switch line {
			case ": still here":
				beats++
			case "event: stats":
				events++
			}
		}
		if events != 3 || beats != 6 || c.calls.Load() != 4 {
			t.Errorf("in 121 s: %d events, %d heartbeats, asked %d times; want 3, 6, 4: %q", events, beats, c.calls.Load(), lines)
		}
	})
}

// What cannot be measured any more ends a stream: the client comes again and is told.
func TestStreamThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, admin.Deps{Stats: (&counting{failFrom: 2}).stats})
		s := b.watch(t, "")
		wait(time.Second)
		if lines, ended := s.came(); len(lines) != 3 || !ended {
			t.Errorf("the lines %q, ended %v; want one event and the end", lines, ended)
		}
		if again := b.watch(t, ""); again.code != http.StatusInternalServerError {
			t.Errorf("again: %d", again.code)
		}
	})
}

func TestStreamQueries(t *testing.T) {
	s := start(t, options{})
	for query, want := range map[string]string{
		"window=1h1s":               "window 1h0m1s: is longer than an hour, which is the longest window of a stream",
		"window=5x":                 `window "5x": is not a duration`,
		"interval=0":                `interval "0": is not whole seconds from 1s to 1m`,
		"interval=61":               `interval "61": is not`,
		"interval=1500ms":           `interval "1500ms": is not`,
		"interval=x":                `interval "x": is not`,
		"from=2026-07-01T00:00:00Z": `query parameter "from": is none of [interval window domain gateway endpoint]`,
	} {
		s.get(t, "/api/v1/stats/stream?"+query).wantProblem(t, http.StatusUnprocessableEntity, want)
	}
}

// Over HTTP/2, which a TLS listener speaks, a stream is one of many on a connection.
func TestStreamOverHTTP2(t *testing.T) {
	done := make(chan struct{})
	s := httptest.NewUnstartedServer(handler(admin.Deps{Stats: (&counting{}).stats, Done: done}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+"/api/v1/stats/stream", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := s.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	first := make([]byte, len("retry: 2000\n\nevent: stats\n"))
	if _, err := io.ReadFull(resp.Body, first); err != nil || resp.ProtoMajor != 2 || string(first) != "retry: 2000\n\nevent: stats\n" {
		t.Errorf("HTTP/%d: %q, %v", resp.ProtoMajor, first, err)
	}
	close(done)
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Errorf("the stream ended with %v", err)
	}
}
