package testenv

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// envoyPin is the version that `make deps` installs into .cache.
const envoyPin = "1.40.0"

// Addresses are what is replaced in the files of envoy/, as the head of each file says. All are
// host:port.
type Addresses struct {
	Listener   string
	Admin      string
	Ratelimitd string
	Upstream   string
}

// Apply replaces the four addresses in a file of envoy/. The error names an address that is no
// host:port, or one that config does not have.
func (a Addresses) Apply(config string) (string, error) {
	for _, r := range [4]struct {
		port int
		to   string
	}{{10000, a.Listener}, {9901, a.Admin}, {8081, a.Ratelimitd}, {8000, a.Upstream}} {
		host, port, err := net.SplitHostPort(r.to)
		if err != nil {
			return "", fmt.Errorf("replacing port %d: %w", r.port, err)
		}
		// The space keeps 8000 from being found in 80001.
		old := fmt.Sprintf("address: 127.0.0.1, port_value: %d ", r.port)
		if !strings.Contains(config, old) {
			return "", fmt.Errorf("replacing port %d: the configuration has no %q", r.port, old)
		}
		config = strings.ReplaceAll(config, old, fmt.Sprintf("address: %s, port_value: %s ", host, port))
	}
	return config, nil
}

// Envoy is a private Envoy with one worker, so that there is one connection and one stream of
// access logs to ratelimitd.
type Envoy struct {
	proc     *process
	admin    string // host:port
	client   http.Client
	Listener string // host:port of its first listener
}

// EnvoyConfig says what an Envoy runs.
type EnvoyConfig struct {
	File       string // of envoy/
	Ratelimitd string // host:port of TPS_GRPC_ADDR
	Upstream   string // host:port
	// Edit changes the configuration beyond its addresses; nil = nothing. It fails the test where
	// it finds nothing to change.
	Edit func(config string) string
	// Unhealthy: Envoy is not waited for until it has found ratelimitd, because it will not.
	Unhealthy bool
}

// StartEnvoy runs a file of envoy/ until the test ends. It returns when Envoy listens and its
// health checks have found ratelimitd.
func StartEnvoy(tb testing.TB, cfg EnvoyConfig) *Envoy {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(Root(tb), "envoy", cfg.File))
	if err != nil {
		tb.Fatal(err)
	}
	config, err := Addresses{Listener: "127.0.0.1:0", Admin: "127.0.0.1:0", Ratelimitd: cfg.Ratelimitd, Upstream: cfg.Upstream}.Apply(string(body))
	if err != nil {
		tb.Fatalf("%s: %v", cfg.File, err)
	}
	if cfg.Edit != nil {
		config = cfg.Edit(config)
	}
	dir := tb.TempDir()
	path, adminPath := filepath.Join(dir, "envoy.yaml"), filepath.Join(dir, "admin")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	e := &Envoy{
		client: http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		proc: start(tb, program{path: EnvoyBinary(tb), args: []string{
			"-c", path, "--concurrency", "1", "--use-dynamic-base-id", "--admin-address-path", adminPath, "-l", "warning",
		}}),
	}
	tb.Cleanup(e.proc.kill)
	Eventually(tb, 30*time.Second, "starting Envoy", func() error { return e.ready(tb, adminPath, cfg.Unhealthy) })
	return e
}

// ready finds the addresses of an Envoy that is starting, and says what it still waits for.
func (e *Envoy) ready(tb testing.TB, adminPath string, unhealthy bool) error {
	tb.Helper()
	if !e.proc.running() {
		tb.Fatalf("Envoy has ended:\n%s", e.proc.out)
	}
	admin, err := os.ReadFile(adminPath)
	if err != nil {
		return fmt.Errorf("no address of its admin yet: %w", err)
	}
	e.admin = string(admin)
	if e.Listener, err = e.firstListener(tb.Context()); err != nil {
		return err
	}
	stats, err := e.stats(tb.Context(), `^cluster\.ratelimitd(_als)?\.membership_healthy$`)
	if err != nil || unhealthy {
		return err
	}
	if stats["cluster.ratelimitd.membership_healthy"] < 1 || stats["cluster.ratelimitd_als.membership_healthy"] < 1 {
		return fmt.Errorf("ratelimitd is not healthy yet: %v", stats)
	}
	return nil
}

