//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// kill ends ratelimitd with SIGKILL and starts it again. It returns when that was.
func (d *daemon) kill(tb testing.TB) time.Time {
	tb.Helper()
	at := time.Now()
	d.server.Kill()
	d.start(tb)
	return at
}

// After 50,000 requests, while Postgres is killed, stopped and restarted and ratelimitd is killed twice, the
// database has each transaction exactly once. Of what Envoy sends nothing is known but its
// names, so a second sender numbers its entries.
func TestEveryTransactionIsStoredOnce(t *testing.T) {
	t.Parallel()
	const entries = 50_000
	postgres := testenv.NewPostgres(t)
	s := newStack(t, stackConfig{database: postgres.Database(t), env: []string{
		"TPS_POLL_INTERVAL=500ms", "TPS_STREAM_MAX_AGE=0", "TPS_BATCH_SIZE=1000", "TPS_MAX_SERIES=1000000",
	}})
	s.setLimits(t, namedLimits)
	tr := startNamedTraffic(s, func(endpoint string, n int) string { return fmt.Sprintf("%s-%d", endpoint, n) })
	n := startNumbered(t, s.daemon.grpcAddr, "numbered", entries)
	step := func(d time.Duration) { <-time.After(d) } // what goes on meanwhile is the traffic

	step(2 * time.Second)
	postgres.Kill()
	step(2 * time.Second)
	kills := []time.Time{s.daemon.kill(t)} // while Postgres is away: all that waits is in the log
	step(time.Second)
	postgres.Start(t)
	step(2 * time.Second)
	postgres.Hang()
	step(2 * time.Second)
	postgres.Continue()
	step(time.Second)
	kills = append(kills, s.daemon.kill(t)) // in the middle of what it makes up for
	step(time.Second)
	postgres.Restart(t)
	n.running.Wait()
	close(tr.quit) // some requests were let through while there was no ratelimitd
	tr.running.Wait()

	s.conn = testenv.Connect(t, s.database)
	s.daemon.awaitStored(t)
	n.assertStoredOnce(t, s.conn, kills...)
	if twice := query[int](t, s, "SELECT count(*) - count(DISTINCT endpoint) FROM tps_metrics WHERE gateway = 'gw-main'"); twice != 0 {
		t.Errorf("%d transactions of Envoy are stored more than once", twice)
	}
	assertRollups(t, s.conn)
	t.Logf("%d requests through Envoy, %d rows of them", tr.sent, query[int](t, s, "SELECT count(*) FROM tps_metrics WHERE gateway = 'gw-main'"))
}

// awaitStored returns when nothing waits in the log any more.
func (d *daemon) awaitStored(tb testing.TB) {
	tb.Helper()
	testenv.Eventually(tb, time.Minute, "emptying the log", func() error {
		if left := d.metric(tb, "ratelimitd_spool_waiting") + d.metric(tb, "ratelimitd_recorder_queue_length"); left != 0 {
			return fmt.Errorf("%g transactions wait", left)
		}
		return nil
	})
}

// newSmallDisk is a daemon whose data directory dir is a disk of 16 MiB: it runs in a mount namespace of
// its own, after a command of the shell.
func newSmallDisk(t *testing.T, before string, env ...string) (d *daemon, dir string) {
	t.Helper()
	d = newDaemon(t, env...)
	dir = filepath.Join(t.TempDir(), "data")
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, "TPS_DATA_DIR="+dir)
	d.wrap = []string{"unshare", "--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs -o size=16m tmpfs "$TPS_DATA_DIR" && ` + before + ` && exec "$@"`, "sh"}
	return d, dir
}

// With a full disk everything is served and counted: what is lost and what is written is what was received.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	postgres := testenv.NewPostgres(t)
	database := postgres.Database(t)
	d, _ := newSmallDisk(t, "true", "TPS_DATABASE_URL="+database, "TPS_BATCH_SIZE=1000", "TPS_STREAM_MAX_AGE=0")
	d.start(t)
	postgres.Kill()
	const entries = 600_000 // of some 40 bytes in the log
	n := (&numbered{gateway: "numbered", size: 1000, every: 10 * time.Millisecond}).start(t, d.grpcAddr, entries)
	n.running.Wait()
	received, lost := d.metric(t, "ratelimitd_recorder_received_total"), d.metric(t, "ratelimitd_spool_lost_total")
	if received != entries || lost == 0 {
		t.Fatalf("%g of %d transactions were received, %g lost: want all received, and some lost", received, entries, lost)
	}
	if status, body, err := d.get(t.Context(), "/readyz"); err != nil || status != 200 {
		t.Errorf("/readyz: %d %s, %v; want 200: a full disk stops no decision", status, body, err)
	}
	postgres.Start(t)
	conn := testenv.Connect(t, database)
	d.awaitStored(t)
	if stored := n.stored(t, conn); float64(len(stored))+lost != entries {
		t.Errorf("%d transactions are stored and %g lost, want %d together", len(stored), lost, entries)
	}
	assertRollups(t, conn)

	again := startNumbered(t, d.grpcAddr, "again", 5000) // there is room again
	again.running.Wait()
	d.awaitStored(t)
	again.assertStoredOnce(t, conn)
	if now := d.metric(t, "ratelimitd_spool_lost_total"); now != lost {
		t.Errorf("%g more transactions were lost when the disk had room again", now-lost)
	}
}

// A disk that is full at the start does not keep limits from being served; what comes once it has room is
// stored.
func TestStartOnAFullDisk(t *testing.T) {
	t.Parallel()
	database := testenv.NewPostgres(t).Database(t)
	pid := filepath.Join(t.TempDir(), "pid")
	d, dir := newSmallDisk(t, `! cat /dev/zero >"$TPS_DATA_DIR/full" && echo $$ >`+pid, "TPS_DATABASE_URL="+database, "TPS_BATCH_SIZE=1000", "TPS_STREAM_MAX_AGE=0")
	d.start(t) // and is ready
	lost := startNumbered(t, d.grpcAddr, "lost", 1000)
	lost.running.Wait()
	testenv.Eventually(t, time.Minute, "counting what is lost", func() error {
		if got := d.metric(t, "ratelimitd_spool_lost_total"); got != 1000 {
			return fmt.Errorf("%g transactions are lost, want 1000", got)
		}
		return nil
	})
	process, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join("/proc", strings.TrimSpace(string(process)), "root", dir)
	if err := os.Remove(filepath.Join(data, "full")); err != nil {
		t.Fatal(err)
	}
	again := startNumbered(t, d.grpcAddr, "again", 5000)
	again.running.Wait()
	d.awaitStored(t)
	again.assertStoredOnce(t, testenv.Connect(t, database))
	if got := d.metric(t, "ratelimitd_spool_lost_total"); got != 1000 {
		t.Errorf("%g transactions are lost, want still 1000", got)
	}
	testenv.Eventually(t, time.Minute, "keeping the last good limits", func() error {
		_, err := os.Stat(filepath.Join(data, "limits.json"))
		return err
	})
}
