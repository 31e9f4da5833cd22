//go:build e2e

package e2e_test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// Under traffic that is admitted, refused and held, what Prometheus scrapes from ratelimitd makes
// every panel of the dashboard show something. The counts are those that Envoy's clients saw. A
// Prometheus with native histograms has these alone, without classic buckets.
func TestDashboardShowsTraffic(t *testing.T) {
	t.Run("classic histograms", func(t *testing.T) { showsTraffic(t) })
	t.Run("native histograms", func(t *testing.T) { showsTraffic(t, "--enable-feature=native-histograms") })
}

func showsTraffic(t *testing.T, flags ...string) {
	t.Helper()
	files := t.TempDir()
	if err := os.WriteFile(filepath.Join(files, "files.yaml"), []byte("domain: files\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: 1}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newStack(t, stackConfig{envoy: "envoy-hold.yaml", env: []string{"TPS_CONFIG_DIR=" + files}})
	s.setLimits(t, `INSERT INTO tps_limits (gateway, endpoint, max_tps, burst, max_wait_ms) VALUES
		('gw-main', 'pay', 1, 5, 0), ('gw-main', 'report', 20, 1, 20000)`)
	prometheus := testenv.StartPrometheus(t, fmt.Sprintf(
		"global: {scrape_interval: 100ms}\nscrape_configs: [{job_name: ratelimitd, static_configs: [{targets: [%q]}]}]", s.daemon.httpAddr), flags...)

	round := func(n int) (refused int) {
		t.Helper()
		var group sync.WaitGroup
		var mu sync.Mutex
		for i := range n {
			endpoint := []string{"pay", "report", ""}[i%3]
			group.Go(func() {
				r, err := s.get(t.Context(), endpoint)
				mu.Lock()
				defer mu.Unlock()
				switch {
				case err != nil:
					t.Errorf("endpoint %q: %v", endpoint, err)
				case r.status == http.StatusTooManyRequests:
					refused++
				}
			})
		}
		group.Wait()
		s.askFiles(t)
		return refused
	}
	// Rates need a sample before and one after.
	refused := round(60)
	s.awaitSamples(t, prometheus, 60)
	refused += round(60)
	s.awaitSamples(t, prometheus, 120)

	if got := prometheus.Query(t, `sum(ratelimitd_transactions_total{gateway="gw-main",endpoint="pay",throttled="true"})`); len(got) != 1 || int(got[0].Value) != refused || refused == 0 {
		t.Errorf("throttled transactions of pay are %v, clients saw %d times 429", got, refused)
	}
	for where, q := range promQueries(t) {
		if strings.HasPrefix(where, "alert ") {
			continue // they show nothing while all is well
		}
		if got := prometheus.Query(t, q); len(got) == 0 {
			t.Errorf("%s shows nothing: %s", where, q)
		}
	}
	s.neverFailedOpen(t)
}

// askFiles takes a hit of a limit of a descriptor file, and one beyond it.
func (s *stack) askFiles(tb testing.TB) {
	tb.Helper()
	for range 2 {
		req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+s.daemon.httpAddr+"/json", strings.NewReader(`{"domain":"files","descriptors":[{"entries":[{"key":"k"}]}]}`))
		if err != nil {
			tb.Fatal(err)
		}
		resp, err := s.http1.Do(req)
		if err != nil {
			tb.Fatal(err)
		}
		_ = resp.Body.Close() // the metrics tell
	}
}

// awaitSamples returns when Prometheus has seen so many transactions.
func (s *stack) awaitSamples(tb testing.TB, p *testenv.Prometheus, n int) {
	tb.Helper()
	testenv.Eventually(tb, 30*time.Second, "Prometheus", func() error {
		got := p.Query(tb, "sum(ratelimitd_transactions_total)")
		if len(got) != 1 || int(got[0].Value) != n {
			return fmt.Errorf("it has seen %v transactions, want %d", got, n)
		}
		return nil
	})
}

// The environment of the service ratelimitd is one that ratelimitd starts with: only addresses
// and the data directory are replaced.
func TestComposeEnvironmentStarts(t *testing.T) {
	address, err := pgx.ParseConfig(testenv.Database(t))
	if err != nil {
		t.Fatal(err)
	}
	d := newDaemon(t)
	env := environment(service(t, loadCompose(t, nil), "ratelimitd"))
	env["TPS_DB_HOST"], env["TPS_DB_PORT"], env["TPS_DB_NAME"], env["TPS_DB_USER"] = address.Host, strconv.Itoa(int(address.Port)), address.Database, address.User
	delete(env, "TPS_DATA_DIR")
	for name, value := range env {
		d.env = append(d.env, name+"="+value)
	}
	d.start(t)
	status, _, err := d.get(t.Context(), "/api/v1/limits")
	if err != nil || status != http.StatusUnauthorized {
		t.Errorf("the API without the token answers %d, %v, want 401", status, err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+d.httpAddr+"/api/v1/limits", http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer demo")
	resp, err := newHTTP1(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("the API with the token demo answers %d, want 200", resp.StatusCode)
	}
	d.stop(t)
}
