package testenv

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Upstream is an HTTP server behind Envoy: the test's own application.
type Upstream struct {
	Addr     string // host:port
	requests atomic.Int64
}

// StartUpstream serves handler until the test ends; nil answers 200 to everything.
func StartUpstream(tb testing.TB, handler http.Handler) *Upstream {
	tb.Helper()
	u := &Upstream{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		if handler != nil {
			handler.ServeHTTP(w, r)
		}
	}))
	tb.Cleanup(s.Close)
	u.Addr = strings.TrimPrefix(s.URL, "http://")
	return u
}

// Requests is how many requests have reached it.
func (u *Upstream) Requests() int64 { return u.requests.Load() }
