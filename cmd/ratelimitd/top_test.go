package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/term"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// measuringAPI is the real API over real windows, in which shop/pay had 3 transactions a moment ago.
func measuringAPI(tb testing.TB) http.Handler {
	tb.Helper()
	w := rollup.NewWindows(rollup.NewNames(100))
	for range 3 {
		w.Add(time.Now().Add(-time.Second), &traffic.Transaction{Duration: 30 * time.Millisecond, Success: true}, rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"})
	}
	stats := func(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
		snap, err := w.Snapshot(time.Now(), min(q.Window, rollup.MaxWindow))
		return admin.StatsAnswer{Snapshot: snap, Source: admin.SourceMemory}, err
	}
	return admin.New(admin.Config{}, admin.Deps{
		Current: new(limits.Current), Gatherer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), JSON: http.NotFoundHandler(), Stats: stats,
		Seconds: func(_ context.Context, q admin.SecondsQuery) (admin.SecondsAnswer, error) {
			answer := admin.SecondsAnswer{From: q.From, To: q.To, Source: admin.SourceMemory}
			if q.Gateway == "shop" {
				answer.Counts = func(yield func(int64, int64) bool) { _ = yield(q.From.Unix(), 30) && yield(q.From.Unix()+90, 5) }
			}
			return answer, nil
		},
	})
}

func serve(tb testing.TB, h http.Handler) (url string) {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL
}

func TestTopPrintsOnceIntoAPipe(t *testing.T) {
	url := serve(t, measuringAPI(t))
	for _, args := range [][]string{{"top"}, {"top", "--once", "--sort=name", "--domain=edge", "--gateway=shop", "--endpoint=pay", "--window=1m"}} {
		got := command(t.Context(), nil, append(args, "--server", url)...)
		got.wants(t, 0, "\nGATEWAY  ENDPOINT     TPS    PEAK  P50 ms  P95 ms  P99 ms  SUCCESS  THROTTLED    HELD\nshop     pay ", "")
		if lines(got.stdout) != 4 || strings.Contains(got.stdout, "\x1b") || !strings.HasPrefix(got.stdout, url+"   last 1") {
			t.Errorf("%q: %+v", args, got)
		}
	}
	command(t.Context(), nil, "top", "--gateway=other", "--server", url).wants(t, 0, "0 endpoints of 0 gateways\n", "")
}

// What goes wrong is one line.
func TestTopAndWhatIfFaults(t *testing.T) {
	older := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/stats" {
			http.NotFound(w, r)
			return
		}
		_, _ = io.WriteString(w, `{"transactions":5,"endpoints":[]}`)
	}))
	now := serve(t, measuringAPI(t))
	whatIf := []string{"limits", "set", "--gateway=g", "--what-if"}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"top", "--server", older}, 1, "ratelimitd: " + older + " has no figures of a window at /api/v1/stats: it is an older ratelimitd, or something else\n"},
		{append(whatIf, "--server", older), 1, "ratelimitd: " + older + " has no POST /api/v1/whatif: it is an older ratelimitd, or something else\n"},
		{[]string{"top", "--server", "127.0.0.1:1"}, 1, "connection refused"},
		{append(whatIf, "--server", "127.0.0.1:1"), 1, "connection refused"},
		{[]string{"top", "--server", now, "--window=2x"}, 1, `ratelimitd: --window "2x": is not a duration of a second or more`},
		{[]string{"top", "--server", now, "--window=0"}, 1, `ratelimitd: --window "0": is not`},
		{[]string{"top", "--server", now, "--window=1500ms"}, 1, `422 Unprocessable Entity: window "1.5s": is not`},
		{[]string{"top", "--sort=color"}, 2, `--sort must be one of "tps","peak","p50","p95","p99","success","throttled","held","name"`},
		{append(whatIf, "--server", now, "--range=x"), 1, `ratelimitd: --range "x": is not a duration of a second or more`},
		{append(whatIf, "--server", now, "--per=user"), 1, `422 Unprocessable Entity: per "user": cannot be replayed`},
		{[]string{"limits", "set", "--gateway=g", "--range=1h", "--server", now}, 1, "ratelimitd: --range goes with --what-if\n"},
	} {
		got := command(t.Context(), nil, c.args...)
		got.wants(t, c.code, "", c.want)
		if lines(got.stderr) != 1 || got.stdout != "" {
			t.Errorf("%q: %+v, want one line", c.args, got)
		}
	}
}

