package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// The bounds of GET /api/v1/stats/stream.
const (
	mostStreams     = 100
	mostQuestions   = 10               // different ones that are watched: each is answered every second
	streamPatience  = 5 * time.Second  // for one event to be read
	streamHeartbeat = 15 * time.Second // proxies cut what is silent for long
	longestInterval = time.Minute
	// longestStreamed is the longest window of a stream: what is in memory. A question to Postgres
	// every second would be too many.
	longestStreamed = time.Hour
)

// streams are the clients who watch figures. Those who ask for the same get the same bytes, made
// once a second.
type streams struct {
	mu     sync.Mutex
	count  int
	shared map[StatsQuery]*sharedEvent // of those who watch now
}

// sharedEvent is the event of one second.
type sharedEvent struct {
	watchers int // guarded by streams.mu

	mu     sync.Mutex
	second int64 // Unix time at which text was made
	text   []byte
}

// enter returns the event to watch; nil where there are too many watchers, or too many questions.
func (s *streams) enter(q StatsQuery) *sharedEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count >= mostStreams {
		return nil
	}
	e := s.shared[q]
	if e == nil && len(s.shared) >= mostQuestions {
		return nil
	}
	if e == nil {
		e = &sharedEvent{}
		s.shared[q] = e
	}
	s.count++
	e.watchers++
	return e
}

func (s *streams) leave(q StatsQuery, e *sharedEvent) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count--
	if e.watchers--; e.watchers == 0 {
		delete(s.shared, q)
	}
}

// at returns the event of that second. Whoever comes first makes it, and the others wait.
func (e *sharedEvent) at(now time.Time, build func() ([]byte, error)) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.second == now.Unix() {
		return e.text, nil
	}
	text, err := build()
	if err == nil {
		e.second, e.text = now.Unix(), text
	}
	return text, err
}

// streamStats sends the figures as Server-Sent Events, until the client goes or the server drains.
// (https://html.spec.whatwg.org/multipage/server-sent-events.html)
func (a *api) streamStats(w http.ResponseWriter, r *http.Request) {
	q, interval, err := streamQuery(r.URL.RawQuery)
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	e := a.streams.enter(q)
	if e == nil {
		w.Header().Set("Retry-After", "10")
		httpjson.Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d clients watch the figures already, or others than you ask for %d different ones", mostStreams, mostQuestions))
		return
	}
	defer a.streams.leave(q, e)
	next := func(ctx context.Context) ([]byte, error) {
		return e.at(time.Now(), func() ([]byte, error) { return a.statsEvent(ctx, q) })
	}
	first, err := next(r.Context())
	if err != nil {
		a.unmeasured(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no") // nginx would keep the events for itself
	if r.Method == http.MethodHead {
		return
	}
	out := &eventWriter{w, http.NewResponseController(w)}
	if out.send(append([]byte("retry: 2000\n\n"), first...)) == nil {
		a.follow(r.Context(), out, interval, next)
	}
}

// statsEvent is the event as it is sent.
func (a *api) statsEvent(ctx context.Context, q StatsQuery) ([]byte, error) {
	shown, err := a.shownStats(ctx, q)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(shown)
	if err != nil {
		return nil, fmt.Errorf("encoding figures: %w", err)
	}
	return fmt.Appendf(nil, "event: stats\ndata: %s\n\n", body), nil
}

// follow sends the next events, at whole multiples of the interval. An error ends the stream: the
// client comes again by itself, and is told then what is wrong.
func (a *api) follow(ctx context.Context, out *eventWriter, interval time.Duration, next func(context.Context) ([]byte, error)) {
	due := nextMultiple(time.Now(), interval)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Reset(min(time.Until(due), streamHeartbeat))
		select {
		case <-timer.C:
		case <-a.Done:
			return
		case <-ctx.Done():
			return
		}
		text, err := []byte(": still here\n\n"), error(nil)
		if now := time.Now(); !now.Before(due) {
			due = nextMultiple(now, interval)
			text, err = next(ctx)
		}
		if err != nil || out.send(text) != nil {
			return
		}
	}
}

// nextMultiple is the next time whose Unix time is a whole multiple of the interval.
func nextMultiple(now time.Time, interval time.Duration) time.Time {
	return now.Add(interval - time.Duration(now.UnixNano()%int64(interval))) // not Truncate: a clock that is set moves no timer
}

// eventWriter sends to a client that reads.
type eventWriter struct {
	w  http.ResponseWriter
	to *http.ResponseController
}

// send returns an error where the client has gone, or does not read.
func (e *eventWriter) send(text []byte) error {
	if err := e.to.SetWriteDeadline(time.Now().Add(streamPatience)); err != nil {
		return err
	}
	if _, err := e.w.Write(text); err != nil {
		return err
	}
	return e.to.Flush()
}

// streamQuery is statsQuery for a stream, which ends now and is of what is in memory.
func streamQuery(query string) (q StatsQuery, interval time.Duration, err error) {
	v, err := only(query, "interval", "window", "domain", "gateway", "endpoint")
	if err != nil {
		return q, 0, err
	}
	if q, err = readStatsQuery(v); err != nil {
		return q, 0, err
	}
	if q.Window == 0 {
		q.Window = time.Minute
	}
	if q.Window > longestStreamed {
		return q, 0, q.Refuse("is longer than an hour, which is the longest window of a stream")
	}
	interval = time.Second
	if given := v["interval"]; given != "" {
		interval, err = ParseDuration(given)
		if err != nil || interval < time.Second || interval > longestInterval || interval%time.Second != 0 {
			return q, 0, &limits.FieldError{Field: "interval", Value: strconv.Quote(given), Reason: "is not whole seconds from 1s to 1m"}
		}
	}
	return q, interval, nil
}
