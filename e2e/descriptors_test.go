//go:build e2e

package e2e_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// shapesFile has the shapes of the public examples of envoyproxy/ratelimit. Its windows are long, so
// that none ends during the test.
const shapesFile = `
domain: edge
descriptors:
- {key: remote_address, rate_limit: {unit: year, requests_per_unit: 3, name: per address}}
- {key: header_match, value: post, rate_limit: {unit: year, requests_per_unit: 2}}
- key: database
  value: users
  rate_limit: {unit: year, requests_per_unit: 0}
  descriptors:
  - {key: user, rate_limit: {unit: year, requests_per_unit: 2}}
  - {key: user, value: root}
- {key: path, value: /wild/*, share_threshold: true, rate_limit: {unit: year, requests_per_unit: 3}}
- {key: path, value: /each/*, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: generic_key, value: cost, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: tenant, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: plan, value: gold, quota_mode: true, rate_limit: {unit: year, requests_per_unit: 3}}
- {key: generic_key, value: trial, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
`

// shapesRoutes are the routes of Envoy that ask for them.
const shapesRoutes = `              - match: { prefix: "/ip" }
                route: { cluster: app, rate_limits: [ { actions: [ { remote_address: {} } ] } ] }
              - match: { prefix: "/post" }
                route:
                  cluster: app
                  rate_limits:
                  - actions:
                    - header_value_match: { descriptor_key: header_match, descriptor_value: post, headers: [ { name: ":method", string_match: { exact: POST } } ] }
              - match: { prefix: "/nested" }
                route:
                  cluster: app
                  rate_limits:
                  - actions:
                    - generic_key: { descriptor_key: database, descriptor_value: users }
                    - request_headers: { header_name: x-user, descriptor_key: user }
              - match: { safe_regex: { regex: "/(wild|each)/.*" } }
                route: { cluster: app, rate_limits: [ { actions: [ { request_headers: { header_name: ":path", descriptor_key: path } } ] } ] }
              - match: { prefix: "/cost" }
                route: { cluster: app }
                typed_per_filter_config:
                  envoy.filters.http.ratelimit:
                    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute
                    rate_limits: [ { actions: [ { generic_key: { descriptor_value: cost } } ], hits_addend: { format: "%REQ(x-cost)%" } } ]
              - match: { prefix: "/quota" }
                route:
                  cluster: app
                  rate_limits:
                  - actions: [ { request_headers: { header_name: x-user, descriptor_key: tenant } } ]
                  - actions: [ { generic_key: { descriptor_key: plan, descriptor_value: gold } } ]
              - match: { prefix: "/trial" }
                route: { cluster: app, rate_limits: [ { actions: [ { generic_key: { descriptor_value: trial } } ] } ] }
`

// withRoutes replaces the routes of envoy.yaml.
func withRoutes(tb testing.TB, routes string) func(string) string {
	tb.Helper()
	return func(config string) string {
		before, rest, ok := strings.Cut(config, "              routes:\n")
		_, after, ok2 := strings.Cut(rest, "  clusters:\n")
		if !ok || !ok2 {
			tb.Fatal("the configuration has no routes, or no clusters after them")
		}
		return before + "              routes:\n" + routes + "  clusters:\n" + after
	}
}

// filesStack is Envoy and a ratelimitd over descriptor files, without a database.
type filesStack struct {
	*stack

	dir string // of the files
}

func newFilesStack(tb testing.TB, routes, file string, env ...string) *filesStack {
	tb.Helper()
	s := &filesStack{stack: &stack{upstream: testenv.StartUpstream(tb, nil)}, dir: tb.TempDir()}
	s.write(tb, "edge.yaml", file)
	s.daemon = newDaemon(tb, append([]string{"TPS_CONFIG_DIR=" + s.dir}, env...)...)
	s.daemon.start(tb)
	s.envoy = testenv.StartEnvoy(tb, testenv.EnvoyConfig{File: "envoy.yaml", Ratelimitd: s.daemon.grpcAddr, Upstream: s.upstream.Addr, Edit: withRoutes(tb, routes)})
	s.http1 = newHTTP1(tb)
	return s
}

func (s *filesStack) write(tb testing.TB, name, body string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// send asks for a path, with headers name, value in turn.
func (s *filesStack) send(tb testing.TB, method, path string, headers ...string) reply {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), method, "http://"+s.envoy.Listener+path, http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := s.http1.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	_ = resp.Body.Close() // only its status and headers are looked at
	return reply{status: resp.StatusCode, header: resp.Header}
}

