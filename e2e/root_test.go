//go:build e2e

package e2e_test

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// nonroot is the user of the image.
const nonroot = 65532

// cage is a ratelimitd that sees nothing of this host but its ports.
type cage struct {
	*victim
	cmd    *exec.Cmd
	output *testenv.Logs
	exited chan struct{}
}

// newCage runs the static binary, built as the Dockerfile does, in a root directory that holds it
// and dirs, which belong to its user; the root itself nobody can write to.
func newCage(t *testing.T, dirs []string, env ...string) *cage {
	t.Helper()
	root := t.TempDir()
	buildStatic(t, filepath.Join(root, "ratelimitd"))
	owner := nonroot
	if os.Getuid() != 0 {
		owner = os.Getuid() // who is nonroot inside
	}
	for _, dir := range dirs {
		if err := os.Mkdir(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(filepath.Join(root, dir), owner, -1); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(root, 0o555); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(root, 0o755) }) // so that it can be removed
	addr := func() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t))) }
	d := &daemon{grpcAddr: addr(), httpAddr: addr()}
	c := &cage{victim: &victim{daemon: d}, output: &testenv.Logs{}, exited: make(chan struct{}), cmd: exec.Command("/ratelimitd")}
	c.cmd.Dir = "/"
	c.cmd.Env = append([]string{"TPS_GRPC_ADDR=" + d.grpcAddr, "TPS_HTTP_ADDR=" + d.httpAddr, "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_DRAIN_DELAY=0"}, env...)
	c.cmd.SysProcAttr = caged(root)
	c.cmd.Stdout, c.cmd.Stderr = c.output, c.output
	c.start(t)
	return c
}

func buildStatic(t *testing.T, path string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./cmd/ratelimitd")
	cmd.Dir, cmd.Env = testenv.Root(t), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building a static ratelimitd: %v\n%s", err, out)
	}
}

// caged changes the root directory. Who is not root may do that in a user namespace only.
func caged(root string) *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{
		Chroot: root, Pdeathsig: syscall.SIGKILL,
		Credential: &syscall.Credential{Uid: nonroot, Gid: nonroot, NoSetGroups: os.Getuid() != 0},
	}
	if os.Getuid() != 0 {
		attr.Cloneflags = syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: nonroot, HostID: os.Getuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: nonroot, HostID: os.Getgid(), Size: 1}}
	}
	return attr
}

func (c *cage) start(t *testing.T) {
	t.Helper()
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // Pdeathsig comes when the thread ends
		defer runtime.UnlockOSThread()
		defer close(c.exited)
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // the status is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		t.Fatalf("starting ratelimitd in an empty root: %v", err)
	}
	t.Cleanup(func() {
		_ = c.cmd.Process.Kill() // it may have ended
		<-c.exited
		if t.Failed() {
			t.Logf("ratelimitd has printed:\n%s", c.output)
		}
	})
	testenv.Eventually(t, 30*time.Second, "starting in an empty root", func() error {
		status, body, err := c.get(t.Context(), "/readyz")
		if err == nil && (status != http.StatusOK || !strings.Contains(body, `{"status":"ready"`)) {
			err = fmt.Errorf("/readyz: %d %s", status, body)
		}
		return err
	})
	var err error
	if c.grpc, err = grpc.NewClient(c.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.grpc.Close() }) // the test is over
}

// stop wants it to end well, and to have warned of nothing.
func (c *cage) stop(t *testing.T) {
	t.Helper()
	_ = c.cmd.Process.Signal(syscall.SIGTERM) // the status tells
	<-c.exited
	if !c.cmd.ProcessState.Success() || strings.Contains(c.output.String(), `"level":"ERROR"`) {
		t.Errorf("it ended with %s, and has printed\n%s", c.cmd.ProcessState, c.output)
	}
	assertNoTrace(t, c.output.String())
}

// assertStatic: what has no interpreter needs no library.
func (c *cage) assertStatic(t *testing.T) {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(c.cmd.SysProcAttr.Chroot, "ratelimitd"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(body, []byte("ld-linux")) {
		t.Error("the binary asks for a dynamic linker")
	}
}

// The image holds nothing but the binary and certificates of authorities: here even those are not
// there. Decisions, metrics and readiness need no file at all; a write through the API, which needs
// one, is refused with what is in its way.
func TestEmptyRoot(t *testing.T) {
	c := newCage(t, nil)
	c.assertStatic(t)
	if got, want := c.ask(t, asks("edge", gateway("shop"))), byDefault("shop"); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if n := c.metric(t, "ratelimitd_decisions_total"); n != 1 {
		t.Errorf("/metrics tells of %g decisions, want 1", n)
	}
	for _, path := range []string{"/healthz", "/healthcheck", "/api/v1/limits", "/api/v1/stats"} {
		if status, body, err := c.get(t.Context(), path); err != nil || status != http.StatusOK {
			t.Errorf("%s: %d %s, %v; want 200", path, status, body, err)
		}
	}
	write := httpInput{method: http.MethodPut, path: limitsPath, body: `{"gateway":"shop","max_tps":5}`}
	if got := c.send(t, &write); !strings.HasPrefix(got, `503 writing the limit (domain "", gateway "shop", endpoint "", per ""): `) || !strings.HasSuffix(got, "permission denied") {
		t.Errorf("a write to a root that cannot be written to answers %s, want 503 and why", got)
	}
	if got := c.ask(t, asks("edge", gateway("shop", hits(0)))); !strings.Contains(got, `"default"`) {
		t.Errorf("after a write that failed the answer is %s, want the default limit", got)
	}
	c.stop(t)
	left, err := os.ReadDir(c.cmd.SysProcAttr.Chroot)
	if err != nil || len(left) != 1 {
		t.Errorf("the root holds %v, %v; want the binary alone", left, err)
	}
}

// With one directory of its own, as the image and the chart give it, the API writes.
func TestEmptyRootWithData(t *testing.T) {
	c := newCage(t, []string{"data"}, "TPS_LIMITS_FILE=/data/limits.yaml")
	write := httpInput{method: http.MethodPut, path: limitsPath, body: `{"gateway":"shop","max_tps":5}`}
	if got := c.send(t, &write); !strings.HasPrefix(got, "200 ") {
		t.Errorf("a write answers %s, want 200", got)
	}
	const want = `OK {OK "shop" 5/SECOND, 4 left, reset 1s} domain="edge" gateway="shop" limit="shop"`
	if got := c.ask(t, asks("edge", gateway("shop"))); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	c.stop(t)
}
