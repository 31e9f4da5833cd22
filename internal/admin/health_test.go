package admin_test

import (
	"errors"
	"net/http"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/admin"
)

func TestReadiness(t *testing.T) {
	check := func(name string, err error, fatal bool) admin.Check {
		return admin.Check{Name: name, Fatal: fatal, Run: func() error { return err }}
	}
	fault := errors.New("the last good limits are served")
	tests := []struct {
		name        string
		checks      []admin.Check
		code        int
		body        string
		healthcheck int
	}{
		{"no checks", nil, 200, `{"status":"ready","checks":null}`, 200},
		{"all well", []admin.Check{check("limits", nil, true), check("source", nil, false)}, 200, `{"status":"ready","checks":[{"name":"limits","ok":true},{"name":"source","ok":true}]}`, 200},
		{"old limits", []admin.Check{check("limits", nil, true), check("source", fault, false)}, 200, `{"status":"degraded","checks":[{"name":"limits","ok":true},{"name":"source","ok":false,"message":"the last good limits are served"}]}`, 200},
		{"no limits", []admin.Check{check("limits", fault, true), check("source", fault, false)}, 503, `{"status":"not ready","checks":[{"name":"limits","ok":false,"message":"the last good limits are served"},{"name":"source","ok":false,"message":"the last good limits are served"}]}`, 500},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, options{checks: tt.checks})
			if got := s.get(t, "/readyz"); got.code != tt.code || got.body != tt.body+"\n" {
				t.Errorf("/readyz is %d %s, want %d %s", got.code, got.body, tt.code, tt.body)
			}
			wantBody := map[int]string{200: "OK"}[tt.healthcheck]
			if got := s.get(t, "/healthcheck"); got.code != tt.healthcheck || got.body != wantBody {
				t.Errorf("/healthcheck is %d %q, want %d %q", got.code, got.body, tt.healthcheck, wantBody)
			}
			if got := s.get(t, "/healthz"); got.code != http.StatusOK || got.body != "{\"status\":\"alive\"}\n" {
				t.Errorf("/healthz is %d %q", got.code, got.body)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	s := start(t, options{})
	s.get(t, "/metrics").want(t, http.StatusOK, "# TYPE ratelimitd_limits_stale gauge\n")
	s.get(t, "/api/v1/stats").want(t, http.StatusOK, `{"transactions":42,"endpoints":["endpoints"],"window":{"from":`)
	s.do(t, request{method: http.MethodPost, path: "/json", body: "{}"}).want(t, http.StatusOK, "POST decided")
	s.get(t, "/api/v2/limits").wantProblem(t, http.StatusNotFound, `path "/api/v2/limits": there is nothing`)
	s.get(t, "/").wantProblem(t, http.StatusNotFound, `path "/"`)
	for path, allowed := range map[string]string{
		"/api/v1/limits": "DELETE, GET, PUT", "/api/v1/limits/active": "GET", "/api/v1/stats": "GET", "/api/v1/stats/stream": "GET",
		"/healthz": "GET", "/readyz": "GET", "/healthcheck": "GET", "/metrics": "GET",
	} {
		got := s.do(t, request{method: http.MethodPost, path: path, body: "{}"})
		got.wantProblem(t, http.StatusMethodNotAllowed, `method "POST": `+path+" takes "+allowed)
		if got.header.Get("Allow") != allowed {
			t.Errorf("POST %s: Allow is %q", path, got.header.Get("Allow"))
		}
		if got := s.do(t, request{method: http.MethodHead, path: path}); got.code != http.StatusOK || got.body != "" {
			t.Errorf("HEAD %s: %d %q", path, got.code, got.body)
		}
	}
	// A page in a browser asks before it sends a PUT to another origin: nothing allows that.
	got := s.do(t, request{method: http.MethodOptions, path: "/api/v1/limits", header: map[string]string{"Origin": "http://evil.example", "Access-Control-Request-Method": "PUT"}})
	if got.code != http.StatusMethodNotAllowed || got.header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a preflight is answered with %d %v", got.code, got.header)
	}
}
