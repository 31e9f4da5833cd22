package testenv

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// given are the ports of this test binary: what has one of them may not listen yet, or be away.
var given = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on, another one each time. It lies
// below the ports that the kernel gives to outgoing connections, so that none of these takes it while
// a server that was killed is away.
func FreePort(tb testing.TB) int {
	tb.Helper()
	const lowest, count, attempts = 20_000, 10_000, 100
	for range attempts {
		port := lowest + rand.IntN(count)
		if !give(port) {
			continue
		}
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close() // nothing was accepted
			return port
		}
	}
	tb.Fatalf("no free port: %d tries between %d and %d", attempts, lowest, lowest+count)
	return 0
}

// give tells whether a port was not given before.
func give(port int) bool {
	given.Lock()
	defer given.Unlock()
	before := given.ports[port]
	given.ports[port] = true
	return !before
}
