package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alsv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// wire opens connections to the gRPC port of a daemon; with TLS where trusted is there.
type wire struct {
	addr    string
	trusted *tls.Config
}

// tcp connects and says nothing.
func (w wire) tcp(tb testing.TB) net.Conn {
	tb.Helper()
	conn, err := new(net.Dialer).DialContext(tb.Context(), "tcp", w.addr)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// open connects, shakes hands where there is TLS, and sends the text.
func (w wire) open(tb testing.TB, text string) net.Conn {
	tb.Helper()
	conn := w.tcp(tb)
	if w.trusted != nil {
		conn = tls.Client(conn, w.trusted)
	}
	if _, err := io.WriteString(conn, text); err != nil {
		tb.Fatal(err)
	}
	return conn
}

// peer is a client of HTTP/2.
type peer struct {
	*http2.Framer
	conn net.Conn
}

// http2 is a client that has been answered: its handshake is over.
func (w wire) http2(tb testing.TB) peer {
	tb.Helper()
	conn := w.open(tb, http2.ClientPreface)
	p := peer{http2.NewFramer(conn, conn), conn}
	if err := p.WriteSettings(); err != nil {
		tb.Fatal(err)
	}
	p.ping(tb)
	return p
}

// ping asks for a sign of life, and waits for it.
func (p peer) ping(tb testing.TB) {
	tb.Helper()
	if err := p.WritePing(false, [8]byte{1}); err != nil {
		tb.Fatal(err)
	}
	for {
		f, err := p.ReadFrame()
		if err != nil {
			tb.Fatalf("waiting for the answer to a ping: %v", err)
		}
		if ping, ok := f.(*http2.PingFrame); ok && ping.IsAck() {
			return
		}
	}
}

func (w wire) dial(tb testing.TB) *grpc.ClientConn {
	tb.Helper()
	creds := insecure.NewCredentials()
	if w.trusted != nil {
		creds = credentials.NewTLS(w.trusted)
	}
	conn, err := grpc.NewClient(w.addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return conn
}

// told waits for GOAWAY, and then for the end of the connection.
func (p peer) told(tb testing.TB) {
	tb.Helper()
	told := false
	for {
		f, err := p.ReadFrame()
		if err != nil {
			if !told || errors.Is(err, os.ErrDeadlineExceeded) {
				tb.Errorf("GOAWAY has come: %t, then %v", told, err)
			}
			return
		}
		if ping, ok := f.(*http2.PingFrame); ok && !ping.IsAck() { // grpc-go waits for the answer
			err = p.WritePing(true, ping.Data)
		}
		told = told || f.Header().Type == http2.FrameGoAway
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// ends waits for the server to close a connection.
func ends(tb testing.TB, name string, conn net.Conn) {
	tb.Helper()
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		tb.Errorf("%s: the connection is still open", name)
	}
}

// sendLog sends access-log entries, and returns when they have been received.
func sendLog(tb testing.TB, conn *grpc.ClientConn, n int) {
	tb.Helper()
	stream, err := alsv3.NewAccessLogServiceClient(conn).StreamAccessLogs(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	m := &alsv3.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alsv3.StreamAccessLogsMessage_HTTPAccessLogEntries{}}
	for range n {
		m.HttpLogs.LogEntry = append(m.HttpLogs.LogEntry, &accesslogv3.HTTPAccessLogEntry{
			Request: &accesslogv3.HTTPRequestProperties{RequestMethod: corev3.RequestMethod_GET, Authority: "shop", Path: "/"},
		})
	}
	id := &alsv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: "envoy"}, LogName: "test"}
	if err := stream.Send(&alsv3.StreamAccessLogsMessage{Identifier: id, LogEntries: m}); err != nil {
		tb.Fatal(err)
	}
	if _, err := stream.CloseAndRecv(); err != nil {
		tb.Fatal(err)
	}
}

func countRows(tb testing.TB, conn *pgx.Conn) (rows int) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), "SELECT count(*) FROM tps_metrics").Scan(&rows); err != nil {
		tb.Fatal(err)
	}
	return rows
}

func awaitRows(tb testing.TB, conn *pgx.Conn, want int) {
	tb.Helper()
	testenv.Eventually(tb, patience, "the rows in tps_metrics", func() error {
		if rows := countRows(tb, conn); rows != want {
			return fmt.Errorf("%d rows, want %d", rows, want)
		}
		return nil
	})
}

