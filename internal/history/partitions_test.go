package history_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func today() time.Time { return time.Now().UTC().Truncate(24 * time.Hour) }

// stable calls f with the day, once more where that has ended meanwhile.
func stable(f func(day time.Time)) {
	for day := today(); ; day = today() {
		f(day)
		if today().Equal(day) {
			return
		}
	}
}

func partition(day time.Time) string { return "tps_metrics_" + day.Format("20060102") }

// partitions are those that tps_metrics has besides the default one, with their bounds.
func (s *store) partitions(tb testing.TB) map[string]string {
	tb.Helper()
	s.exec(tb, "SET TimeZone = 'UTC'")
	result, err := s.conn.Query(tb.Context(), `SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class
		WHERE oid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'tps_metrics'::regclass) AND relname <> 'tps_metrics_default'`)
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	var name, bound string
	if _, err := pgx.ForEachRow(result, []any{&name, &bound}, func() error { all[name] = bound; return nil }); err != nil {
		tb.Fatal(err)
	}
	return all
}

// week are the partitions of a day and the seven after it.
func week(day time.Time) map[string]string {
	all := map[string]string{}
	for ahead := range 8 {
		low := day.AddDate(0, 0, ahead)
		all[partition(low)] = fmt.Sprintf("FOR VALUES FROM ('%s 00:00:00+00') TO ('%s 00:00:00+00')", low.Format(time.DateOnly), low.AddDate(0, 0, 1).Format(time.DateOnly))
	}
	return all
}

// places tell for each endpoint in which table its row lies.
func (s *store) places(tb testing.TB) map[string]string {
	tb.Helper()
	result, err := s.conn.Query(tb.Context(), "SELECT endpoint, tableoid::regclass::text FROM tps_metrics")
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]string{}
	var endpoint, table string
	if _, err := pgx.ForEachRow(result, []any{&endpoint, &table}, func() error { all[endpoint] = table; return nil }); err != nil {
		tb.Fatal(err)
	}
	return all
}

func (s *store) maintain(tb testing.TB) {
	tb.Helper()
	if err := s.Maintain(tb.Context()); err != nil {
		tb.Fatal(err)
	}
}

// write stores a row of each time.
func (s *store) write(tb testing.TB, at map[string]time.Time) {
	tb.Helper()
	var batch []traffic.Transaction
	for endpoint, when := range at {
		batch = append(batch, traffic.Transaction{Gateway: "gw", Endpoint: endpoint, At: when})
	}
	if err := s.put(tb.Context(), batch); err != nil {
		tb.Fatalf("writing %v: %v", at, err)
	}
}

func TestMakesPartitionsSevenDaysAhead(t *testing.T) {
	// What a day is does not depend on the settings of the database.
	for _, zone := range []string{"UTC", "Pacific/Kiritimati", "America/New_York"} {
		t.Run(zone, func(t *testing.T) {
			address := testenv.Database(t) + "&timezone=" + zone
			stable(func(day time.Time) {
				s := openStore(t, address)
				s.maintain(t)
				s.maintain(t) // finds all there
				got := s.partitions(t)
				for name, bound := range week(day) {
					if got[name] != bound {
						t.Errorf("partition %s: %q, want %q", name, got[name], bound)
					}
				}
			})
			if n := len(openStore(t, address).partitions(t)); n != 8 && n != 9 { // 9 at midnight
				t.Errorf("%d partitions, want 8", n)
			}
		})
	}
}

// A partition is like the table: indexes and defaults too, for inserts by hand.
func TestPartitionsAreLikeTheTable(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	s.exec(t, fmt.Sprintf("INSERT INTO %s (gateway) VALUES ('gw')", partition(today())))
	if got := query[string](t, s.conn, "SELECT endpoint || domain || server_id || success FROM tps_metrics"); got != "true" {
		t.Errorf("the defaults of a partition give %q, want those of tps_metrics", got)
	}
	const attached = `SELECT count(*) FROM pg_inherits WHERE inhparent = 'tps_metrics_timestamp'::regclass`
	if n := query[int](t, s.conn, attached); n < 9 {
		t.Errorf("%d partitions have the index tps_metrics_timestamp, want 8 and the default one", n)
	}
}

