package history_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// all are the tables that hold data, with how many rows each has.
func (s *store) all(tb testing.TB) map[string]int {
	tb.Helper()
	names, err := pgx.CollectRows(must(s.conn.Query(tb.Context(), `SELECT relname FROM pg_class
		WHERE relkind = 'r' AND (relname ~ '^tps_metrics_' OR relname ~ '^tps_rollups_')`)), pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	counts := map[string]int{}
	for _, name := range names {
		counts[name] = query[int](tb, s.conn, "SELECT count(*) FROM "+name)
	}
	return counts
}

func must(rows pgx.Rows, err error) pgx.Rows {
	if err != nil {
		panic(err)
	}
	return rows
}

// put1 stores a transaction of each time.
func (s *store) put1(tb testing.TB, times ...time.Time) {
	tb.Helper()
	var batch []traffic.Transaction
	for i, at := range times {
		batch = append(batch, traffic.Transaction{Gateway: "gw", Endpoint: fmt.Sprint("e", i), At: at, Success: true})
	}
	if err := s.put(tb.Context(), batch); err != nil {
		tb.Fatal(err)
	}
}

// Weeks later the partitions that are too old are gone, and what lay in default ones too.
func TestRetention(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	const day = 24 * time.Hour
	s.Store = history.New(history.Config{RawSample: 1, Retention: history.Retention{Raw: 3 * day, Second: 2 * day, Minute: 20 * day}}, s.pool, rollup.NewNames(100))
	now := time.Date(2026, 3, 10, 15, 0, 0, 0, time.UTC)
	for ahead := range 30 { // as it goes on
		if err := s.MaintainAt(t.Context(), now.AddDate(0, 0, ahead)); err != nil {
			t.Fatal(err)
		}
		s.put1(t, now.AddDate(0, 0, ahead))
	}
	s.put1(t, now.AddDate(-1, 0, 0), now.AddDate(0, 0, 300)) // in default partitions
	last := now.AddDate(0, 0, 29)                            // 8 April
	if err := s.MaintainAt(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	var raw, second, minute, hour []string
	for _, name := range slices.Sorted(maps.Keys(s.all(t))) {
		switch {
		case strings.HasSuffix(name, "default"):
		case strings.HasPrefix(name, "tps_metrics_"):
			raw = append(raw, name[len(name)-4:])
		case strings.HasPrefix(name, "tps_rollups_second_"):
			second = append(second, name[len(name)-4:])
		case strings.HasPrefix(name, "tps_rollups_minute_"):
			minute = append(minute, name[len(name)-4:])
		default:
			hour = append(hour, name[len(name)-4:])
		}
	}
	for what, c := range map[string]struct{ got, want []string }{
		// Of three days before 8 April 15:00 something is left of 5 April, seven are made ahead.
		"rows":    {raw, []string{"0405", "0406", "0407", "0408", "0409", "0410", "0411", "0412", "0413", "0414", "0415"}},
		"seconds": {second, []string{"0406", "0407", "0408", "0409", "0410", "0411", "0412", "0413", "0414", "0415"}},
		"minutes": {minute, []string{"0319", "0326", "0402", "0409"}},
		"hours":   {hour, []string{"0212", "0312", "0409"}},
	} {
		if diff := cmp.Diff(c.want, c.got); diff != "" {
			t.Errorf("partitions of %s (-want +got):\n%s", what, diff)
		}
	}
	counts := s.all(t)
	for table, want := range map[string]int{"tps_metrics_default": 1, "tps_rollups_second_default": 1, "tps_rollups_minute_default": 1, "tps_rollups_hour_default": 2} {
		if counts[table] != want {
			t.Errorf("%s has %d rows, want %d: what is too old is gone", table, counts[table], want)
		}
	}
}

// There may be more of what is too old in a default partition than one statement deletes.
func TestRetentionOfManyRowsWithoutAPartition(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.Store = history.New(history.Config{Retention: history.Retention{Raw: time.Hour}}, s.pool, rollup.NewNames(100))
	s.exec(t, "INSERT INTO tps_metrics (gateway, timestamp) SELECT 'old', '2020-05-05' FROM generate_series(1, 250001); INSERT INTO tps_metrics (gateway, timestamp) VALUES ('new', now() + interval '20 days')")
	s.maintain(t)
	if got := query[string](t, s.conn, "SELECT string_agg(gateway, ' ') FROM tps_metrics"); got != "new" {
		t.Errorf("rows of gateways %.20q are left, want the new one", got)
	}
}

// What somebody else has made under a parent is not ours to drop.
func TestRetentionLeavesAlone(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.Store = history.New(history.Config{RawSample: 1, Retention: history.Retention{Raw: time.Hour}}, s.pool, rollup.NewNames(100))
	s.exec(t, "CREATE TABLE archive PARTITION OF tps_metrics FOR VALUES FROM ('2020-01-01') TO ('2021-01-01'); INSERT INTO tps_metrics (gateway, timestamp) VALUES ('gw', '2020-05-05')")
	s.maintain(t)
	if n := query[int](t, s.conn, "SELECT count(*) FROM archive"); n != 1 {
		t.Errorf("the table archive has %d rows, want 1", n)
	}
}

// A query of one day reads the partition of that day.
func TestAQueryOfADayReadsItsPartition(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.maintain(t)
	tomorrow := today().AddDate(0, 0, 1)
	s.put1(t, tomorrow.Add(time.Hour))
	for _, c := range []struct{ sql, reads string }{
		{"SELECT gateway, count(*) FROM tps_metrics WHERE timestamp >= $1 AND timestamp < $2 GROUP BY 1", partition(tomorrow)},
		{"SELECT gateway, sum(requests) FROM tps_rollups WHERE resolution = 'second' AND at >= $1 AND at < $2 GROUP BY 1", "tps_rollups_second_" + tomorrow.Format("20060102")},
	} {
		lines, err := pgx.CollectRows(must(s.conn.Query(t.Context(), "EXPLAIN "+c.sql, tomorrow, tomorrow.AddDate(0, 0, 1))), pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		plan := strings.Join(lines, "\n")
		var read []string
		for _, scan := range regexp.MustCompile(`Scan .*?on (\S+) `).FindAllStringSubmatch(plan, -1) {
			read = append(read, scan[1])
		}
		if diff := cmp.Diff([]string{c.reads}, read); diff != "" {
			t.Errorf("the plan reads something else than %s:\n%s", c.reads, plan)
		}
	}
}

// Keys are forgotten after a week, runs after a month.
func TestSourcesAreForgotten(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	s.exec(t, `INSERT INTO tps_offsets (run, server_id, next_offset, at) SELECT kind || age, 's', 1, now() - age * interval '1 day'
		FROM unnest('{key:,run-}'::text[]) kind, unnest('{1,6,8,29,31}'::int[]) age`)
	s.maintain(t)
	got := query[string](t, s.conn, "SELECT string_agg(run, ' ' ORDER BY run) FROM tps_offsets")
	if want := "key:1 key:6 run-1 run-29 run-6 run-8"; got != want {
		t.Errorf("sources that are left: %s, want %s", got, want)
	}
}
