package admin_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// server is the API behind a real listener, over limits in a file.
type server struct {
	addr    string
	current *limits.Current
	windows *rollup.Windows // what the figures are made of, where options say nothing else
	logs    *testenv.Logs
}

// options change what start makes.
type options struct {
	cfg    admin.Config
	store  admin.Store // nil = a file
	checks []admin.Check
	empty  bool   // no limits were ever loaded
	listen string // empty = 127.0.0.1:0

	stats   func(context.Context, admin.StatsQuery) (admin.StatsAnswer, error)
	seconds func(context.Context, admin.SecondsQuery) (admin.SecondsAnswer, error)
	done    chan struct{}
	fullest func(int) []admin.Bucket
	reset   func(admin.BucketKey) bool
}

func start(tb testing.TB, o options) *server {
	tb.Helper()
	s := &server{current: new(limits.Current), windows: rollup.NewWindows(rollup.NewNames(1000)), logs: new(testenv.Logs)}
	if o.stats == nil {
		o.stats = inMemory(s.windows)
	}
	log := slog.New(slog.NewTextHandler(s.logs, nil))
	clock, reg := limits.NewClock(), prometheus.NewRegistry()
	if o.store == nil {
		store, err := filesync.New(filesync.Config{Path: filepath.Join(tb.TempDir(), "limits.yaml")}, clock, s.current, reg, log)
		if err != nil {
			tb.Fatal(err)
		}
		o.store = store
	}
	if !o.empty {
		t, err := limits.NewTable(nil, nil, limits.Stamp{ID: 1})
		if err != nil {
			tb.Fatal(err)
		}
		s.current.Store(t)
	}
	handler := admin.New(o.cfg, admin.Deps{
		Store: o.store, Current: s.current, Checks: o.checks, Gatherer: reg, Log: log, Fullest: o.fullest, ResetBucket: o.reset,
		Received: func() (uint64, any) { return 42, []string{"endpoints"} }, Stats: o.stats, Seconds: o.seconds, Done: o.done,
		JSON: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, r.Method+" decided") }),
	})
	if o.listen == "" {
		o.listen = "127.0.0.1:0"
	}
	s.serve(tb, handler, o.listen)
	return s
}

// inMemory answers out of windows, as a server without Postgres does.
func inMemory(w *rollup.Windows) func(context.Context, admin.StatsQuery) (admin.StatsAnswer, error) {
	return func(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
		if q.Window < rollup.MinWindow || q.Window > rollup.MaxWindow {
			return admin.StatsAnswer{}, q.Refuse("needs Postgres")
		}
		snap, err := w.Snapshot(time.Now(), q.Window)
		return admin.StatsAnswer{Snapshot: snap, Source: admin.SourceMemory}, err
	}
}

func (s *server) serve(tb testing.TB, handler http.Handler, addr string) {
	tb.Helper()
	lis, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	s.addr = lis.Addr().String()
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.NewTextHandler(s.logs, nil), slog.LevelError)}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(lis) }()
	tb.Cleanup(func() {
		if err := errors.Join(srv.Close(), <-ended); !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("the server ended with %v", err)
		}
		if strings.Contains(s.logs.String(), "panic") || tb.Failed() {
			tb.Errorf("logs:\n%s", s.logs)
		}
	})
}

// request is one call; the zero values are what curl would send from this host.
type request struct {
	method, path, body string
	host               string // empty = localhost
	header             map[string]string
	from               string // local address; empty = what the system chooses
	bare               bool   // without Content-Type
}

// reply is what came back.
type reply struct {
	code   int
	header http.Header
	body   string
}

func (s *server) do(tb testing.TB, r request) reply {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), r.method, "http://"+s.addr+r.path, strings.NewReader(r.body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Host = "localhost"
	if r.host != "" {
		req.Host = r.host
	}
	if r.body != "" && !r.bare {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	dialer := &net.Dialer{}
	if r.from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(r.from)}
	}
	transport := &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		tb.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatalf("%s %s: %v", r.method, r.path, err)
	}
	return reply{resp.StatusCode, resp.Header, string(body)}
}

func (s *server) put(tb testing.TB, body string) reply {
	tb.Helper()
	return s.do(tb, request{method: http.MethodPut, path: "/api/v1/limits", body: body})
}

func (s *server) get(tb testing.TB, path string) reply {
	tb.Helper()
	return s.do(tb, request{method: http.MethodGet, path: path})
}

// want fails where a reply has another code, or lacks a text.
func (r reply) want(tb testing.TB, code int, text string) {
	tb.Helper()
	if r.code != code || !strings.Contains(r.body, text) {
		tb.Errorf("the answer is %d %s, want %d with %q", r.code, r.body, code, text)
	}
}

// wantProblem fails where a reply is no RFC 9457 problem with this code and detail.
func (r reply) wantProblem(tb testing.TB, code int, detail string) {
	tb.Helper()
	var p struct {
		Title, Detail string
		Status        int
	}
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		tb.Fatalf("the answer is no problem: %d %q: %v", r.code, r.body, err)
	}
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		tb.Errorf("the content type is %q", got)
	}
	if r.code != code || p.Status != code || p.Title != http.StatusText(code) || !strings.Contains(p.Detail, detail) {
		tb.Errorf("the problem is %d %+v, want %d with %q", r.code, p, code, detail)
	}
}

// fake is a store that fails with an error.
type fake struct {
	err  error
	gone chan struct{} // closed when the caller's context has ended
}

func (f *fake) Put(ctx context.Context, l limits.Limit, _ string) (limits.Limit, error) {
	return l, f.fail(ctx)
}

func (f *fake) Delete(ctx context.Context, _ limits.Key, _ string) error { return f.fail(ctx) }

func (f *fake) fail(ctx context.Context) error {
	if f.gone != nil {
		<-ctx.Done()
		close(f.gone)
		return ctx.Err()
	}
	return f.err
}
