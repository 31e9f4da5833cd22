package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const patience = 20 * time.Second // for what takes milliseconds

// output collects what a command prints, also while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// result is what a command has left.
type result struct {
	code           int
	stdout, stderr string
}

// command runs ratelimitd to its end. env comes beside nothing.
func command(ctx context.Context, env []string, args ...string) result {
	var stdout, stderr output
	code := run(ctx, args, env, &stdout, &stderr)
	return result{code, stdout.String(), stderr.String()}
}

// daemon is a running `ratelimitd serve`.
type daemon struct {
	grpcAddr, api  string // as its three lines say
	stdout, stderr *output
	stop           context.CancelFunc
	ended          chan int
}

// start serves the embedded default on free ports, with settings beside, until the test ends.
func start(tb testing.TB, env ...string) *daemon {
	tb.Helper()
	d := launch(tb, env...)
	if !slices.ContainsFunc(env, withDatabase) {
		testenv.Eventually(tb, patience, "ready", func() error {
			if code, body := get(tb, d.api+"/readyz"); code != http.StatusOK {
				return fmt.Errorf("/readyz: %d %s", code, body)
			}
			return nil
		})
	}
	return d
}

// launch does so too, and does not wait until the server is ready.
func launch(tb testing.TB, env ...string) *daemon {
	tb.Helper()
	dir := tb.TempDir()
	d := &daemon{stdout: new(output), stderr: new(output), ended: make(chan int, 1)}
	env = append([]string{
		"TPS_GRPC_ADDR=127.0.0.1:0", "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_LIMITS_FILE=" + dir + "/limits.yaml",
		"TPS_DATA_DIR=" + dir + "/data", "TPS_DRAIN_DELAY=0", "TPS_SERVER_ID=test",
	}, env...)
	ctx, stop := context.WithCancel(context.WithoutCancel(tb.Context()))
	d.stop = stop
	go func() { d.ended <- run(ctx, []string{"serve"}, env, d.stdout, d.stderr) }()
	tb.Cleanup(func() {
		d.stop()
		if code := <-d.ended; code != 0 || tb.Failed() {
			tb.Errorf("serve ended with %d, and has printed\n%s\n%s", code, d.stdout, d.stderr)
		}
	})
	testenv.Eventually(tb, patience, "serving", func() error {
		lines := regexp.MustCompile(`(?s)access log at (\S+) .*API: +(\S+)/api/v1/limits .*Try it: [^\n]*\n`).FindStringSubmatch(d.stdout.String())
		if lines == nil {
			select {
			case code := <-d.ended:
				d.ended <- code
				tb.Fatalf("serve ended with %d: %s", code, d.stderr)
			default:
			}
			return fmt.Errorf("so far it has printed %q", d.stdout)
		}
		d.grpcAddr, d.api = lines[1], lines[2]
		return nil
	})
	return d
}

// withDatabase: tests have none, or one that is away.
func withDatabase(setting string) bool { return strings.HasPrefix(setting, "TPS_DATABASE_URL=") }

// wait returns the status with which it has ended.
func (d *daemon) wait() int {
	code := <-d.ended
	d.ended <- code
	return code
}

// ratelimitd runs a command against the daemon.
func (d *daemon) ratelimitd(tb testing.TB, args ...string) result {
	tb.Helper()
	return command(tb.Context(), nil, append(args, "--server", d.api)...)
}

// wants fails where a command has not ended as it should.
func (r result) wants(tb testing.TB, code int, stdout, stderr string) {
	tb.Helper()
	if r.code != code || !strings.Contains(r.stdout, stdout) || !strings.Contains(r.stderr, stderr) {
		tb.Errorf("status %d\nstdout %q\nstderr %q\nwant %d, %q, %q", r.code, r.stdout, r.stderr, code, stdout, stderr)
	}
}

// lines is the number of lines of a text.
func lines(s string) int { return strings.Count(s, "\n") }
