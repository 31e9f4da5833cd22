package admin

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// Store is where limits are written. Both return once the change is in force here; an error
// with a method Unavailable() bool that says true is answered with 503.
type Store interface {
	Put(ctx context.Context, l limits.Limit, who string) (limits.Limit, error)
	// Delete returns limits.ErrNotFound where there is no such row.
	Delete(ctx context.Context, key limits.Key, who string) error
}

// Config of the API.
type Config struct {
	Tokens      []Token       // none = writes are for this host alone
	BodyTimeout time.Duration // within which a body must have arrived; 0 = 10 s
	// ClientCertificates: only a client whose certificate the listener has verified gets an answer,
	// but for the paths of probes. The listener must ask for certificates without demanding them.
	ClientCertificates bool
}

// Deps are what the handlers show and change.
type Deps struct {
	Store   Store
	Current *limits.Current
	// Received returns how many transactions there were since the start, and what is known of each
	// endpoint, which is shown as its JSON has it.
	Received func() (transactions uint64, endpoints any)
	// Stats answers a query. An error is answered with 422 where it is a [limits.FieldError] (see
	// [StatsQuery.Refuse]), with 503 where it has a method Unavailable() bool that says true.
	Stats func(context.Context, StatsQuery) (StatsAnswer, error)
	// Seconds tells how many requests came in each second. Errors are those of Stats.
	Seconds func(context.Context, SecondsQuery) (SecondsAnswer, error)
	// WhatIfRange is how far back a limit is tried where nobody says: what Seconds reaches, at most a
	// day; 0 = an hour.
	WhatIfRange time.Duration
	// Done is closed when the server drains: streams end, so that it need not wait for them. nil = never.
	Done     <-chan struct{}
	Checks   []Check
	Gatherer prometheus.Gatherer
	JSON     http.Handler // POST /json
	Explain  http.Handler // POST /api/v1/explain
	// Fullest returns at most most of the live buckets: those that requests wait for first, then
	// those with the smallest part of their room left.
	Fullest func(most int) []Bucket
	// ResetBucket fills a bucket again; false where there is none, or it is full.
	ResetBucket func(BucketKey) bool
	// Offer takes transactions that nobody numbers, and returns once they survive the end of the process.
	// It does not keep the slice. An error with a method TooMany() bool that says true is answered with
	// 413, any other with 503: then they may be offered again.
	Offer func(context.Context, []traffic.Transaction) error
	// Receive stores transactions that somebody numbers: those that were not here before. A
	// [traffic.RefusedError] is answered with 422, any other with 503.
	Receive func(context.Context, traffic.Batch) (fresh int, err error)
	// Line reads one line of Envoy's access log in JSON. What is not counted is not the end of a request
	// or connection.
	Line func(line []byte) (t traffic.Transaction, counted bool, err error)
	// FileDomain tells of a domain whose limits descriptor files name, so that it has no rows; nil = none.
	FileDomain func(domain string) bool
	Log        *slog.Logger
}

type api struct {
	Deps
	tokens      []Token
	bodyTimeout time.Duration
	streams     streams
	fromMemory  chan struct{} // has an element while figures are put together from memory
	fromStore   chan struct{} // and one for each question that a store is asked
	asking      chan struct{} // one for each client that is given figures
	replays     chan struct{} // of what-ifs under way
	reading     chan struct{} // has an element for each body of transactions that is read
}

// New returns the handler of every path on the HTTP port.
func New(cfg Config, deps Deps) http.Handler {
	a := &api{
		Deps: deps, tokens: cfg.Tokens, bodyTimeout: cfg.BodyTimeout, streams: streams{shared: make(map[StatsQuery]*sharedEvent)},
		fromMemory: make(chan struct{}, 1), fromStore: make(chan struct{}, storeQuestions), asking: make(chan struct{}, mostAsking),
		replays: make(chan struct{}, replaysAtOnce), reading: make(chan struct{}, mostReading),
	}
	a.WhatIfRange = cmp.Or(a.WhatIfRange, time.Hour)
	if a.bodyTimeout <= 0 {
		a.bodyTimeout = httpjson.DefaultBodyTimeout
	}
	mux := http.NewServeMux()
	for path, methods := range a.routes() {
		for method, handler := range methods {
			mux.Handle(method+" "+path, handler)
		}
		mux.Handle(path, onlyMethods(methods))
	}
	mux.Handle("/json", deps.JSON)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		httpjson.Problem(w, http.StatusNotFound, "path "+quote(r.URL.Path)+": there is nothing")
	})
	if cfg.ClientCertificates {
		return withCertificate(mux)
	}
	return mux
}

// routes are the handlers by path and method. HEAD goes where GET goes.
func (a *api) routes() map[string]map[string]http.Handler {
	read, write := a.needs(RoleRead), a.needs(RoleWrite)
	return map[string]map[string]http.Handler{
		"/api/v1/limits": {
			http.MethodGet: read(a.listLimits), http.MethodPut: write(a.putLimit), http.MethodDelete: write(a.deleteLimit),
		},
		"/api/v1/limits/active": {http.MethodGet: read(a.activeLimits)},
		"/api/v1/stats":         {http.MethodGet: read(a.stats)},
		"/api/v1/stats/stream":  {http.MethodGet: read(a.streamStats)},
		"/api/v1/whatif":        {http.MethodPost: read(a.whatIf)},
		"/api/v1/explain":       {http.MethodPost: read(a.explain)},
		"/api/v1/buckets":       {http.MethodGet: read(a.listBuckets)},
		"/api/v1/buckets/reset": {http.MethodPost: write(a.resetBucket)},
		"/api/v1/transactions":  {http.MethodPost: write(a.postTransactions)},
		"/healthz":              {http.MethodGet: http.HandlerFunc(healthz)},
		"/readyz":               {http.MethodGet: http.HandlerFunc(a.readyz)},
		"/healthcheck":          {http.MethodGet: http.HandlerFunc(a.healthcheck)},
		"/metrics":              {http.MethodGet: Metrics(a.Gatherer, a.Log)},
	}
}

// onlyMethods refuses the methods that a path does not have.
func onlyMethods(methods map[string]http.Handler) http.Handler {
	allowed := strings.Join(slices.Sorted(maps.Keys(methods)), ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", allowed)
		httpjson.Problem(w, http.StatusMethodNotAllowed, "method "+quote(r.Method)+": "+r.URL.Path+" takes "+allowed)
	})
}

// Metrics shows what can be gathered, and logs what cannot: a metric that goes missing is an
// alarm that stays silent.
func Metrics(g prometheus.Gatherer, log *slog.Logger) http.Handler {
	logged := prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		all, err := g.Gather()
		if err != nil {
			log.Error("some metrics cannot be shown", slog.Any("error", err))
		}
		return all, err
	})
	// Without a log of its own: it would have a line for each family that a client did not wait for.
	return promhttp.HandlerFor(logged, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

func (a *api) explain(w http.ResponseWriter, r *http.Request) { a.Explain.ServeHTTP(w, r) }

// quote shows what a client sent, cut to a length that fits a line.
func quote(s string) string {
	const longest = 64
	if len(s) > longest {
		return strconv.Quote(s[:longest]) + "…"
	}
	return strconv.Quote(s)
}
