package testenv_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestPrometheusScrapes(t *testing.T) {
	target := testenv.StartUpstream(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4")
		fmt.Fprintln(w, `answers_total{kind="a"} 42`)
	}))
	p := testenv.StartPrometheus(t, fmt.Sprintf(`
scrape_configs:
- job_name: test
  scrape_interval: 100ms
  scrape_timeout: 100ms
  static_configs: [{ targets: [%q] }]
`, target.Addr))
	testenv.Eventually(t, 20*time.Second, "the first scrape", func() error {
		got := p.Query(t, "answers_total")
		if len(got) != 1 || got[0].Value != 42 || got[0].Labels["kind"] != "a" || got[0].Labels["job"] != "test" {
			return fmt.Errorf("answers_total is %v, want 42 of kind a", got)
		}
		return nil
	})
	if target.Requests() == 0 {
		t.Error("the target has counted no request")
	}
}
