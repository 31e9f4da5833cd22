package measure

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// Ratelimitd is the real binary as a child process.
type Ratelimitd struct {
	GRPCAddr string
	Server   *testenv.Server
	Started  time.Time

	httpAddr string
	client   http.Client
}

// Build makes the binary of the sources and returns its path.
func Build(tb testing.TB) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "ratelimitd")
	cmd := exec.Command("go", "build", "-trimpath", "-o", path, "./cmd/ratelimitd") //nolint:noctx,gosec // a build of our own
	cmd.Dir, cmd.Env = testenv.Root(tb), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("building ratelimitd: %v\n%s", err, out)
	}
	return path
}

// Start runs the binary with its data in dir until the benchmark ends, or Stop. It does not wait.
func Start(tb testing.TB, binary, dir string, env ...string) *Ratelimitd {
	tb.Helper()
	addr := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(tb))) }
	r := &Ratelimitd{GRPCAddr: addr(), httpAddr: addr(), client: http.Client{Timeout: 5 * time.Second}}
	tb.Cleanup(r.client.CloseIdleConnections)
	env = append([]string{
		"TPS_GRPC_ADDR=" + r.GRPCAddr, "TPS_HTTP_ADDR=" + r.httpAddr, "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_DRAIN_DELAY=0s", "TPS_DRAIN_TIME=1s",
		"TPS_DATA_DIR=" + filepath.Join(dir, "data"), "TPS_LIMITS_FILE=" + filepath.Join(dir, "limits.yaml"),
	}, env...)
	r.Started = time.Now()
	r.Server = testenv.StartServer(tb, env, binary, "serve")
	return r
}

// AwaitReady returns how long after its start /readyz has said that there are limits in force.
func (r *Ratelimitd) AwaitReady(tb testing.TB) time.Duration {
	tb.Helper()
	testenv.Eventually(tb, 2*time.Minute, "starting ratelimitd", func() error {
		if !r.Server.Running() {
			tb.Fatalf("ratelimitd has ended:\n%s", r.Server.Output())
		}
		_, err := r.get("/readyz")
		return err
	})
	return time.Since(r.Started)
}

func (r *Ratelimitd) get(path string) (string, error) {
	resp, err := r.client.Get("http://" + r.httpAddr + path) //nolint:noctx // the client has a timeout
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s %s", path, resp.Status, body)
	}
	return string(body), err
}

// Metric returns the value of a series without labels.
func (r *Ratelimitd) Metric(tb testing.TB, name string) float64 {
	tb.Helper()
	body, err := r.get("/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	_, rest, found := strings.Cut(body, "\n"+name+" ")
	text, _, _ := strings.Cut(rest, "\n")
	value, err := strconv.ParseFloat(text, 64)
	if !found || err != nil {
		tb.Fatalf("/metrics: %s is %q", name, text)
	}
	return value
}

// Memory is what the process has in memory.
func (r *Ratelimitd) Memory(tb testing.TB) Memory {
	tb.Helper()
	m, err := MemoryOf(r.Server.PID())
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Stop ends it.
func (r *Ratelimitd) Stop(tb testing.TB) {
	tb.Helper()
	r.Server.Terminate()
	r.Server.Wait(tb, time.Minute)
}
