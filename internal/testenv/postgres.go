package testenv

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a private server.
type Postgres struct {
	dir  string
	port int
	uid  int // as which it runs; 0 = as the test
	proc *process

	template  sync.Mutex
	migrated  bool // templateDatabase is there
	databases atomic.Int64
}

// NewPostgres returns a server for this test alone, which may kill it.
func NewPostgres(tb testing.TB) *Postgres {
	tb.Helper()
	p := makePostgres(tb)
	tb.Cleanup(p.remove)
	return p
}

func makePostgres(tb testing.TB) *Postgres {
	tb.Helper()
	dir, err := os.MkdirTemp("", "ratelimitd-postgres-") //nolint:usetesting // a shared server outlives the test
	if err != nil {
		tb.Fatal(err)
	}
	p := &Postgres{dir: dir}
	if os.Getuid() == 0 { // Postgres refuses to run as root
		const nobody = 65534
		p.uid = nobody
		if err := os.Chown(dir, p.uid, p.uid); err != nil {
			tb.Fatal(err)
		}
	}
	initdb := start(tb, p.program(tb, "initdb", "-U", "tps", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"))
	<-initdb.exited
	if !initdb.cmd.ProcessState.Success() {
		tb.Fatalf("initdb: %s\n%s", initdb.cmd.ProcessState, initdb.out)
	}
	p.await(tb, func() { p.port = FreePort(tb) }) // another one where somebody else was faster
	return p
}

// program is one of Postgres' own on the server's data.
func (p *Postgres) program(tb testing.TB, name string, args ...string) program {
	tb.Helper()
	return program{path: postgresBinary(tb, name), uid: p.uid, args: append([]string{"-D", p.data()}, args...)}
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// postgresBinary finds a program of the newest Postgres that Debian's packages have installed,
// else of the one on PATH.
func postgresBinary(tb testing.TB, name string) string {
	tb.Helper()
	version := func(path string) int {
		n, _ := strconv.Atoi(strings.Split(path, string(os.PathSeparator))[4]) // what is no number comes first
		return n
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); len(found) > 0 {
		return slices.MaxFunc(found, func(a, b string) int { return cmp.Compare(version(a), version(b)) })
	}
	path, err := exec.LookPath(name)
	if err != nil {
		tb.Fatalf("Postgres is not installed: %v (`make deps` installs it)", err)
	}
	return path
}

// Start starts a server that was killed, at the same address, and waits until it answers.
func (p *Postgres) Start(tb testing.TB) {
	tb.Helper()
	p.await(tb, func() {})
}

// await starts the server, again where it has ended, and waits until it answers. prepare is called before
// each start.
func (p *Postgres) await(tb testing.TB, prepare func()) {
	tb.Helper()
	Eventually(tb, time.Minute, "starting Postgres", func() error {
		if p.proc == nil || !p.proc.running() { // processes of a killed one may still hold its memory
			prepare()
			p.proc = start(tb, p.program(tb, "postgres", "-p", strconv.Itoa(p.port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
				"-c", "fsync=off", "-c", "full_page_writes=off", "-c", "max_connections=200", "-c", "shared_buffers=64MB"))
		}
		if err := p.answers(); err != nil {
			return fmt.Errorf("%w\n%s", err, p.proc.out)
		}
		return nil
	})
}

// answers returns an error where nobody answers at the address, or another server.
func (p *Postgres) answers() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, p.ConnString("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx) //nolint:errcheck // of a test
	var data string
	if err := conn.QueryRow(ctx, "SHOW data_directory").Scan(&data); err != nil {
		return err
	}
	if want := p.data(); data != want {
		return fmt.Errorf("at port %d is the server of %s, want %s", p.port, data, want)
	}
	return nil
}

// ConnString is the address of a database of the server.
func (p *Postgres) ConnString(database string) string {
	return fmt.Sprintf("postgres://tps@127.0.0.1:%d/%s?sslmode=disable", p.port, database)
}

// Kill ends the server with SIGKILL, the processes of its connections included.
func (p *Postgres) Kill() {
	children := p.children()
	p.proc.kill()
	for _, pid := range children {
		_ = syscall.Kill(pid, syscall.SIGKILL) // most have ended with their server
	}
}

// Restart stops the server the fast, clean way (connections are cut) and starts it again.
func (p *Postgres) Restart(tb testing.TB) {
	tb.Helper()
	p.proc.signal(syscall.SIGINT)
	<-p.proc.exited
	p.Start(tb)
}

// Hang stops every process of the server with SIGSTOP: connections stay open, nothing answers.
func (p *Postgres) Hang() { p.signalAll(syscall.SIGSTOP) }

// Continue ends Hang.
func (p *Postgres) Continue() { p.signalAll(syscall.SIGCONT) }

func (p *Postgres) signalAll(sig syscall.Signal) {
	p.proc.signal(sig)
	for _, pid := range p.children() {
		_ = syscall.Kill(pid, sig) // it may have ended meanwhile
	}
}

// children are the server's processes, each of which is a process group of its own.
func (p *Postgres) children() []int {
	pid := p.proc.cmd.Process.Pid
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil // it has ended
	}
	var pids []int
	for field := range strings.FieldsSeq(string(body)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (p *Postgres) remove() {
	p.Kill()
	_ = os.RemoveAll(p.dir) // what is left lies in the directory for temporary files
}
