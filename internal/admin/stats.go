package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// Sources of what was measured.
const (
	SourceMemory   = "memory"
	SourcePostgres = "postgres"
)

// StatsQuery is what figures are wanted of: a window that ends now, or the time between two others.
type StatsQuery struct {
	Window                    time.Duration // whole seconds; 0 where From and To are set
	From, To                  time.Time     // zero where Window is set
	Domain, Gateway, Endpoint string        // exact names; empty = all
	Stored                    bool          // what all replicas have stored, where they do, also of a short window
}

// Refuse returns the error for a query that cannot be answered. It names the parameter that is the
// reason.
func (q *StatsQuery) Refuse(reason string) error {
	if q.Window > 0 {
		return &limits.FieldError{Field: "window", Value: q.Window.String(), Reason: reason}
	}
	return &limits.FieldError{Field: "from", Value: q.From.Format(time.RFC3339), Reason: reason}
}

// short tells whether what is in memory answers the query.
func (q *StatsQuery) short() bool {
	return q.Window > 0 && q.Window <= rollup.MaxWindow && !q.Stored
}

func (q *StatsQuery) wants(k rollup.Key) bool {
	return (q.Domain == "" || q.Domain == k.Domain) && (q.Gateway == "" || q.Gateway == k.Gateway) && (q.Endpoint == "" || q.Endpoint == k.Endpoint)
}

// StatsAnswer is what was measured. It may hold more names than were asked for.
type StatsAnswer struct {
	rollup.Snapshot
	Source string
}

// figures are the JSON of what was measured of something.
type figures struct {
	TPS         int64    `json:"tps"` // in the last second that is over; of Postgres the mean of the newest ten that are stored, 0 where the range does not reach to now
	AverageTPS  float64  `json:"average_tps"`
	P50MS       *float64 `json:"p50_ms"` // null = all were throttled, here and below
	P95MS       *float64 `json:"p95_ms"`
	P99MS       *float64 `json:"p99_ms"`
	Requests    int64    `json:"requests"`
	Successes   int64    `json:"successes"`
	SuccessRate *float64 `json:"success_rate"` // of all requests, throttled ones too; null = there were none
	Throttled   int64    `json:"throttled"`
	Held        int64    `json:"held"`
	WaitedMS    int64    `json:"waited_ms"`
}

type gatewayFigures struct {
	Domain  string `json:"domain"`
	Gateway string `json:"gateway"`
	PeakTPS int64  `json:"peak_tps"`
	figures
}

type endpointFigures struct {
	Domain   string `json:"domain"`
	Gateway  string `json:"gateway"`
	Endpoint string `json:"endpoint"`
	PeakTPS  int64  `json:"peak_tps"`
	figures
}

// shownStats are the JSON of a StatsAnswer. There is no peak of all together: gateways need not be
// busy in the same second.
type shownStats struct {
	From      time.Time         `json:"from"`
	To        time.Time         `json:"to"`
	Source    string            `json:"source"`
	Total     figures           `json:"total"`
	Gateways  []gatewayFigures  `json:"gateways"`
	Endpoints []endpointFigures `json:"endpoints"`
}

// stats shows the figures of a window, or those since the start with the last minute beside.
func (a *api) stats(w http.ResponseWriter, r *http.Request) {
	q, err := statsQuery(r.URL.RawQuery, time.Now())
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	select {
	case a.asking <- struct{}{}:
		defer func() { <-a.asking }()
	default:
		w.Header().Set("Retry-After", "1")
		httpjson.Problem(w, http.StatusServiceUnavailable, fmt.Sprintf("%d others ask for figures at this moment", mostAsking))
		return
	}
	everything := q == StatsQuery{}
	if everything {
		q.Window = time.Minute
	}
	shown, err := a.shownStats(r.Context(), q)
	switch {
	case err != nil:
		a.unmeasured(w, r, err)
	case everything:
		transactions, endpoints := a.Received()
		httpjson.Answer(w, http.StatusOK, struct {
			Transactions uint64      `json:"transactions"`
			Endpoints    any         `json:"endpoints"`
			Window       *shownStats `json:"window"`
		}{transactions, endpoints, shown})
	default:
		httpjson.Answer(w, http.StatusOK, shown)
	}
}

