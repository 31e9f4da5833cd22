//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// network is a way from an edge to the central collector that can be cut.
type network struct {
	addr string
	to   string

	mu    sync.Mutex
	cut   bool
	conns map[net.Conn]bool
}

func newNetwork(tb testing.TB, to string) *network {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	n := &network{addr: l.Addr().String(), to: to, conns: map[net.Conn]bool{}}
	tb.Cleanup(func() {
		_ = l.Close()
		n.set(true)
	})
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go n.carry(c)
		}
	}()
	return n
}

// set cuts the network, which breaks every connection in the middle of whatever it carries, or mends it.
func (n *network) set(cut bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut = cut
	if cut {
		for c := range n.conns {
			_ = c.Close()
		}
		clear(n.conns)
	}
}

func (n *network) keep(conns ...net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range conns {
		if n.cut {
			_ = c.Close()
		} else {
			n.conns[c] = true
		}
	}
	return !n.cut
}

func (n *network) carry(in net.Conn) {
	out, err := new(net.Dialer).DialContext(context.Background(), "tcp", n.to)
	if err != nil {
		_ = in.Close()
		return
	}
	if !n.keep(in, out) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [2][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // a cut is what this is for
			_ = way[0].Close()
		})
	}
	both.Wait()
}

// Three edges without a database send to a central ratelimitd. They lose the network for a minute, one of
// them is killed meanwhile, and the central one is killed when they are back: nothing is lost, nothing comes twice.
func TestCollectorChain(t *testing.T) {
	t.Parallel()
	database := testenv.Database(t)
	central := newDaemon(t, "TPS_DATABASE_URL="+database, "TPS_SERVER_ID=central", "TPS_API_TOKENS=write:s3cret")
	central.start(t)
	const edges, entries, away = 3, 150_000, time.Minute // of 2,500 a second: a minute
	var ways []*network
	var daemons []*daemon
	var senders []*numbered
	for i := range edges {
		way := newNetwork(t, central.httpAddr)
		d := newDaemon(t, "TPS_COLLECTOR_URL=http://"+way.addr, "TPS_COLLECTOR_TOKEN=s3cret", fmt.Sprintf("TPS_SERVER_ID=edge-%d", i), "TPS_BATCH_SIZE=500", "TPS_STREAM_MAX_AGE=0")
		d.start(t)
		ways, daemons = append(ways, way), append(daemons, d)
		senders = append(senders, startNumbered(t, d.grpcAddr, fmt.Sprintf("edge-%d", i), entries))
	}
	<-time.After(3 * time.Second) // some is stored before
	for _, way := range ways {
		way.set(true)
	}
	<-time.After(away / 2)
	killed := daemons[1].kill(t)
	<-time.After(away / 2)
	for _, way := range ways {
		way.set(false)
	}
	<-time.After(500 * time.Millisecond)
	central.kill(t)
	conn := testenv.Connect(t, database)
	for i, n := range senders {
		n.running.Wait()
		daemons[i].awaitStored(t)
		kills := map[int][]time.Time{1: {killed}}[i]
		n.assertStoredOnce(t, conn, kills...)
		var others int
		if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM tps_metrics WHERE gateway = $1 AND server_id <> $1", n.gateway).Scan(&others); err != nil || others != 0 {
			t.Errorf("%d rows of %s say that another server has measured them, %v", others, n.gateway, err)
		}
	}
	assertRollups(t, conn)
}
