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

// StartRedis runs a private Redis that keeps nothing, and returns its address.
func StartRedis(tb testing.TB) (addr string) {
	tb.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		tb.Fatalf("Redis is not installed: %v (`make deps` installs it)", err)
	}
	port := strconv.Itoa(FreePort(tb))
	proc := start(tb, program{path: binary, args: []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", tb.TempDir()}})
	tb.Cleanup(proc.kill)
	addr = net.JoinHostPort("127.0.0.1", port)
	awaitPort(tb, proc, addr)
	return addr
}

// StartPeer runs envoyproxy/ratelimit over the descriptor files of a directory called config, with
// counters in Redis, and returns the address of its gRPC port. env are more of its variables.
func StartPeer(tb testing.TB, config string, env ...string) (addr string) {
	tb.Helper()
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
		"REDIS_SOCKET_TYPE=tcp", "REDIS_URL=" + StartRedis(tb), "USE_STATSD=false", "LOG_LEVEL=warn",
	}, env...)})
	tb.Cleanup(proc.kill)
	addr = net.JoinHostPort("127.0.0.1", ports[1])
	awaitPort(tb, proc, addr)
	return addr
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