// Real Envoy is limited by descriptor files as it is by envoyproxy/ratelimit.
func TestDescriptorFiles(t *testing.T) {
	testenv.InOneWindow(t, testenv.Year)
	s := newFilesStack(t, shapesRoutes, shapesFile)
	const passed, limited = http.StatusOK, http.StatusTooManyRequests
	sent, throttled := int64(0), 0.0
	for _, c := range []struct {
		name, method, path string
		headers            []string
		want               []int
	}{
		{"each address", "GET", "/ip", nil, []int{passed, passed, passed, limited, limited}},
		{"a header that matches", "POST", "/post", nil, []int{passed, passed, limited}},
		{"a header that does not", "GET", "/post", nil, []int{passed, passed, passed}},
		{"nested: each user", "GET", "/nested", []string{"x-user", "ann"}, []int{passed, passed, limited}},
		{"nested: another user", "GET", "/nested", []string{"x-user", "bob"}, []int{passed, passed, limited}},
		{"nested: an allow-list entry", "GET", "/nested", []string{"x-user", "root"}, []int{passed, passed, passed}},
		{"nested: no such header, so no descriptor", "GET", "/nested", nil, []int{passed, passed, passed}},
		{"wildcard, shared", "GET", "/wild/a", nil, []int{passed, passed}},
		{"wildcard, shared by another path", "GET", "/wild/b", nil, []int{passed, limited}},
		{"wildcard, each path", "GET", "/each/a", nil, []int{passed, limited}},
		{"wildcard, another path", "GET", "/each/b", nil, []int{passed, limited}},
		{"cost", "GET", "/cost", []string{"x-cost", "4"}, []int{passed, passed}},
		{"cost beyond what is left counts in full", "GET", "/cost", []string{"x-cost", "3"}, []int{limited}},
		{"cost 0 only asks", "GET", "/cost", []string{"x-cost", "0"}, []int{limited}},
		{"quota: the tenant's first", "GET", "/quota", []string{"x-user", "ann"}, []int{passed}},
		{"quota: the tenant is over, the plan not", "GET", "/quota", []string{"x-user", "ann"}, []int{passed, passed}},
		{"quota: both are over", "GET", "/quota", []string{"x-user", "ann"}, []int{limited}},
		{"quota: the plan is over, the tenant not", "GET", "/quota", []string{"x-user", "bob"}, []int{passed, limited}},
		{"shadow", "GET", "/trial", nil, []int{passed, passed, passed}},
	} {
		for i, want := range c.want {
			got := s.send(t, c.method, c.path, c.headers...)
			if got.status != want {
				t.Errorf("%s, request %d: status %d, want %d", c.name, i, got.status, want)
			}
			if sent++; got.status == limited {
				throttled++
			}
		}
	}
	s.neverFailedOpen(t)
	s.envoy.FlushLogs(t, sent)
	testenv.Eventually(t, 10*time.Second, "the access log", func() error { // which tells who was refused by a flag: there is no metadata
		counted := 0.0
		for series, n := range s.daemon.metrics(t, "ratelimitd_transactions_total{") {
			if strings.Contains(series, `throttled="true"`) {
				counted += n
			}
		}
		if counted != throttled {
			return fmt.Errorf("%v transactions were throttled, Envoy's client saw %v times 429", counted, throttled)
		}
		return nil
	})
	over := s.send(t, http.MethodGet, "/ip")
	if got := over.header.Get("X-Ratelimit-Limit"); got != `3, 3;w=31536000;name="per address"` || over.header.Get("X-Ratelimit-Remaining") != "0" {
		t.Errorf("headers of a refusal %v", over.header)
	}
	for series, want := range map[string]float64{
		`ratelimitd_descriptor_hits_total{domain="edge",limit="generic_key_trial",result="shadow"}`:      2,
		`ratelimitd_descriptor_hits_total{domain="edge",limit="path_/wild/*",result="over_limit"}`:       1,
		`ratelimitd_descriptor_hits_total{domain="edge",limit="generic_key_cost",result="over_limit"}`:   1,
		`ratelimitd_descriptor_hits_total{domain="edge",limit="generic_key_cost",result="within_limit"}`: 8,
		`ratelimitd_descriptor_hits_total{domain="edge",limit="generic_key_cost",result="near_limit"}`:   2,
	} {
		if got := s.daemon.metric(t, series); got != want {
			t.Errorf("%s is %v, want %v", series, got, want)
		}
	}
}

// A file that is changed under traffic is in force within the promised time, keeps its counts, and a bad
// one changes nothing.
func TestDescriptorFilesReload(t *testing.T) {
	testenv.InOneWindow(t, testenv.Year)
	const routes = `              - match: { prefix: "/" }
                route: { cluster: app, rate_limits: [ { actions: [ { generic_key: { descriptor_value: all } } ] } ] }
`
	file := func(n int) string {
		return fmt.Sprintf("domain: edge\ndescriptors: [{key: generic_key, value: all, rate_limit: {unit: year, requests_per_unit: %d}}]\n", n)
	}
	s := newFilesStack(t, routes, file(2))
	for i, want := range []int{http.StatusOK, http.StatusOK, http.StatusTooManyRequests} {
		if got := s.send(t, http.MethodGet, "/"); got.status != want {
			t.Errorf("request %d: status %d, want %d", i, got.status, want)
		}
	}
	sent, took := 3, make([]time.Duration, 0, 21)
	for i := range cap(took) {
		limit := 1000 + i
		began := time.Now()
		s.write(t, "edge.yaml", file(limit))
		testenv.Eventually(t, 10*time.Second, "the raise", func() error {
			sent++
			got := s.send(t, http.MethodGet, "/")
			if want := fmt.Sprintf("%d, %d;w=31536000", limit, limit); got.status != http.StatusOK || got.header.Get("X-Ratelimit-Limit") != want {
				return fmt.Errorf("status %d, headers %v, want %s", got.status, got.header, want)
			}
			return nil
		})
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	t.Logf("%d changes in force after %v, at most %v", len(took), took[len(took)/2], took[len(took)-1])
	if median := took[len(took)/2]; median > 100*time.Millisecond {
		t.Errorf("a change is in force after %v, want 100 ms", median)
	}
	s.write(t, "edge.yaml", "domain: edge\ndescriptors: [")
	testenv.Eventually(t, 10*time.Second, "the bad file", func() error {
		if s.daemon.metric(t, "ratelimitd_descriptor_files_bad") != 1 {
			return errors.New("it was not noticed")
		}
		return nil
	})
	got := s.send(t, http.MethodGet, "/")
	if left := got.header.Get("X-Ratelimit-Remaining"); got.status != http.StatusOK || left != strconv.Itoa(1020-sent-1) {
		t.Errorf("status %d, %s left, want 200 and %d", got.status, left, 1020-sent-1)
	}
	s.neverFailedOpen(t)
}
