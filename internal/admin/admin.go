package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Store is where limits are written. Both return once the change is in force here; an error
// with a method Unavailable() bool that says true is answered with 503.
type Store interface {
	Put(ctx context.Context, l limits.Limit, who string) (limits.Limit, error)
	// Delete returns limits.ErrNotFound where there is no such row.
	Delete(ctx context.Context, key limits.Key, who string) error
}

// Check is one thing that readiness depends on.
type Check struct {
	Name  string
	Run   func() error
	Fatal bool // false: said, but no reason not to serve
}

// Config of the API.
type Config struct {
	Tokens []Token // none = writes are for this host alone
}

// Deps are what the handlers show and change.
type Deps struct {
	Store    Store
	Current  *limits.Current
	Stats    func() any // what GET /api/v1/stats shows
	Checks   []Check
	Gatherer prometheus.Gatherer
	JSON     http.Handler // POST /json
	Log      *slog.Logger
}

type api struct {
	Deps
	tokens []Token
}

// New returns the handler of every path on the HTTP port.
func New(cfg Config, deps Deps) http.Handler {
	a := &api{Deps: deps, tokens: cfg.Tokens}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/limits", a.listLimits)
	mux.HandleFunc("PUT /api/v1/limits", a.putLimit)
	mux.HandleFunc("DELETE /api/v1/limits", a.deleteLimit)
	mux.HandleFunc("GET /api/v1/limits/active", a.activeLimits)
	mux.HandleFunc("GET /api/v1/stats", a.stats)
	mux.Handle("/json", deps.JSON)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, map[string]string{"status": "alive"})
	})
	mux.HandleFunc("GET /readyz", a.readyz)
	mux.HandleFunc("GET /healthcheck", a.healthcheck)
	mux.Handle("GET /metrics", promhttp.HandlerFor(deps.Gatherer, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, fmt.Sprintf("path %.200q: there is nothing", r.URL.Path))
	})
	return mux
}

func (a *api) stats(w http.ResponseWriter, r *http.Request) {
	if a.allow(w, r, RoleRead) {
		answer(w, http.StatusOK, a.Stats())
	}
}

// checkResult is one line of /readyz.
type checkResult struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
}

func (a *api) runChecks() (ready bool, results []checkResult) {
	ready = true
	for _, c := range a.Checks {
		res := checkResult{Name: c.Name, OK: true}
		if err := c.Run(); err != nil {
			res.OK, res.Message = false, err.Error()
			ready = ready && !c.Fatal
		}
		results = append(results, res)
	}
	return ready, results
}

// readyz says what is missing. A check that is not fatal is said, and the answer is still 200.
func (a *api) readyz(w http.ResponseWriter, _ *http.Request) {
	ready, results := a.runChecks()
	code, status := http.StatusOK, "ready"
	if !ready {
		code, status = http.StatusServiceUnavailable, "not ready"
	}
	answer(w, code, map[string]any{"status": status, "checks": results})
}

// healthcheck is readyz as envoyproxy/ratelimit has it.
func (a *api) healthcheck(w http.ResponseWriter, _ *http.Request) {
	if ready, _ := a.runChecks(); !ready {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("OK")) // whoever asked has gone: nobody is left to tell
}

// answer writes v as JSON.
func answer(w http.ResponseWriter, code int, v any) {
	write(w, code, "application/json", v)
}

// problem answers with an RFC 9457 problem.
func problem(w http.ResponseWriter, code int, detail string) {
	write(w, code, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(code), code, detail})
}

func write(w http.ResponseWriter, code int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // whoever asked has gone: nobody is left to tell
}

// failed answers a write that the store did not make.
func (a *api) failed(w http.ResponseWriter, r *http.Request, err error) {
	var away interface{ Unavailable() bool }
	var fault *limits.FieldError
	switch {
	case errors.Is(err, limits.ErrNotFound):
		problem(w, http.StatusNotFound, err.Error())
	case errors.As(err, &fault):
		problem(w, http.StatusUnprocessableEntity, err.Error())
	case errors.As(err, &away) && away.Unavailable():
		a.Log.WarnContext(r.Context(), "a limit could not be written", slog.Any("error", err))
		problem(w, http.StatusServiceUnavailable, err.Error())
	default:
		a.Log.ErrorContext(r.Context(), "a limit could not be written", slog.Any("error", err))
		problem(w, http.StatusInternalServerError, err.Error())
	}
}
