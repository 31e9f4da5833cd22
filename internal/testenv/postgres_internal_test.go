package testenv

import (
	"net"
	"strconv"
	"strings"
	"testing"
)

// A port may be taken between the choice and the start: a server that answers there is not taken for the
// one that was started, which gets another port.
func TestPostgresAtAPortThatIsTaken(t *testing.T) {
	p := NewPostgres(t)
	taken := p.port
	other := &Postgres{dir: t.TempDir(), port: taken}
	if err := other.answers(); err == nil || !strings.Contains(err.Error(), "is the server of "+p.data()) {
		t.Errorf("the server of another: %v, want its directory", err)
	}
	p.Kill()
	silent, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(taken)))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close() //nolint:errcheck // of a test
	starts := 0
	p.await(t, func() {
		if starts++; starts > 1 {
			p.port = FreePort(t)
		}
	})
	if starts < 2 || p.port == taken {
		t.Errorf("after %d starts it is at port %d", starts, p.port)
	}
}
