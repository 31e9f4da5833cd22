package usage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/usage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// process is an engine over some rows, and what keeps its usage.
type process struct {
	engine *buckets.Engine
	store  *usage.Store
	reg    *prometheus.Registry
	logs   *bytes.Buffer
	stop   func()
}

// start begins a process over a directory.
func start(tb testing.TB, cfg usage.Config, rows ...limits.Limit) *process {
	tb.Helper()
	clock, current := limits.NewClock(), &limits.Current{}
	p := &process{engine: buckets.New(buckets.Config{}, clock, current), reg: prometheus.NewRegistry(), logs: &bytes.Buffer{}}
	table, err := limits.NewTable(nil, rows, limits.Stamp{ID: 1, AtNS: clock.NowNS()})
	if err != nil {
		tb.Fatal(err)
	}
	current.Store(table)
	if p.store, err = usage.New(cfg, p.engine, p.reg, slog.New(slog.NewTextHandler(p.logs, nil))); err != nil {
		tb.Fatal(err)
	}
	p.store.Load(tb.Context())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.store.Run(ctx) }()
	stopped := false
	p.stop = func() {
		if cancel(); !stopped {
			stopped = true
			if err := <-done; err != nil {
				tb.Errorf("Run ended with %v", err)
			}
		}
	}
	tb.Cleanup(p.stop)
	return p
}

// left asks for hits, and returns how many are left then; -1 = refused.
func (p *process) left(tb testing.TB, hits uint64, user string) int64 {
	tb.Helper()
	r := &buckets.Request{Domain: "d", Descriptors: []buckets.Descriptor{{
		Gateway: "gw", HasGateway: true, Endpoint: "ep", HasEndpoint: true, Hits: hits, MaxWaitMS: -1, Entries: []buckets.Entry{{Key: "user", Value: user}},
	}}}
	var d buckets.Decision
	if err := p.engine.Do(tb.Context(), r, 0, &d); err != nil {
		tb.Fatal(err)
	}
	if d.Code != buckets.OK {
		return -1
	}
	return d.Statuses[0].Remaining
}

func (p *process) failures(tb testing.TB) float64 {
	tb.Helper()
	n, err := testutil.GatherAndCount(p.reg, "ratelimitd_usage_errors_total")
	if err != nil || n != 1 {
		tb.Fatalf("%d series, %v", n, err)
	}
	families, err := p.reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "ratelimitd_usage_errors_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return -1
}

// window is a limit of the endpoint, or of each user.
func window(a limits.Algorithm, n, seconds int64, per string) limits.Limit {
	return limits.Limit{Key: limits.Key{Gateway: "gw", Endpoint: "ep", Per: per, PerSeconds: seconds}, MaxTPS: n, Algorithm: a, Enabled: true}
}

// A restart changes nothing but by the time that it takes.
func TestUsageSurvives(t *testing.T) {
	for name, c := range map[string]struct {
		row  limits.Limit
		away time.Duration
		want int64 // of 100, of which 60 are used, and one more
	}{
		"token bucket":               {window(limits.TokenBucket, 100, 3600, ""), 0, 39},
		"token bucket, refilled":     {window(limits.TokenBucket, 100, 3600, ""), 36 * time.Second, 40},
		"fixed window":               {window(limits.FixedWindow, 100, 3600, ""), 10 * time.Minute, 39},
		"fixed window, the next":     {window(limits.FixedWindow, 100, 3600, ""), time.Hour, 99},
		"sliding window":             {window(limits.SlidingWindow, 100, 3600, ""), 30 * time.Minute, 39},
		"sliding window, slid":       {window(limits.SlidingWindow, 100, 3600, ""), time.Hour + time.Minute, 99},
		"each user":                  {window(limits.SlidingWindow, 100, 60, "user"), 0, 39},
		"per second: not worth it":   {window(limits.TokenBucket, 100, 0, ""), 0, 9},
		"under a minute: not either": {window(limits.FixedWindow, 100, 59, ""), 0, 99},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg := usage.Config{Dir: t.TempDir()}
				first := start(t, cfg, c.row)
				first.left(t, 60, "\xffann")
				first.stop()
				<-time.After(c.away + time.Nanosecond)
				second := start(t, cfg, c.row)
				if got := second.left(t, 1, "\xffann"); got != c.want {
					t.Errorf("%d are left, want %d", got, c.want)
				}
				if n := second.failures(t); n != 0 {
					t.Errorf("%g errors:\n%s", n, second.logs)
				}
			})
		})
	}
}