// mutualTLS makes certificates, and returns the settings of a server and of its client.
func mutualTLS(tb testing.TB) (env []string, client *tls.Config) {
	tb.Helper()
	dir, authority := tb.TempDir(), testenv.NewAuthority(tb, "mesh")
	cert, key := authority.Pair(tb, "server", time.Hour)
	for name, body := range map[string][]byte{"TPS_TLS_CERT": cert, "TPS_TLS_KEY": key, "TPS_TLS_CLIENT_CA": authority.PEM} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			tb.Fatal(err)
		}
		env = append(env, name+"="+path)
	}
	client = authority.Client(tb, authority)
	client.NextProtos = []string{"h2"}
	return env, client
}

// drained is a server that is about to stop, and who is connected.
type drained struct {
	*daemon
	wire
	silent map[string]net.Conn // clients that have not said enough
}

// eachWire runs a test over plain connections and over TLS, beside clients that say nothing.
func eachWire(t *testing.T, test func(t *testing.T, d drained), settings func(tb testing.TB) []string) {
	t.Helper()
	tlsEnv, client := mutualTLS(t)
	for name, trusted := range map[string]*tls.Config{"plain": nil, "TLS": client} {
		t.Run(name, func(t *testing.T) {
			env := settings(t)
			if trusted != nil {
				env = append(env, tlsEnv...)
			}
			d := drained{daemon: start(t, env...)}
			d.wire = wire{d.grpcAddr, trusted}
			d.silent = map[string]net.Conn{
				"nothing": d.tcp(t), "half a preface": d.open(t, "PRI * HT"), "no settings": d.open(t, http2.ClientPreface),
			}
			if trusted != nil {
				d.silent["half a hello"] = d.tcp(t)
				if _, err := d.silent["half a hello"].Write([]byte{22, 3, 1, 1, 0, 1}); err != nil {
					t.Fatal(err)
				}
			}
			last := d.http2(t) // accepted after the others: so grpc-go knows them all
			if err := last.conn.Close(); err != nil {
				t.Fatal(err)
			}
			test(t, d)
		})
	}
}

// TestSilentClientsDoNotDelayTheDrain stops a server with clients whose handshake is not over:
// the others are told to go, rows are written, and nothing has to be cut at the end.
func TestSilentClientsDoNotDelayTheDrain(t *testing.T) {
	const batch, rest = 7, 3
	var database string
	eachWire(t, func(t *testing.T, d drained) {
		t.Helper()
		conn := testenv.Connect(t, database)
		sendLog(t, d.dial(t), batch)
		awaitRows(t, conn, batch) // so that what is left for the stop needs no new connection
		sendLog(t, d.dial(t), rest)
		peer := d.http2(t)
		d.stop()
		peer.told(t)
		for name, conn := range d.silent {
			ends(t, name, conn)
		}
		if code := d.wait(); code != 0 || strings.Contains(d.stderr.String(), "had not ended") {
			t.Errorf("serve ended with %d:\n%s", code, d.stderr)
		}
		if rows := countRows(t, conn); rows != batch+rest {
			t.Errorf("%d rows, want %d", rows, batch+rest)
		}
	}, func(tb testing.TB) []string {
		tb.Helper()
		database = testenv.Database(tb)
		return []string{"TPS_DATABASE_URL=" + database, fmt.Sprint("TPS_BATCH_SIZE=", batch), "TPS_DRAIN_TIME=5s"} // 4 s of them before the reserve, below handshakeTimeout
	})
}

// TestSecondSignalIsNotDelayed: silent clients cannot keep a process that is told twice.
func TestSecondSignalIsNotDelayed(t *testing.T) {
	spare := make(chan os.Signal, 1) // or a signal after the server's end would end the tests
	signal.Notify(spare, syscall.SIGTERM)
	defer signal.Stop(spare)
	eachWire(t, func(t *testing.T, d drained) {
		t.Helper()
		d.stop()
		logged(t, d.stderr, "stopping")
		if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), handshakeTimeout-time.Second)
		defer cancel()
		select {
		case code := <-d.ended:
			d.ended <- code
		case <-ctx.Done():
			t.Errorf("serve has not ended:\n%s", d.stderr)
			for _, conn := range d.silent {
				_ = conn.Close()
			}
		}
		for name, conn := range d.silent {
			ends(t, name, conn)
		}
	}, func(testing.TB) []string { return []string{"TPS_DRAIN_DELAY=1h", "TPS_DRAIN_TIME=2h"} })
}

