package e2e_test

import (
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const day = 24 * time.Hour

// kept is how far back there are rollups of a resolution, and how its partitions are made.
type kept struct {
	resolution       string
	slot             time.Duration
	rows, partitions time.Duration // how far back each go
	days, fill       int           // of a partition
}

// partition is the one of a time.
func (k *kept) partition(t time.Time) string {
	return "tps_rollups_" + k.resolution + "_" + k.begin(t).Format("20060102")
}

func (k *kept) begin(t time.Time) time.Time {
	length := int64(k.days) * 24 * 3600
	return time.Unix(t.Unix()/length*length, 0).UTC()
}

// month fills a database with what 1,000 transactions a second over 20 gateways with 10 endpoints
// each leave in rollups.
func month(tb testing.TB, all ...kept) *pgx.Conn {
	tb.Helper()
	testenv.InOneWindow(tb, day) // partitions begin at midnight
	address := testenv.Database(tb)
	pool, err := pgxpool.New(tb.Context(), address)
	if err != nil {
		tb.Fatal(err)
	}
	defer pool.Close()
	if err := history.New(history.Config{}, pool, rollup.NewNames(1)).Maintain(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	conn := testenv.Connect(tb, address)
	began, now := time.Now(), time.Now()
	for _, k := range all {
		for _, sql := range append(k.past(now), k.insert(now)) {
			if _, err := conn.Exec(tb.Context(), sql); err != nil {
				tb.Fatalf("%.300s: %v", sql, err)
			}
		}
	}
	if _, err := conn.Exec(tb.Context(), "VACUUM ANALYZE tps_rollups"); err != nil {
		tb.Fatal(err)
	}
	tb.Logf("filled in %s", time.Since(began))
	return conn
}

// tables are the partitions of a time.
func (k *kept) tables(from, to time.Time) (names []string) {
	for at := k.begin(from); !at.After(to); at = at.AddDate(0, 0, k.days) {
		names = append(names, k.partition(at))
	}
	return names
}

// past makes the partitions that Maintain has made over time. Those of today and later are there.
func (k *kept) past(now time.Time) (sql []string) {
	for at := k.begin(now.Add(-k.partitions)); at.Before(k.begin(now)); at = at.AddDate(0, 0, k.days) {
		sql = append(sql, fmt.Sprintf("CREATE TABLE %s PARTITION OF tps_rollups_%s FOR VALUES FROM ('%s') TO ('%s') WITH (fillfactor = %d)",
			k.partition(at), k.resolution, at.Format(time.RFC3339), at.AddDate(0, 0, k.days).Format(time.RFC3339), k.fill))
	}
	return sql
}

// insert makes the rows, in the order of time as they come.
func (k *kept) insert(now time.Time) string {
	const tps, keys = 1000, 200
	requests := int(k.slot.Seconds()) * tps / keys
	var histograms []string
	for e := range 10 {
		histograms = append(histograms, histogramOf(requests, float64(e+1)*10))
	}
	return fmt.Sprintf(`INSERT INTO tps_rollups (resolution, at, domain, gateway, endpoint, server_id, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, histogram)
		SELECT '%[1]s', at, 'edge', 'gateway-' || g, '/api/v1/endpoint-' || e, 'edge-1', n, n * 9 / 10, (n + 19) / 20, (n + 49) / 50, n, n * 25, 5 + e, h
		FROM generate_series(timestamptz '%[3]s', '%[4]s', interval '1 %[1]s') at, (VALUES (%[2]d)) requests (n),
			generate_series(1, 20) g, unnest('{%[5]s}'::numeric[]) WITH ORDINALITY AS endpoints (h, e)`,
		k.resolution, requests, now.Add(-k.rows).Truncate(k.slot).UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339), strings.Join(histograms, ","))
}

// histogramOf is about that of n durations around a median, log-normal as those of services are, as
// tps_rollups has it.
func histogramOf(n int, medianMS float64) string {
	const spread = 0.8
	var h rollup.Histogram
	for i := range n {
		z := math.Sqrt2 * math.Erfinv(2*(float64(i)+0.5)/float64(n)-1)
		h.Add(time.Duration(medianMS*math.Exp(spread*z)*float64(time.Millisecond)), 1)
	}
	counts, low := map[int]int64{}, rollup.NumBuckets
	for bucket, count := range h.All() {
		counts[int(bucket)], low = count, min(low, int(bucket))
	}
	var b strings.Builder
	for bucket := slices.Max(slices.Collect(maps.Keys(counts))); bucket >= low; bucket-- {
		fmt.Fprintf(&b, "%016d", counts[bucket])
	}
	return fmt.Sprintf("%se%d", &b, 16*low)
}

// sqlOf are the queries of the dashboard that ask for transactions, by panel, as Grafana sends them.
func sqlOf(tb testing.TB, s shown) map[string]string {
	tb.Helper()
	all := map[string]string{}
	for _, p := range loadDashboard(tb).Panels {
		for _, q := range p.Targets {
			if strings.Contains(q.RawSQL, "tps_rollups") {
				all[p.Title] = s.asGrafana(q.RawSQL, p.MaxDataPoints)
			}
		}
	}
	if len(all) < 5 {
		tb.Fatalf("only the panels %v ask for transactions", slices.Sorted(maps.Keys(all)))
	}
	return all
}

// tablesOf are the tables that a query reads.
func tablesOf(tb testing.TB, conn *pgx.Conn, sql string) []string {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), "EXPLAIN "+sql)
	if err != nil {
		tb.Fatal(err)
	}
	lines, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatalf("%v\n%s", err, sql)
	}
	tables := map[string]bool{}
	for _, scan := range regexp.MustCompile(`(?:Seq Scan|Heap Scan|Scan using \S+|Scan Backward using \S+) on (\S+)`).FindAllStringSubmatch(strings.Join(lines, "\n"), -1) {
		tables[scan[1]] = true
	}
	return slices.Sorted(maps.Keys(tables))
}

