package testenv

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// Prometheus is a private server.
type Prometheus struct {
	proc   *process
	addr   string
	client http.Client
}

// StartPrometheus runs Prometheus with a configuration, and flags, until the test ends.
func StartPrometheus(tb testing.TB, config string, flags ...string) *Prometheus {
	tb.Helper()
	binary, err := exec.LookPath("prometheus")
	if err != nil {
		tb.Fatalf("Prometheus is not installed: %v (`make deps` installs it)", err)
	}
	dir := tb.TempDir()
	path := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	p := &Prometheus{
		addr:   net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(tb))),
		client: http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	p.proc = start(tb, program{path: binary, args: append([]string{
		"--config.file=" + path, "--storage.tsdb.path=" + filepath.Join(dir, "data"), "--web.listen-address=" + p.addr, "--log.level=warn",
	}, flags...)})
	tb.Cleanup(p.proc.kill)
	Eventually(tb, 30*time.Second, "starting Prometheus", func() error {
		if !p.proc.running() {
			tb.Fatalf("Prometheus has ended:\n%s", p.proc.out)
		}
		_, err := p.query(tb.Context(), "vector(1)")
		return err
	})
	return p
}

// Sample is one value of a query.
type Sample struct {
	Labels map[string]string
	Value  float64
}

// Query evaluates PromQL that gives a vector.
func (p *Prometheus) Query(tb testing.TB, promQL string) []Sample {
	tb.Helper()
	samples, err := p.query(tb.Context(), promQL)
	if err != nil {
		tb.Fatal(err)
	}
	return samples
}

func (p *Prometheus) query(ctx context.Context, promQL string) ([]Sample, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.addr+"/api/v1/query?"+url.Values{"query": {promQL}}.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out struct {
		Error string `json:"error"`
		Data  struct {
			Result []struct {
				Metric map[string]string `json:"metric"`
				Value  [2]any            `json:"value"` // time, value as text
			} `json:"result"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return nil, fmt.Errorf("asking Prometheus for %s: %s: %w", promQL, resp.Status, err)
	}
	if out.Error != "" {
		return nil, fmt.Errorf("asking Prometheus for %s: %s", promQL, out.Error)
	}
	var samples []Sample
	for _, r := range out.Data.Result {
		value, err := strconv.ParseFloat(fmt.Sprint(r.Value[1]), 64)
		if err != nil {
			return nil, fmt.Errorf("asking Prometheus for %s: %w", promQL, err)
		}
		samples = append(samples, Sample{Labels: r.Metric, Value: value})
	}
	return samples, nil
}
