package testenv

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// Upstream is an HTTP server behind Envoy: the test's own application. It speaks HTTP/1 and, to
// those who begin with it, HTTP/2.
type Upstream struct {
	Addr     string // host:port
	requests atomic.Int64
	server   *httptest.Server
}

// StartUpstream serves handler until Stop, or until the test ends; nil answers 200 to everything.
func StartUpstream(tb testing.TB, handler http.Handler) *Upstream {
	tb.Helper()
	u := &Upstream{}
	u.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.requests.Add(1)
		if handler != nil {
			handler.ServeHTTP(w, r)
		}
	}))
	u.server.Config.Protocols = new(http.Protocols)
	u.server.Config.Protocols.SetHTTP1(true)
	u.server.Config.Protocols.SetUnencryptedHTTP2(true)
	u.server.Start()
	tb.Cleanup(u.Stop)
	u.Addr = strings.TrimPrefix(u.server.URL, "http://")
	return u
}

// Stop refuses connections from now on, once what it still serves has ended.
func (u *Upstream) Stop() { u.server.Close() }

// Requests is how many requests have reached it.
func (u *Upstream) Requests() int64 { return u.requests.Load() }