// Each panel that asks for transactions reads only the partitions of the time that is shown, of one
// resolution, and of the next one to find the busiest; it shows what is there.
func TestDashboardReadsFewPartitions(t *testing.T) {
	seconds := kept{"second", time.Second, 15 * time.Minute, 3 * day, 1, 70}
	minutes := kept{"minute", time.Minute, day, 15 * day, 7, 50}
	hours := kept{"hour", time.Hour, 30 * day, 60 * day, 28, 50}
	conn := month(t, seconds, minutes, hours)
	yesterday := time.Now().UTC().Truncate(day).Add(-12 * time.Hour)
	for _, c := range []struct {
		shown
		from, busiest *kept
	}{
		{lastOf(15 * time.Minute), &seconds, &minutes},
		{lastOf(day), &minutes, &hours},
		{lastOf(30 * day), &hours, &hours},
		{shown{yesterday, yesterday.Add(10 * time.Second)}, &seconds, &minutes},
		{shown{yesterday.Add(-9 * day), yesterday.Add(-8 * day)}, &minutes, &hours},
		{shown{yesterday.Add(-58 * day), yesterday.Add(-50 * day)}, &hours, &hours},
	} {
		for panel, sql := range sqlOf(t, c.shown) {
			want := c.from.tables(c.shown.from, c.to)
			if strings.Contains(sql, " IN (") && c.from != c.busiest {
				want = append(c.busiest.tables(c.shown.from.Add(-c.busiest.slot), c.to), want...)
				slices.Sort(want)
			}
			if diff := cmp.Diff(want, tablesOf(t, conn, sql)); diff != "" {
				t.Errorf("panel %q from %s to %s reads (-want +got):\n%s\n%s", panel, c.shown.from, c.to, diff, sql)
			}
			if n := rowsOf(t, conn, sql); n == 0 && time.Since(c.to) < time.Hour {
				t.Errorf("panel %q from %s to %s shows nothing", panel, c.shown.from, c.to)
			}
		}
	}
}

// rowsOf runs a query and tells how many rows it has.
func rowsOf(tb testing.TB, conn *pgx.Conn, sql string) (n int) {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), sql)
	if err != nil {
		tb.Fatal(err)
	}
	for rows.Next() {
		n++
	}
	if err := rows.Err(); err != nil {
		tb.Fatalf("%v\n%s", err, sql)
	}
	return n
}

// BenchmarkDashboard asks what each panel asks of Postgres, for ranges from a quarter of an hour to
// 30 days.
func BenchmarkDashboard(b *testing.B) {
	conn := month(b, kept{"second", time.Second, time.Hour, day, 1, 70}, kept{"minute", time.Minute, 2 * day, 7 * day, 7, 50}, kept{"hour", time.Hour, 30 * day, 30 * day, 28, 50})
	for _, r := range []struct {
		name   string
		length time.Duration
	}{{"15 minutes", 15 * time.Minute}, {"1 day", day}, {"30 days", 30 * day}} {
		panels := sqlOf(b, lastOf(r.length))
		for _, panel := range slices.Sorted(maps.Keys(panels)) {
			b.Run(r.name+"/"+panel, func(b *testing.B) {
				n := 0
				for b.Loop() {
					n = rowsOf(b, conn, panels[panel])
				}
				b.ReportMetric(float64(n), "rows")
				b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/query")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}
