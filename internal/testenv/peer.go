package testenv

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// peerPin is the version of envoyproxy/ratelimit that `make deps` installs into .cache.
const peerPin = "v1.4.1-0.20260122083618-3fb702589d36"

// Redis is a private server that keeps nothing.
type Redis struct {
	Addr string
	proc *process
}

// PID of the process.
func (r *Redis) PID() int { return r.proc.cmd.Process.Pid }

// StartRedis runs one until the test ends.
func StartRedis(tb testing.TB) *Redis {
	tb.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Fatalf("Redis is not installed: %v (`make deps` installs it)", err)
	}
	port := strconv.Itoa(FreePort(tb))
	proc := start(tb, program{path: binary, args: []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir()}})
	tb.Cleanup(proc.kill)
	r := &Redis{Addr: net.JoinHostPort("127.0.0.1", port), proc: proc}
	awaitPort(tb, proc, r.Addr)
	return r
}

// Peer is an envoyproxy/ratelimit with counters in a Redis of its own.
type Peer struct {
	Addr  string // of its gRPC port
	Redis *Redis
	proc  *process
}

// PID of the process.
func (p *Peer) PID() int { return p.proc.cmd.Process.Pid }

// StartPeer runs one over the descriptor files of a directory until the test ends. env are more of its
// variables.
func StartPeer(tb testing.TB, config string, env ...string) *Peer {
	tb.Helper()
	redis := StartRedis(tb)
	binary := filepath.Join(Root(tb), ".cache", "envoyproxy-ratelimit-"+peerPin, "service_cmd")
	if _, err := os.Stat(binary); err != nil {
		tb.Fatalf("envoyproxy/ratelimit is not installed: %v (`make deps` installs it)", err)
	}
	ports := [3]string{}
	for i := range ports {
		ports[i] = strconv.Itoa(FreePort(tb))
	}
	proc := start(tb, program{path: binary, env: append([]string{
		"HOST=127.0.0.1", "PORT=" + ports[0], "GRPC_HOST=127.0.0.1", "GRPC_PORT=" + ports[1], "DEBUG_HOST=127.0.0.1", "DEBUG_PORT=" + ports[2],
		"RUNTIME_ROOT=" + filepath.Dir(config), "RUNTIME_APPDIRECTORY=" + filepath.Base(config), "RUNTIME_WATCH_ROOT=false",
		"REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + redis.Addr, "USE_STATSD=false", "LOG_LEVEL=warn",
	}, env...)})
	tb.Cleanup(proc.kill)
	p := &Peer{Addr: net.JoinHostPort("127.0.0.1", ports[1]), Redis: redis, proc: proc}
	awaitPort(tb, proc, p.Addr)
	return p
}

func awaitPort(tb testing.TB, proc *process, addr string) {
	tb.Helper()
	Eventually(tb, 30*time.Second, "starting "+proc.cmd.Path, func() error {
		if !proc.running() {
			tb.Fatalf("%s has ended:\n%s", proc.cmd.Path, proc.out)
		}
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}