// Rows that are written again and again have room for their next version.
func TestPartitionsHaveRoom(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	const full = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname ~ $1 AND coalesce(reloptions, '{}') && $2"
	for table, c := range map[string]struct{ fill, least int }{"tps_metrics": {100, 8}, "tps_rollups_second": {70, 8}, "tps_rollups_minute": {50, 2}, "tps_rollups_hour": {50, 1}} {
		if n := query[int](t, s.conn, full, "^"+table+"_[0-9]+$", []string{fmt.Sprint("fillfactor=", c.fill)}); n < c.least {
			t.Errorf("%d partitions of %s are filled to %d %%, want at least %d", n, table, c.fill, c.least)
		}
	}
}

func TestEachRowLiesInThePartitionOfItsDay(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	day := today().AddDate(0, 0, 1) // has a partition also if today ends now
	s.write(t, map[string]time.Time{
		"first": day, "last": day.AddDate(0, 0, 1).Add(-time.Microsecond), "next": day.AddDate(0, 0, 1),
		"past": day.AddDate(0, 0, -3), "future": day.AddDate(0, 0, 9), "1970": time.Unix(1, 0), "9999": time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
	})
	want := map[string]string{
		"first": partition(day), "last": partition(day), "next": partition(day.AddDate(0, 0, 1)),
		"past": "tps_metrics_default", "future": "tps_metrics_default", "1970": "tps_metrics_default", "9999": "tps_metrics_default",
	}
	if diff := cmp.Diff(want, s.places(t)); diff != "" {
		t.Errorf("tables of the rows (-want +got):\n%s", diff)
	}
}

// Rows of days that get a partition only later move into it, and lose nothing on the way.
func TestRowsMoveOutOfTheDefaultPartition(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	day := today().AddDate(0, 0, 2)
	s.write(t, map[string]time.Time{
		"a": day, "b": day.Add(time.Hour), "c": day.AddDate(0, 0, 1).Add(-time.Microsecond), "d": day.AddDate(0, 0, 2), "past": day.AddDate(0, 0, -30),
	})
	before := s.rows(t)
	s.maintain(t)
	want := map[string]string{
		"a": partition(day), "b": partition(day), "c": partition(day), "d": partition(day.AddDate(0, 0, 2)), "past": "tps_metrics_default",
	}
	if diff := cmp.Diff(want, s.places(t)); diff != "" {
		t.Errorf("tables of the rows (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(before, s.rows(t)); diff != "" {
		t.Errorf("rows (-before +after):\n%s", diff)
	}
}

// A day with more rows than can be moved in a moment stays where it is: the other days get their
// partitions, writes go on, and the error says what to do.
func TestADayWithTooManyRowsStaysInTheDefaultPartition(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	crowded := today().AddDate(0, 0, 3)
	s.exec(t, fmt.Sprintf("INSERT INTO tps_metrics (gateway, timestamp) SELECT 'old', '%s' FROM generate_series(1, 100001)", crowded.Format(time.RFC3339)))
	stable(func(day time.Time) {
		err := s.Maintain(t.Context())
		if err == nil || !strings.Contains(err.Error(), "tps_metrics_default holds more than 100000 rows from "+crowded.Format(time.DateOnly)) {
			t.Errorf("the error is %v, want one that names table and day", err)
		}
		got := s.partitions(t)
		for name := range week(day) {
			if _, made := got[name]; made != (name != partition(crowded)) {
				t.Errorf("partition %s is there: %t, want all but that of %s", name, made, crowded.Format(time.DateOnly))
			}
		}
	})
	s.write(t, map[string]time.Time{"new": crowded.Add(time.Hour), "other": crowded.AddDate(0, 0, 1)})
	const in = "SELECT tableoid::regclass::text FROM tps_metrics WHERE endpoint = $1"
	for endpoint, want := range map[string]string{"new": "tps_metrics_default", "other": partition(crowded.AddDate(0, 0, 1))} {
		if got := query[string](t, s.conn, in, endpoint); got != want {
			t.Errorf("the row of %q lies in %s, want %s", endpoint, got, want)
		}
	}
	// One less can be moved.
	s.exec(t, "DELETE FROM tps_metrics_default WHERE ctid IN (SELECT ctid FROM tps_metrics_default WHERE gateway = 'old' LIMIT 2)")
	s.maintain(t)
	if n := query[int](t, s.conn, "SELECT count(*) FROM "+partition(crowded)); n != 100_000 {
		t.Errorf("%d rows have moved, want 100000", n)
	}
}

// Operators have their own ideas: larger partitions, none by default, a table of that name.
func TestMaintainLeavesAlone(t *testing.T) {
	day := today().AddDate(0, 0, 4)
	for name, c := range map[string]struct {
		before string
		in     string // where a row of the day lies then
	}{
		"a partition of two days": {fmt.Sprintf("CREATE TABLE mine PARTITION OF tps_metrics FOR VALUES FROM ('%s') TO ('%s')",
			day.AddDate(0, 0, -1).Format(time.RFC3339), day.AddDate(0, 0, 1).Format(time.RFC3339)), "mine"},
		"a table of the name":       {fmt.Sprintf("CREATE TABLE %s (LIKE tps_metrics)", partition(day)), "tps_metrics_default"},
		"another default partition": {"ALTER TABLE tps_metrics_default RENAME TO \"the Rest\"; INSERT INTO tps_metrics (gateway, timestamp) VALUES ('gw', '" + day.Format(time.RFC3339) + "')", partition(day)},
		"no default partition":      {"DROP TABLE tps_metrics_default", partition(day)},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, testenv.Database(t))
			s.exec(t, c.before)
			s.maintain(t)
			s.write(t, map[string]time.Time{"e": day})
			if got := s.places(t)["e"]; got != c.in {
				t.Errorf("a row of %s lies in %s, want %s", day.Format(time.DateOnly), got, c.in)
			}
			if got := s.partitions(t); got[partition(day.AddDate(0, 0, 2))] == "" {
				t.Errorf("partitions %v: the later days have none", got)
			}
		})
	}
}

