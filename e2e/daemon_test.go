//go:build e2e

package e2e_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// binary is the ratelimitd that all tests run, built once.
var binary struct {
	once sync.Once
	path string
	err  error
}

func build(tb testing.TB) string {
	tb.Helper()
	binary.once.Do(func() {
		root := testenv.Root(tb)
		binary.path = filepath.Join(root, ".cache", "e2e", "ratelimitd")
		cmd := exec.Command("go", "build", "-o", binary.path, "./cmd/ratelimitd")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			binary.err = fmt.Errorf("building ratelimitd: %w\n%s", err, out)
		}
	})
	if binary.err != nil {
		tb.Fatal(binary.err)
	}
	return binary.path
}

// daemon is a ratelimitd that can be stopped and started again at the same addresses, with the
// same data directory.
type daemon struct {
	grpcAddr string
	httpAddr string
	env      []string
	tls      *tls.Config // nil = its ports are plain
	wrap     []string    // what runs ratelimitd; empty = nothing
	server   *testenv.Server
}

// newDaemon prepares a ratelimitd with the settings of env beside its addresses.
func newDaemon(tb testing.TB, env ...string) *daemon {
	tb.Helper()
	addr := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(tb))) }
	d := &daemon{grpcAddr: addr(), httpAddr: addr()}
	dir := tb.TempDir()
	d.env = append([]string{
		"TPS_GRPC_ADDR=" + d.grpcAddr, "TPS_HTTP_ADDR=" + d.httpAddr, "TPS_DEBUG_ADDR=127.0.0.1:0",
		"TPS_SERVER_ID=e2e", "TPS_FLUSH_INTERVAL=100ms", "TPS_DRAIN_DELAY=100ms", "TPS_DRAIN_TIME=10s",
		"TPS_DATA_DIR=" + filepath.Join(dir, "data"), "TPS_LIMITS_FILE=" + filepath.Join(dir, "limits.yaml"),
	}, env...)
	return d
}

// start runs it and waits until it is ready.
func (d *daemon) start(tb testing.TB) {
	tb.Helper()
	command := append(slices.Clone(d.wrap), build(tb), "serve")
	d.server = testenv.StartServer(tb, d.env, command[0], command[1:]...)
	testenv.Eventually(tb, 30*time.Second, "starting ratelimitd", func() error {
		if !d.server.Running() {
			tb.Fatalf("ratelimitd has ended:\n%s", d.server.Output())
		}
		status, body, err := d.get(tb.Context(), "/readyz")
		if err == nil && status != http.StatusOK {
			err = fmt.Errorf("/readyz: %d %s", status, body)
		}
		return err
	})
	tb.Cleanup(func() {
		if tb.Failed() {
			tb.Logf("ratelimitd has printed:\n%s", d.server.Output())
		}
	})
}

// stop asks it to end, and fails the test where it does not do so in time, or not well.
func (d *daemon) stop(tb testing.TB) {
	tb.Helper()
	d.server.Terminate()
	d.server.Wait(tb, 15*time.Second)
	if code := d.server.ExitCode(); code != 0 {
		tb.Fatalf("ratelimitd has ended with status %d:\n%s", code, d.server.Output())
	}
}

func (d *daemon) get(ctx context.Context, path string) (status int, body string, err error) {
	scheme := "http://"
	if d.tls != nil {
		scheme = "https://"
	}
	return fetch(ctx, d.tls, scheme+d.httpAddr+path)
}

// fetch gets a page over a connection of its own.
func fetch(ctx context.Context, trust *tls.Config, url string) (status int, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return 0, "", err
	}
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: trust}}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}

// metrics returns every series of /metrics whose name begins with prefix, as `name{labels}`.
func (d *daemon) metrics(tb testing.TB, prefix string) map[string]float64 {
	tb.Helper()
	_, body, err := d.get(tb.Context(), "/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	found := map[string]float64{}
	for lines := bufio.NewScanner(strings.NewReader(body)); lines.Scan(); {
		series, text, ok := cutLast(lines.Text(), " ")
		if !ok || !strings.HasPrefix(series, prefix) {
			continue
		}
		value, err := strconv.ParseFloat(text, 64)
		if err != nil {
			tb.Fatalf("/metrics: %s: %v", lines.Text(), err)
		}
		found[series] = value
	}
	return found
}

// metric returns the sum of the series of a family.
func (d *daemon) metric(tb testing.TB, family string) float64 {
	tb.Helper()
	sum, found := 0.0, false
	for series, value := range d.metrics(tb, family) {
		if series == family || strings.HasPrefix(series, family+"{") {
			sum, found = sum+value, true
		}
	}
	if !found {
		tb.Fatalf("/metrics has no %s", family)
	}
	return sum
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