func TestLimitsSetWhatIf(t *testing.T) {
	url := serve(t, measuringAPI(t))
	got := command(t.Context(), nil, "limits", "set", "--gateway=shop", "--max-tps=10", "--what-if", "--range=2m", "--server", url)
	got.wants(t, 0, " % (between 29 and 57 %) of 35 requests from 20", "")
	got.wants(t, 0, "\n            REFUSED    SHARE\n     least       10  28.57 %\n", "")
	got.wants(t, 0, "\n  WORST MINUTES (UTC)  OFFERED  REFUSED    SHARE\n", "")
	got.wants(t, 0, "\nKnown is how many requests ended in each second, not where in it.", "")
	none := command(t.Context(), nil, "limits", "set", "--gateway=other", "--what-if", "--server", url)
	if none.code != 0 || !strings.HasPrefix(none.stdout, "nothing was measured from ") || lines(none.stdout) != 1 {
		t.Errorf("of what was never measured: %+v", none)
	}
}

func TestPrintedWhatIf(t *testing.T) {
	var b strings.Builder
	x := client.WhatIf{
		Offered: 8_640_000, Held: 86_400, Sentence: "would have refused\x1b[2J 3.1 %", ErrorBound: strings.Repeat("a word and ", 15),
		Refused: client.Range[int64]{Least: 250_560, Estimate: 267_840, Most: 311_040}, RefusedShare: client.Range[float64]{Least: 0.029, Estimate: 0.031, Most: 0.036},
		WorstMinutes: []client.WorstMinute{{At: time.Date(2026, 7, 1, 14, 5, 0, 0, time.UTC), Offered: 6000, Refused: 1260, Share: 0.21}},
	}
	if err := printWhatIf(&b, &x); err != nil {
		t.Fatal(err)
	}
	want := `would have refused�[2J 3.1 %

            REFUSED   SHARE
     least   250560  2.90 %
  estimate   267840  3.10 %
      most   311040  3.60 %
      held    86400  1.00 %

  WORST MINUTES (UTC)  OFFERED  REFUSED    SHARE
     2026-07-01 14:05     6000     1260  21.00 %

a word and a word and a word and a word and a word and a word and a word and a word and a word and a
word and a word and a word and a word and a word and a word and
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// terminal is a real one, of which the test sees and types what a person would.
type terminal struct {
	person, program *os.File
	shown           *output
}

func openTerminal(tb testing.TB, width, height uint16) *terminal {
	tb.Helper()
	person, program, err := pty.Open()
	if err != nil {
		tb.Fatal(err)
	}
	t := &terminal{person, program, new(output)}
	t.resize(tb, width, height)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, _ = io.Copy(t.shown, person) // an error is how a terminal ends
	}()
	tb.Cleanup(func() {
		_, _ = io.WriteString(person, "\n") // whoever still reads keys gets one, and ends
		_ = program.Close()
		_ = person.Close()
		<-copied
	})
	return t
}

func (t *terminal) resize(tb testing.TB, width, height uint16) {
	tb.Helper()
	if err := pty.Setsize(t.person, &pty.Winsize{Rows: height, Cols: width}); err != nil {
		tb.Fatal(err)
	}
}

func (t *terminal) press(tb testing.TB, keys string) {
	tb.Helper()
	if _, err := io.WriteString(t.person, keys); err != nil {
		tb.Fatal(err)
	}
}

// shows waits until the terminal was shown a text.
func (t *terminal) shows(tb testing.TB, text string) {
	tb.Helper()
	testenv.Eventually(tb, patience, "the terminal shows "+text, func() error {
		if all := t.shown.String(); !strings.Contains(all, text) {
			return errors.New(all)
		}
		return nil
	})
}

// live runs top in a terminal; what ended says is how it ended.
func (t *terminal) live(tb testing.TB, ctx context.Context, url string) (ended chan error) { //nolint:revive // the test comes first
	tb.Helper()
	f := &feed{api: client.New(url, ""), query: client.StatsQuery{Window: time.Minute}}
	first, err := f.once(ctx)
	if err != nil {
		tb.Fatal(err)
	}
	v := &topView{server: url, window: time.Minute, stats: first, sort: "tps"}
	ended = make(chan error, 1)
	go func() { ended <- v.live(ctx, f, t.program, t.program) }()
	return ended
}

func TestTopInATerminal(t *testing.T) {
	term0 := openTerminal(t, 100, 10)
	before, err := term.GetState(int(term0.program.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	ended := term0.live(t, t.Context(), serve(t, measuringAPI(t)))
	term0.shows(t, enterScreen+homeCursor)
	term0.shows(t, "\x1b[1Gshop\x1b[10Gpay")
	term0.shows(t, "sorted by tps")
	term0.press(t, "s")
	term0.shows(t, "sorted by peak")
	term0.press(t, " ")
	term0.shows(t, "paused")
	term0.resize(t, 30, 10) // so narrow that the last column is another one
	term0.shows(t, "P95 ms\x1b[0m")
	if raw, err := term.GetState(int(term0.program.Fd())); err != nil || *raw == *before {
		t.Errorf("the terminal is as it was before, %v", err)
	}
	term0.press(t, "q")
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	term0.shows(t, leaveScreen)
	if after, err := term.GetState(int(term0.program.Fd())); err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v, %v; before it was %v", after, err, before)
	}
}

// However top ends, the terminal is as it was.
func TestTopGivesTheTerminalBack(t *testing.T) {
	url := serve(t, measuringAPI(t))
	for name, end := range map[string]func(*terminal, context.CancelFunc){
		"Ctrl-C":             func(t0 *terminal, _ context.CancelFunc) { _, _ = io.WriteString(t0.person, "\x03") },
		"the context's end":  func(_ *terminal, cancel context.CancelFunc) { cancel() },
		"a signal":           func(*terminal, context.CancelFunc) { _ = signalMyself() },
		"q after other keys": func(t0 *terminal, _ context.CancelFunc) { _, _ = io.WriteString(t0.person, "\x1b[Axyzq") },
	} {
		t0 := openTerminal(t, 80, 10)
		before, err := term.GetState(int(t0.program.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := t0.live(t, ctx, url)
		t0.shows(t, "\x1b[1Gshop")
		end(t0, cancel)
		if err := <-ended; err != nil {
			t.Errorf("%s: ended with %v", name, err)
		}
		cancel()
		t0.shows(t, leaveScreen)
		if after, err := term.GetState(int(t0.program.Fd())); err != nil || *after != *before {
			t.Errorf("%s: the terminal is %v, %v; before it was %v", name, after, err, before)
		}
	}
}

func TestAPanicGivesTheTerminalBack(t *testing.T) {
	t0 := openTerminal(t, 80, 10)
	before, err := term.GetState(int(t0.program.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	s, err := openScreen(t0.program, t0.program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if p := recover(); p != "odd" {
			t.Errorf("the panic is %v", p)
		}
		if after, err := term.GetState(int(t0.program.Fd())); err != nil || *after != *before {
			t.Errorf("the terminal is %v, %v; before it was %v", after, err, before)
		}
	}()
	s.guarded(func() { panic("odd") })()
}

// A server that goes away is said, and top goes on when it is back; without a stream it asks.
func TestTopGoesOn(t *testing.T) {
	var away, streams atomic.Bool
	api := measuringAPI(t)
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		isStream := strings.HasSuffix(r.URL.Path, "/stream")
		switch {
		case away.Load():
			http.Error(w, "away", http.StatusBadGateway)
		case isStream && !streams.Load():
			http.Error(w, "no streams here", http.StatusNotFound)
		default:
			api.ServeHTTP(w, r)
		}
	}))
	f := &feed{api: client.New(url, ""), query: client.StatsQuery{Window: time.Minute}}
	ctx, cancel := context.WithCancel(t.Context())
	updates, ended := make(chan update), make(chan struct{})
	go func() {
		defer close(ended)
		f.run(ctx, updates)
	}()
	wants := func(what string, good func(update) bool) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case u := <-updates:
				if good(u) {
					return
				}
			case <-timeout:
				t.Fatalf("no update that has %s", what)
			}
		}
	}
	figures := func(u update) bool { return u.err == nil && len(u.stats.Endpoints) == 1 }
	wants("figures, without a stream", figures)
	away.Store(true)
	wants("a fault", func(u update) bool { return u.err != nil && strings.Contains(u.err.Error(), "502 Bad Gateway") })
	away.Store(false)
	wants("figures again", figures)
	cancel()
	<-ended
}

func signalMyself() error {
	p, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	return p.Signal(syscall.SIGTERM)
}
