package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// measuring is the real API over real windows, in which shop/pay had 3 transactions a moment ago.
func measuring(tb testing.TB, done <-chan struct{}) http.Handler {
	tb.Helper()
	w := rollup.NewWindows(rollup.NewNames(100))
	for range 3 {
		w.Add(time.Now().Add(-time.Second), &traffic.Transaction{Duration: 30 * time.Millisecond, Success: true}, rollup.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay"})
	}
	return admin.New(admin.Config{}, admin.Deps{
		Gatherer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler), JSON: http.NotFoundHandler(), Done: done,
		Stats: func(_ context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
			snap, err := w.Snapshot(time.Now(), q.Window)
			return admin.StatsAnswer{Snapshot: snap, Source: admin.SourceMemory}, err
		},
	})
}

func checkShop(tb testing.TB, s client.Stats) {
	tb.Helper()
	if len(s.Endpoints) != 1 || len(s.Gateways) != 1 {
		tb.Fatalf("got %+v, want one endpoint of one gateway", s)
	}
	e := s.Endpoints[0]
	got := []any{e.Domain, e.Gateway, e.Endpoint, e.PeakTPS, e.Requests, e.Successes, *e.SuccessRate, s.Gateways[0].Gateway, s.Total.Requests, s.Source, *e.P50MS > 28 && *e.P50MS < 32}
	if diff := cmp.Diff([]any{"edge", "shop", "pay", int64(3), int64(3), int64(3), 1.0, "shop", int64(3), "memory", true}, got); diff != "" {
		tb.Errorf("-want +got:\n%s", diff)
	}
}

func TestStats(t *testing.T) {
	c := client.New(serve(t, measuring(t, nil)), "")
	got, err := c.Stats(t.Context(), client.StatsQuery{Window: 2 * time.Minute, Domain: "edge", Gateway: "shop", Endpoint: "pay"})
	if err != nil {
		t.Fatal(err)
	}
	checkShop(t, got)
	if got, err := c.Stats(t.Context(), client.StatsQuery{Gateway: "a&b"}); err != nil || len(got.Endpoints) != 0 || got.To.Sub(got.From) != time.Minute {
		t.Errorf("of another gateway: %+v, %v; want none within a minute", got, err)
	}
	_, err = c.Stats(t.Context(), client.StatsQuery{Window: 1500 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), `422 Unprocessable Entity: window "1.5s": is not`) {
		t.Errorf("a bad window: %v", err)
	}
}

func TestStreamStats(t *testing.T) {
	done := make(chan struct{})
	c := client.New(serve(t, measuring(t, done)), "")
	ctx, cancel := context.WithCancel(t.Context())
	err := c.StreamStats(ctx, client.StatsQuery{}, func(s client.Stats) {
		checkShop(t, s)
		cancel()
	})
	if err != nil {
		t.Errorf("after the end of ctx: %v", err)
	}
	err = c.StreamStats(t.Context(), client.StatsQuery{}, func(client.Stats) { close(done) })
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("after the end of the server: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// What an older server, or something else, answers.
func TestServersWithoutFigures(t *testing.T) {
	answer := func(code int, kind, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", kind)
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	const older = "has no figures of a window at /api/v1/stats: it is an older ratelimitd, or something else"
	for _, c := range []struct {
		what          string
		handler       http.HandlerFunc
		stats, stream string
	}{
		{"an older server", answer(200, "application/json", `{"transactions":5,"endpoints":[]}`), older, "there is no stream of figures"},
		{"nothing", answer(404, "application/problem+json", `{"detail":"there is nothing"}`), "has no GET /api/v1/stats: it is an older", "there is no stream of figures"},
		{"a page", answer(200, "text/html", "<html>"), "invalid character '<'", "there is no stream of figures"},
		{"too many", answer(503, "application/problem+json", `{"detail":"too many"}`), "503 Service Unavailable: too many", "there is no stream of figures"},
		{"no token", answer(401, "application/problem+json", `{"detail":"a token"}`), "401 Unauthorized: a token", "401 Unauthorized: a token"},
		{"a redirect", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) }, "302 Found: it points to /elsewhere", "302 Found: it points to /elsewhere"},
		{"no figures", answer(200, "text/event-stream", "event: stats\ndata: <html>\n\n"), "invalid character", "reading an event: invalid character"},
		{"an end", answer(200, "text/event-stream; charset=utf-8", ": hello\n\n"), "invalid character", "reading the stream of figures: unexpected EOF"},
	} {
		api := client.New(serve(t, c.handler), "")
		if _, err := api.Stats(t.Context(), client.StatsQuery{}); err == nil || !strings.Contains(err.Error(), c.stats) {
			t.Errorf("%s: %v, want %q", c.what, err, c.stats)
		}
		err := api.StreamStats(t.Context(), client.StatsQuery{}, func(s client.Stats) { t.Errorf("%s: brought %+v", c.what, s) })
		if err == nil || !strings.Contains(err.Error(), c.stream) {
			t.Errorf("%s: stream: %v, want %q", c.what, err, c.stream)
		}
	}
	_, err := client.New(serve(t, http.NotFoundHandler()), "").Stats(t.Context(), client.StatsQuery{})
	if _, unknown := errors.AsType[*client.UnknownError](err); !unknown {
		t.Errorf("the error is a %T", err)
	}
}

// A stream of which nothing comes is one that a proxy keeps for itself.
func TestSilentStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ours, theirs := net.Pipe()
		defer func() { _ = ours.Close() }()
		c := client.New("http://server", "")
		c.Dial(func(context.Context, string, string) (net.Conn, error) { return theirs, nil })
		go func() {
			_, _ = ours.Read(make([]byte, 1000))
			_, _ = io.WriteString(ours, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
			for range 5 {
				<-time.After(4 * time.Second)
				_, _ = fmt.Fprintf(ours, "data: {}\n\n")
			}
		}()
		began, events := time.Now(), 0
		err := c.StreamStats(t.Context(), client.StatsQuery{}, func(client.Stats) { events++ })
		if err == nil || err.Error() != "the stream of figures has stopped" || events != 5 || time.Since(began) != 30*time.Second {
			t.Errorf("%v after %v and %d events, want an end 10 s after the fifth", err, time.Since(began), events)
		}
	})
}
