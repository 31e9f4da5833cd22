package testenv

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

// shared is the server of the test binary.
var shared struct {
	sync.Mutex
	server *Postgres
}

// Main runs the tests of a package, stops the shared server and fails where goroutines are left.
// It does not return.
func Main(m *testing.M) {
	code := m.Run()
	if shared.server != nil {
		shared.server.remove()
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// Shared returns the Postgres of this test binary. It is not to be stopped by a test.
func Shared(tb testing.TB) *Postgres {
	tb.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.server == nil {
		shared.server = makePostgres(tb)
	}
	return shared.server
}

// Database returns the address of a fresh database of [Shared] with the current schema.
func Database(tb testing.TB) string {
	tb.Helper()
	return Shared(tb).Database(tb)
}

// EmptyDatabase returns the address of a fresh database of [Shared] without any schema.
func EmptyDatabase(tb testing.TB) string {
	tb.Helper()
	return Shared(tb).EmptyDatabase(tb)
}