// mostAsking bounds the answers that are made or sent at once: with 10,000 names each has megabytes.
const mostAsking = 16

// storeQuestions are put to a store at once, beside what-ifs.
const storeQuestions = 2

// longestQuestion is how long an answer out of the past may take.
const longestQuestion = 30 * time.Second

// shownStats answers one question to the memory at a time: with 10,000 names each takes tens of
// milliseconds of a processor, which decisions need. Those to a store, which may hang, have turns of
// their own.
func (a *api) shownStats(ctx context.Context, q StatsQuery) (*shownStats, error) {
	ctx, cancel := context.WithTimeout(ctx, longestQuestion)
	defer cancel()
	turns := a.fromStore
	if q.short() {
		turns = a.fromMemory
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other questions: %w", ctx.Err())
	}
	answer, err := a.Stats(ctx, q)
	if err != nil {
		return nil, err
	}
	return show(&answer, &q), nil
}

// unmeasured answers where figures could not be had.
func (a *api) unmeasured(w http.ResponseWriter, r *http.Request, err error) {
	code, level := http.StatusInternalServerError, slog.LevelError
	var away interface{ Unavailable() bool }
	_, badField := errors.AsType[*limits.FieldError](err)
	switch {
	case badField:
		code, level = http.StatusUnprocessableEntity, slog.LevelDebug
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &away) && away.Unavailable():
		code, level = http.StatusServiceUnavailable, slog.LevelWarn
	}
	if r.Context().Err() != nil { // whoever asked has gone, which may be all that was wrong
		level = slog.LevelDebug
	}
	a.Log.Log(r.Context(), level, "what was measured could not be read", slog.Any("error", err))
	httpjson.Problem(w, code, oneLine(err))
}

// show is what a query wants of an answer.
func show(a *StatsAnswer, q *StatsQuery) *shownStats {
	s := &shownStats{From: a.From, To: a.To, Source: a.Source, Gateways: []gatewayFigures{}, Endpoints: []endpointFigures{}}
	var total rollup.Stats
	gateways := a.Gateways
	if q.Endpoint != "" {
		gateways = nil // of each there is one endpoint, of which they are the figures
	}
	for i := range a.Keys {
		k := &a.Keys[i]
		if !q.wants(k.Key) {
			continue
		}
		s.Endpoints = append(s.Endpoints, endpointFigures{k.Domain, k.Gateway, k.Endpoint, k.PeakTPS, shownFigures(k)})
		if q.Endpoint != "" {
			gateways = append(gateways, *k)
		}
	}
	for i := range gateways {
		g := &gateways[i]
		if !q.wants(rollup.Key{Domain: g.Domain, Gateway: g.Gateway, Endpoint: q.Endpoint}) {
			continue
		}
		s.Gateways = append(s.Gateways, gatewayFigures{g.Domain, g.Gateway, g.PeakTPS, shownFigures(g)})
		total.Merge(&g.Counts)
		total.TPS, total.AverageTPS = total.TPS+g.TPS, total.AverageTPS+g.AverageTPS
	}
	h := &total.Histogram
	total.P50, total.P95, total.P99 = h.Quantile(0.50), h.Quantile(0.95), h.Quantile(0.99)
	s.Total = shownFigures(&total)
	return s
}

func shownFigures(s *rollup.Stats) figures {
	f := figures{
		TPS: s.TPS, AverageTPS: s.AverageTPS, Requests: s.Requests, Successes: s.Successes, Throttled: s.Throttled, Held: s.Held, WaitedMS: s.Waited.US / 1000,
	}
	if s.Requests > 0 {
		f.SuccessRate = new(float64(s.Successes) / float64(s.Requests))
	}
	if s.Requests > s.Throttled {
		f.P50MS, f.P95MS, f.P99MS = milliseconds(s.P50), milliseconds(s.P95), milliseconds(s.P99)
	}
	return f
}

