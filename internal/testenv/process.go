package testenv

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"
)

// program is what a process runs.
type program struct {
	path string
	args []string
	env  []string // nil = that of the test
	uid  int      // user and group to run as; 0 = those of the test
}

// process is a child that dies with the test binary, whatever ends that.
type process struct {
	cmd    *exec.Cmd
	out    *tail
	exited chan struct{}
}

// start runs a program. The end of its output is kept for messages of failures.
func start(tb testing.TB, p program) *process {
	tb.Helper()
	c := &process{cmd: exec.Command(p.path, p.args...), out: &tail{}, exited: make(chan struct{})}
	c.cmd.Stdout, c.cmd.Stderr, c.cmd.Env = c.out, c.out, p.env
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if p.uid != 0 {
		c.cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(p.uid), Gid: uint32(p.uid)}
	}
	started := make(chan error)
	go c.run(started)
	if err := <-started; err != nil {
		tb.Fatalf("starting %s: %v (`make deps` installs what is missing)", p.path, err)
	}
	return c
}

func (c *process) run(started chan<- error) {
	// The kernel sends Pdeathsig when the thread that forked ends, so it is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(c.exited)
	err := c.cmd.Start()
	started <- err
	if err == nil {
		_ = c.cmd.Wait()                                      // who asks finds it in ProcessState
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL) // what it has left of its group
	}
}

// signal sends sig to the child itself.
func (c *process) signal(sig syscall.Signal) { _ = c.cmd.Process.Signal(sig) }

// kill ends the child and its group, and returns when it has ended.
func (c *process) kill() {
	if c.running() {
		_ = syscall.Kill(-c.cmd.Process.Pid, syscall.SIGKILL)
	}
	<-c.exited
}

func (c *process) running() bool {
	select {
	case <-c.exited:
		return false
	default:
		return true
	}
}

// tail keeps the last part of what a child prints.
type tail struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// tailBytes is how much of the output is kept, at most.
const tailBytes = 1 << 20

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() > tailBytes {
		t.buf.Next(t.buf.Len() - tailBytes/2)
	}
	return t.buf.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// Eventually calls check every few milliseconds until it returns no error, and fails the test
// with its last error after the time.
func Eventually(tb testing.TB, within time.Duration, what string, check func() error) {
	tb.Helper()
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			tb.Fatalf("%s: not within %s: %v", what, within, err)
		}
		<-ticker.C
	}
}

// Root is the directory of the repository: the one above the test that holds go.mod.
func Root(tb testing.TB) string {
	tb.Helper()
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	tb.Fatalf("no directory above the test holds go.mod: %v", err)
	return ""
}