func (e *Envoy) firstListener(ctx context.Context) (string, error) {
	var out struct {
		Listeners []struct {
			Address struct {
				Socket struct {
					Address string `json:"address"`
					Port    int    `json:"port_value"`
				} `json:"socket_address"`
			} `json:"local_address"`
		} `json:"listener_statuses"`
	}
	if err := e.get(ctx, "/listeners?format=json", &out); err != nil {
		return "", err
	}
	if len(out.Listeners) == 0 {
		return "", errors.New("no listener yet")
	}
	s := out.Listeners[0].Address.Socket
	return net.JoinHostPort(s.Address, strconv.Itoa(s.Port)), nil
}

// EnvoyBinary finds Envoy: $ENVOY_BIN, else envoy on PATH, else what `make deps` has installed.
func EnvoyBinary(tb testing.TB) string {
	tb.Helper()
	if path := os.Getenv("ENVOY_BIN"); path != "" {
		return path
	}
	if path, err := exec.LookPath("envoy"); err == nil {
		return path
	}
	path := filepath.Join(Root(tb), ".cache", "envoy-"+envoyPin, "envoy")
	if _, err := os.Stat(path); err != nil {
		tb.Fatalf("Envoy is not installed: %v (`make deps` installs it)", err)
	}
	return path
}

// get reads JSON from Envoy's admin.
func (e *Envoy) get(ctx context.Context, path string, out any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+e.admin+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("reading %s of Envoy's admin: %w", path, err)
	}
	return nil
}

// Stats returns the counters and gauges whose names match the regular expression. One that never
// counted is absent.
func (e *Envoy) Stats(tb testing.TB, filter string) map[string]int64 {
	tb.Helper()
	stats, err := e.stats(tb.Context(), filter)
	if err != nil {
		tb.Fatal(err)
	}
	return stats
}

func (e *Envoy) stats(ctx context.Context, filter string) (map[string]int64, error) {
	var out struct {
		Stats []struct {
			Name  string `json:"name"`
			Value int64  `json:"value"`
		} `json:"stats"`
	}
	if err := e.get(ctx, "/stats?"+url.Values{"format": {"json"}, "filter": {filter}, "type": {"All"}}.Encode(), &out); err != nil {
		return nil, err
	}
	stats := map[string]int64{}
	for _, s := range out.Stats {
		if s.Name != "" { // histograms come without
			stats[s.Name] = s.Value
		}
	}
	return stats, nil
}

// FailedOpen returns how many requests Envoy let through for want of an answer, and how many
// calls of ratelimitd failed. A dead limiter looks like a generous one: every test that is not
// about failure checks that both are 0.
func (e *Envoy) FailedOpen(tb testing.TB) (allowed, failed int64) {
	tb.Helper()
	s := e.Stats(tb, `^cluster\.app\.ratelimit\.rls\.`)
	return s["cluster.app.ratelimit.rls.failure_mode_allowed"], s["cluster.app.ratelimit.rls.error"]
}

// FlushLogs returns when Envoy has sent the entries of at least n finished requests to
// ratelimitd. Without it the entries of the last buffer_flush_interval end with Envoy.
func (e *Envoy) FlushLogs(tb testing.TB, n int64) {
	tb.Helper()
	Eventually(tb, 10*time.Second, "flushing Envoy's access logs", func() error {
		s := e.Stats(tb, `^access_logs\.grpc_access_log\.`)
		written, flushed := s["access_logs.grpc_access_log.logs_written"], s["access_logs.grpc_access_log.grpc_entries_flushed"]
		if written < n || flushed < written {
			return fmt.Errorf("%d entries of %d are written, %d flushed", written, n, flushed)
		}
		return nil
	})
}

// FlushFiles makes Envoy write what it has buffered for access logs in files, which it else does
// every ten seconds.
func (e *Envoy) FlushFiles(tb testing.TB) {
	tb.Helper()
	req, err := http.NewRequestWithContext(tb.Context(), http.MethodPost, "http://"+e.admin+"/reopen_logs", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	_ = resp.Body.Close() // says OK
}

// Running tells whether Envoy has not ended.
func (e *Envoy) Running() bool { return e.proc.running() }

// Output is the end of what Envoy has logged.
func (e *Envoy) Output() string { return e.proc.out.String() }