// Replicas make partitions at the same time, while they write.
func TestReplicasMaintainAndWriteAtTheSameTime(t *testing.T) {
	address := testenv.Database(t)
	stores := []*store{openStore(t, address), openStore(t, address), openStore(t, address)}
	var all sync.WaitGroup
	const batches = 20
	for i, s := range stores {
		s.source = traffic.Source{Server: fmt.Sprint("edge-", i), Run: fmt.Sprint("run-", i)}
		all.Go(func() {
			if err := s.Maintain(t.Context()); err != nil {
				t.Errorf("replica %d: %v", i, err)
			}
		})
		all.Go(func() {
			for n := range batches {
				batch := transactionsOf(fmt.Sprintf("e%d-%02d", i, n))
				batch[0].At = today().AddDate(0, 0, n%9)
				if err := s.put(t.Context(), batch); err != nil {
					t.Errorf("replica %d, write %d: %v", i, n, err)
				}
			}
		})
	}
	all.Wait()
	if n := query[int](t, stores[0].conn, "SELECT count(*) FROM tps_metrics"); n != len(stores)*batches {
		t.Errorf("%d rows, want %d", n, len(stores)*batches)
	}
	if n := len(stores[0].partitions(t)); n != 8 && n != 9 { // 9 at midnight
		t.Errorf("%d partitions, want 8", n)
	}
}

// A query that takes for ever keeps partitions from being made, but no writer waits for long behind
// the maintenance that waits for it.
func TestALongQueryStopsNoWriter(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	reader := testenv.Connect(t, s.pool.Config().ConnString())
	if _, err := reader.Exec(t.Context(), "BEGIN; SELECT count(*) FROM tps_metrics"); err != nil {
		t.Fatal(err)
	}
	maintained := make(chan error, 1)
	go func() { maintained <- s.Maintain(context.WithoutCancel(t.Context())) }()
	testenv.Eventually(t, patience, "maintenance that waits for the reader", func() error {
		if n := query[int](t, s.conn, "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"); n == 0 {
			return errors.New("nobody waits")
		}
		return nil
	})
	tomorrow := today().AddDate(0, 0, 1)
	s.write(t, map[string]time.Time{"e": tomorrow})
	err := <-maintained
	if err == nil || !strings.Contains(err.Error(), "making the partition of tps_metrics from 2") || !strings.Contains(err.Error(), "lock timeout") {
		t.Errorf("the error is %v, want a lock timeout that names the day", err)
	}
	if _, err := reader.Exec(t.Context(), "COMMIT"); err != nil {
		t.Fatal(err)
	}
	s.maintain(t)
	if got := s.places(t)["e"]; got != partition(tomorrow) {
		t.Errorf("the row lies in %s, want %s", got, partition(tomorrow))
	}
}