func milliseconds(d time.Duration) *float64 { return new(float64(d.Microseconds()) / 1000) }

// statsQuery reads the parameters of a query; the zero StatsQuery stands for none.
func statsQuery(query string, now time.Time) (StatsQuery, error) {
	v, err := only(query, "window", "from", "to", "domain", "gateway", "endpoint")
	if err != nil {
		return StatsQuery{}, err
	}
	q, err := readStatsQuery(v)
	if err == nil {
		q.From, q.To, err = readRange(v["from"], v["to"], now)
	}
	switch {
	case err != nil:
		return q, err
	case q.Window > 0 && !q.From.IsZero():
		return q, q.Refuse("comes with from or to, which mean another time")
	case q.Window == 0 && q.From.IsZero() && q != (StatsQuery{}):
		q.Window = time.Minute
	}
	return q, nil
}

// readStatsQuery reads the window and the names.
func readStatsQuery(v map[string]string) (q StatsQuery, err error) {
	q = StatsQuery{Domain: v["domain"], Gateway: v["gateway"], Endpoint: v["endpoint"]}
	for _, name := range []string{"domain", "gateway", "endpoint"} {
		if len(v[name]) > limits.MaxNameBytes { // no name that was measured is longer
			return q, &limits.FieldError{Field: name, Value: quote(v[name]), Reason: fmt.Sprintf("is longer than %d bytes", limits.MaxNameBytes)}
		}
	}
	if given := v["window"]; given != "" {
		q.Window, err = readWindow("window", given)
	}
	return q, err
}

// longestRange is how far a question may reach.
const longestRange = 10 * 366 * 24 * time.Hour

func readWindow(field, given string) (time.Duration, error) {
	d, err := ParseDuration(given)
	if err != nil || d < time.Second || d > longestRange || d%time.Second != 0 {
		return 0, &limits.FieldError{Field: field, Value: quote(given), Reason: "is not a duration of whole seconds from 1s to 3660d, such as 30, 30s, 5m, 1h or 7d"}
	}
	return d, nil
}

// readRange reads two times, of which the later one may be missing: it is now then.
func readRange(from, to string, now time.Time) (begin, end time.Time, err error) {
	if from == "" && to == "" {
		return begin, end, nil
	}
	if from == "" {
		return begin, end, &limits.FieldError{Field: "from", Value: `""`, Reason: "is missing beside to"}
	}
	if begin, err = readTime("from", from); err != nil {
		return begin, end, err
	}
	end = now.UTC()
	if to != "" {
		if end, err = readTime("to", to); err != nil {
			return begin, end, err
		}
	}
	if !begin.Before(end) || end.Sub(begin) > longestRange {
		return begin, end, &limits.FieldError{Field: "from", Value: quote(from), Reason: "is not before the end of the range, or more than 3660d before it"}
	}
	return begin, end, nil
}

func readTime(field, given string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339, given)
	if err != nil || t.Year() < 1970 || t.Year() > 9999 {
		return t, &limits.FieldError{Field: field, Value: quote(given), Reason: "is no time such as 2006-01-02T15:04:05Z (RFC 3339)"}
	}
	return t.UTC(), nil
}

// ParseDuration reads 30, 30s, 5m, 1h30m or 7d; a bare number is seconds.
func ParseDuration(s string) (time.Duration, error) {
	if n, err := strconv.ParseInt(s, 10, 32); err == nil {
		return time.Duration(n) * time.Second, nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		n, err := strconv.ParseInt(days, 10, 16)
		return time.Duration(n) * 24 * time.Hour, err
	}
	return time.ParseDuration(s)
}