// What nobody asks for is carried on from process to process; what is over is not.
func TestUsageOfNobodyIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usage.Config{Dir: t.TempDir()}
		day := window(limits.FixedWindow, 100, 86_400, "user")
		p := start(t, cfg, day)
		p.left(t, 60, "ann")
		p.stop()
		for range 3 {
			p = start(t, cfg, day)
			p.left(t, 1, "bob")
			p.stop()
		}
		p = start(t, cfg, day)
		if ann, bob := p.left(t, 1, "ann"), p.left(t, 1, "bob"); ann != 39 || bob != 96 {
			t.Errorf("%d and %d are left, want 39 and 96", ann, bob)
		}
		p.stop()
		<-time.After(24 * time.Hour)
		start(t, cfg, day).stop()
		body, err := os.ReadFile(filepath.Join(cfg.Dir, "usage.json"))
		if err != nil || strings.Count(string(body), "\n") != 1 {
			t.Errorf("a day later the file is %q, %v; want its head alone", body, err)
		}
	})
}

// A process that is killed loses what it used in the last seconds.
func TestUsageIsWrittenMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usage.Config{Dir: t.TempDir()}
		row := window(limits.SlidingWindow, 100, 3600, "")
		killed := start(t, cfg, row)
		killed.left(t, 60, "ann")
		<-time.After(6 * time.Second)
		killed.left(t, 10, "ann") // not written yet
		next := start(t, cfg, row)
		if got := next.left(t, 1, "ann"); got != 39 {
			t.Errorf("%d are left, want 39", got)
		}
	})
}

func TestNothingIsWrittenForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usage.Config{Dir: filepath.Join(t.TempDir(), "data"), Prepare: func() error { t.Error("the directory is made"); return nil }}
		p := start(t, cfg, window(limits.TokenBucket, 100, 0, ""), window(limits.FixedWindow, 100, 3600, "tenant"))
		p.left(t, 5, "ann")
		<-time.After(time.Minute)
		p.stop()
	})
}

// A directory that cannot be used is said once, and tried again.
func TestADirectoryThatComesLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := usage.Config{Dir: filepath.Join(t.TempDir(), "data")}
		cfg.Prepare = func() error { return errors.New("is taken") }
		row := window(limits.FixedWindow, 100, 3600, "")
		p := start(t, usage.Config{Dir: cfg.Dir, Prepare: func() error { return cfg.Prepare() }}, row)
		p.left(t, 5, "ann")
		<-time.After(11 * time.Second)
		if n, said := p.failures(t), strings.Count(p.logs.String(), "is taken"); n != 2 || said != 1 {
			t.Errorf("%g errors, of which %d were said; want 2 and 1:\n%s", n, said, p.logs)
		}
		cfg.Prepare = func() error { return os.MkdirAll(cfg.Dir, 0o700) }
		p.stop()
		if next := start(t, cfg, row); next.left(t, 1, "ann") != 94 {
			t.Error("what was written at last is not there")
		}
		if !strings.Contains(p.logs.String(), "written again") {
			t.Errorf("that it is well again is not said:\n%s", p.logs)
		}
	})
}

// A file that was damaged gives what can be read of it.
func TestDamagedFile(t *testing.T) {
	cfg := usage.Config{Dir: t.TempDir()}
	row := window(limits.FixedWindow, 100, 366*86_400, "user")
	p := start(t, cfg, row)
	p.left(t, 60, "ann")
	p.left(t, 60, "bob")
	p.stop()
	path := filepath.Join(cfg.Dir, "usage.json")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		body string
		kept int
	}{
		"cut off in the second": {string(whole[:len(whole)-10]), 1}, "empty": {"", 0}, "no JSON": {"\x00\x01", 0},
		"of another version": {strings.Replace(string(whole), `"version":1`, `"version":9`, 1), 0},
		"numbers of a liar":  {strings.Split(string(whole), "\n")[0] + "\n" + `{"key":"Zw==","used":-1}`, 0},
	} {
		if err := os.WriteFile(path, []byte(c.body), 0o600); err != nil {
			t.Fatal(err)
		}
		p := start(t, cfg, row)
		kept := 0
		for _, user := range []string{"ann", "bob"} {
			if p.left(t, 1, user) == 39 {
				kept++
			}
		}
		if kept != c.kept || p.failures(t) != 1 || !strings.Contains(p.logs.String(), path) {
			t.Errorf("%s: usage of %d users is kept, %g errors; want %d, 1:\n%s", name, kept, p.failures(t), c.kept, p.logs)
		}
		p.stop()
	}
}
