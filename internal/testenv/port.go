package testenv

import (
	"math/rand/v2"
	"net"
	"strconv"
	"testing"
)

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on. It lies below the ports that
// the kernel gives to outgoing connections, so that none of these takes it while a server that
// was killed is away.
func FreePort(tb testing.TB) int {
	tb.Helper()
	const lowest, count, attempts = 20_000, 10_000, 100
	for range attempts {
		port := lowest + rand.IntN(count)
		l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = l.Close() // nothing was accepted
			return port
		}
	}
	tb.Fatalf("no free port: %d tries between %d and %d", attempts, lowest, lowest+count)
	return 0
}
