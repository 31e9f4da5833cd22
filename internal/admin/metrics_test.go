package admin_test

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// broken is a metric that cannot be collected.
type broken struct{ desc *prometheus.Desc }

func (b broken) Describe(c chan<- *prometheus.Desc) { c <- b.desc }

func (b broken) Collect(c chan<- prometheus.Metric) {
	c <- prometheus.NewInvalidMetric(b.desc, errors.New("no such file"))
}

// gone is a client that takes nothing.
type gone struct{ http.ResponseWriter }

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

// One bad metric hides no other, and is told; a client that leaves is not.
func TestMetricsThatCannotBeShown(t *testing.T) {
	var logs testenv.Logs
	registry, scrape := prometheus.NewRegistry(), httptest.NewRequest(http.MethodGet, "/metrics", nil)
	registry.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "good", Help: "h"}))
	h := admin.Metrics(registry, slog.New(slog.NewTextHandler(&logs, nil)))
	h.ServeHTTP(gone{httptest.NewRecorder()}, scrape)
	if logs.String() != "" {
		t.Errorf("of a client that left: %s", logs.String())
	}
	registry.MustRegister(broken{prometheus.NewDesc("bad", "h", nil, nil)})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, scrape)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "\ngood 0\n") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if log := logs.String(); strings.Count(log, "level=ERROR") != 1 || !strings.Contains(log, "some metrics cannot be shown") || !strings.Contains(log, "no such file") {
		t.Errorf("logged %s", log)
	}
}