// TestHangupDrains as SIGTERM does: a terminal that goes, and operators of envoyproxy/ratelimit, send SIGHUP.
func TestHangupDrains(t *testing.T) {
	spare := make(chan os.Signal, 1)
	signal.Notify(spare, syscall.SIGHUP)
	defer signal.Stop(spare)
	d := start(t)
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code := d.wait(); code != 0 || !strings.Contains(d.stderr.String(), "stopping") {
		t.Errorf("serve ended with %d:\n%s", code, d.stderr)
	}
}

// TestLateSignals: a signal that comes when all has ended, but the process not yet, does not kill it.
func TestLateSignals(t *testing.T) {
	spare := make(chan os.Signal, 2)
	signal.Notify(spare, syscall.SIGHUP)
	defer signal.Stop(spare)
	hangUp := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		<-spare
	}
	ctx, cancel := context.WithCancel(t.Context())
	asked, signalled := notify(ctx), notify(t.Context())
	defer signal.Stop(signalled.signals)
	cancel()
	if sig, ok := asked.wait(t.Context()); sig != nil || !ok {
		t.Errorf("asked by its context: %v, %t", sig, ok)
	}
	asked.close()
	hangUp()
	if sig, ok := signalled.wait(t.Context()); sig != syscall.SIGHUP || !ok {
		t.Errorf("asked by a signal: %v, %t", sig, ok)
	}
	signalled.close()
	hangUp()
	testenv.Eventually(t, patience, "catching another signal", func() error {
		if n := len(signalled.signals); n != 1 {
			return fmt.Errorf("%d are caught", n)
		}
		return nil
	})
	if n := len(asked.signals); n != 0 {
		t.Errorf("%d signals are caught where none has asked for the stop", n)
	}
}

// TestSilentClientsAreCut also while nobody stops the server.
func TestSilentClientsAreCut(t *testing.T) {
	t.Parallel()
	w := wire{addr: start(t).grpcAddr}
	peer, silent := w.http2(t), w.tcp(t)
	ends(t, "nothing", silent)
	peer.ping(t) // its handshake is over
}

// lateConn remembers its deadline.
type lateConn struct {
	net.Conn
	deadline time.Time
}

func (c *lateConn) SetDeadline(t time.Time) error { c.deadline = t; return nil }
func (c *lateConn) Close() error                  { return nil }

// lateListener accepts such connections.
type lateListener struct{ net.Listener }

func (lateListener) Accept() (net.Conn, error) { return &lateConn{}, nil }

// TestHandshakes follows what grpc-go does with connections before and after the end is set.
func TestHandshakes(t *testing.T) {
	l := newHandshakes(lateListener{})
	began := time.Unix(1000, 0)
	usual, end := began.Add(time.Minute), began.Add(time.Second)
	var conns []net.Conn
	accept := func(deadlines ...time.Time) {
		t.Helper()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range deadlines {
			if err := c.SetDeadline(d); err != nil {
				t.Fatal(err)
			}
		}
		conns = append(conns, c)
	}
	accept()                   // grpc-go has not come to it
	accept(usual)              // under way
	accept(usual, time.Time{}) // over
	accept(usual)              // failed, and closed
	if err := conns[3].Close(); err != nil {
		t.Fatal(err)
	}
	l.endBy(end)
	accept(usual)              // later ones are bounded too
	accept(began)              // none gets more time
	accept(usual, time.Time{}) // and may still succeed
	deadlines := make([]time.Time, len(conns))
	for i, c := range conns {
		deadlines[i] = c.(*handshake).Conn.(*lateConn).deadline
	}
	if diff := cmp.Diff([]time.Time{end, end, {}, usual, end, began, {}}, deadlines); diff != "" {
		t.Errorf("the deadlines (-want +got):\n%s", diff)
	}
	if len(l.open) != 4 {
		t.Errorf("%d handshakes are open, want 4", len(l.open))
	}
}
