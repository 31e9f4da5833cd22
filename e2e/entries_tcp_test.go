//go:build e2e

package e2e_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// tcpEntry is a row of the table: what becomes of a connection, and what of its entry.
type tcpEntry struct {
	name string
	do   func(tb testing.TB, s *stack)
	want recorded
}

// connection is a row of a connection that ratelimitd has decided about.
func connection(success, throttled bool) recorded {
	return recorded{Domain: "edge", Gateway: "db-main", Success: success, Throttled: throttled}
}

// tcpEntries are in the order in which they are done: what the last ones break stays broken.
var tcpEntries = []tcpEntry{
	{"the upstream ends it", func(tb testing.TB, s *stack) {
		tb.Helper()
		if answer := s.converse(tb, "Connection: close\r\n\r\n"); !strings.HasPrefix(answer, "HTTP/1.1 200 ") {
			tb.Errorf("the upstream has answered %q, want 200", answer)
		}
	}, connection(true, false)},
	{"the client ends it", func(tb testing.TB, s *stack) {
		tb.Helper()
		conn := s.dial(tb)
		if _, err := conn.Write([]byte("GET /")); err != nil {
			tb.Fatal(err)
		}
		if err := conn.Close(); err != nil {
			tb.Fatal(err)
		}
	}, connection(true, false)},
	{"idle for too long", func(tb testing.TB, s *stack) {
		tb.Helper()
		conn := s.dial(tb)
		defer func() { _ = conn.Close() }() // Envoy has ended it
		assertEnded(tb, conn)
	}, connection(true, false)},
	{"as long as it may last", func(tb testing.TB, s *stack) {
		tb.Helper()
		conn := s.dial(tb)
		defer func() { _ = conn.Close() }() // Envoy has ended it
		go keepBusy(conn)
		assertEnded(tb, conn)
	}, connection(true, false)},
	{"refused by a limit", func(tb testing.TB, s *stack) {
		tb.Helper()
		s.setLimits(tb, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('db-main', 0)")
		if answer := s.converse(tb, "\r\n"); answer != "" {
			tb.Errorf("the upstream has answered %q, want a connection that is refused", answer)
		}
		s.setLimits(tb, "DELETE FROM tps_limits")
	}, connection(false, true)},
	{"the upstream is away", func(tb testing.TB, s *stack) {
		tb.Helper()
		s.upstream.Stop()
		if answer := s.converse(tb, "\r\n"); answer != "" {
			tb.Errorf("the upstream has answered %q, though it is away", answer)
		}
	}, connection(false, false)},
}

func (s *stack) dial(tb testing.TB) net.Conn {
	tb.Helper()
	conn, err := net.DialTimeout("tcp", s.envoy.Listener, rawTimeout)
	if err != nil {
		tb.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(rawTimeout)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// endsConnections is envoy-tcp.yaml with both of the ways in which it ends connections on purpose.
func endsConnections(tb testing.TB, config string) string {
	tb.Helper()
	return replaceOnce(tb, config, "          cluster: app\n", `          cluster: app
          idle_timeout: 1s
          max_downstream_connection_duration: 3s
`)
}

// keepBusy sends bytes that are no whole request, until the connection ends.
func keepBusy(conn net.Conn) {
	for range time.Tick(200 * time.Millisecond) {
		if _, err := io.WriteString(conn, "G"); err != nil {
			return
		}
	}
}

// assertEnded waits until Envoy ends a connection on which nothing came.
func assertEnded(tb testing.TB, conn net.Conn) {
	tb.Helper()
	answer, err := io.ReadAll(conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || len(answer) > 0 {
		tb.Errorf("%q came, then %v, want the end of the connection", answer, err)
	}
}

// converse sends a request on a connection of its own, and returns what comes until its end.
func (s *stack) converse(tb testing.TB, headers string) string {
	tb.Helper()
	conn := s.dial(tb)
	defer func() { _ = conn.Close() }()                                     // all that matters was read
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\n"+headers) // may be refused already
	answer, err := io.ReadAll(conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		tb.Errorf("the connection does not end; %q came", answer)
	}
	return string(answer)
}

// What Envoy logs of every way a connection can end, and the row that it becomes.
func TestEntriesOfTCP(t *testing.T) {
	s := newStack(t, stackConfig{
		envoy: "envoy-tcp.yaml", env: []string{"TPS_FLUSH_INTERVAL=100ms"},
		edit: func(config string) string { return endsConnections(t, config) },
	})
	for i, e := range tcpEntries {
		e.do(t, s)
		testenv.Eventually(t, 20*time.Second, "the row of "+e.name, func() error {
			if rows := query[int](t, s, "SELECT count(*) FROM tps_metrics"); rows != i+1 {
				return fmt.Errorf("%d rows, want %d", rows, i+1)
			}
			return nil
		})
		got := queryRecorded(t, s, "true")
		if diff := cmp.Diff(e.want, got[i]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", e.name, diff)
		}
	}
	if failed := s.envoy.Stats(t, `^ratelimit\.rls\.(error|failure_mode_allowed)$`); failed["ratelimit.rls.error"] != 0 || failed["ratelimit.rls.failure_mode_allowed"] != 0 {
		t.Errorf("Envoy let connections through that nobody decided: %v", failed)
	}
}

// Where ratelimitd cannot be asked, the custom tags of Envoy's configuration name the request.
func TestEntriesWithoutDecision(t *testing.T) {
	for name, c := range map[string]struct {
		deny string
		want recorded
	}{
		"open": {"failure_mode_deny: false", undecided("ok", http.StatusOK, true)},
		"deny": {"failure_mode_deny: true", undecided("ok", http.StatusInternalServerError, false)},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, stackConfig{edit: func(config string) string {
				config = replaceOnce(t, config, "failure_mode_deny: false", c.deny)
				return replaceOnce(t, config, "envoy_grpc: { cluster_name: ratelimitd }", "envoy_grpc: { cluster_name: nobody }") + fmt.Sprintf(`
  - { name: nobody, type: STATIC, connect_timeout: 0.25s, load_assignment: { cluster_name: nobody, endpoints: [{ lb_endpoints: [{ endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: %d } } } }] }] } }
`, testenv.FreePort(t))
			}})
			answers(c.want.Status)(t, s, "ok")
			s.awaitRows(t, 1)
			if diff := cmp.Diff([]recorded{c.want}, queryRecorded(t, s, "true")); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if allowed, failed := s.envoy.FailedOpen(t); failed != 1 || (allowed == 1) != c.want.Success {
				t.Errorf("Envoy's error is %d and failure_mode_allowed %d: the test shows nothing", failed, allowed)
			}
		})
	}
}
