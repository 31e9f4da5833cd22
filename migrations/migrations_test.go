package migrations_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/migrations"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var discard = slog.New(slog.DiscardHandler)

// newest is the number of the last file in this directory.
const newest = 4

func tables(t *testing.T, conn *pgx.Conn) []string {
	t.Helper()
	rows, err := conn.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') ORDER BY relname")
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestUpMakesTheSchemaOnce(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	if err := migrations.Up(t.Context(), db, log); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "database migrated"); n != newest {
		t.Errorf("the first Up logs %d migrations, want %d:\n%s", n, newest, out.String())
	}
	want := []string{
		"ratelimitd_schema", "tps_limits", "tps_limits_history", "tps_metrics", "tps_metrics_default", "tps_offsets",
		"tps_rollups", "tps_rollups_hour", "tps_rollups_hour_default", "tps_rollups_minute", "tps_rollups_minute_default", "tps_rollups_second", "tps_rollups_second_default",
	}
	conn := testenv.Connect(t, db)
	if diff := cmp.Diff(want, tables(t, conn)); diff != "" {
		t.Errorf("tables (-want +got):\n%s", diff)
	}
	out.Reset()
	if err := migrations.Up(t.Context(), db, log); err != nil {
		t.Fatalf("Up for the second time: %v", err)
	}
	if out.Len() > 0 {
		t.Errorf("the second Up logs something:\n%s", out.String())
	}
}

// A table of the original design becomes partitioned and keeps its rows, with the defaults of what
// it left empty.
func TestUpTakesOverATableWithoutPartitions(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	conn := testenv.Connect(t, db)
	for _, sql := range []string{
		"CREATE TABLE tps_metrics (id serial PRIMARY KEY, gateway varchar(255) NOT NULL, endpoint varchar(255), timestamp timestamptz DEFAULT now(), duration_ms real, success boolean, server_id text)",
		"CREATE VIEW mine AS SELECT gateway FROM tps_metrics",
		"CREATE INDEX tps_metrics_timestamp ON tps_metrics (timestamp)",
		"INSERT INTO tps_metrics (gateway, endpoint, timestamp, duration_ms, success, server_id) VALUES ('gw', 'pay', '2026-01-02T03:04:05Z', 12.5, false, 's1'), ('gw', NULL, NULL, NULL, NULL, NULL)",
	} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	if err := migrations.Up(t.Context(), db, discard); err != nil {
		t.Fatal(err)
	}
	rows, err := conn.Query(t.Context(), "SELECT concat_ws('|', gateway, endpoint, duration_ms, success, server_id, tableoid::regclass) FROM tps_metrics ORDER BY endpoint")
	if err != nil {
		t.Fatal(err)
	}
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"gw||0|t||tps_metrics_default", "gw|pay|12.5|f|s1|tps_metrics_default"}, got); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	var indexes int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_index WHERE indrelid = 'tps_metrics'::regclass").Scan(&indexes); err != nil || indexes != 1 {
		t.Errorf("the table has %d indexes, error %v; want the one of the schema", indexes, err)
	}
}

func TestUpFromManyReplicasAtOnce(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	var g errgroup.Group
	for range 5 {
		g.Go(func() error { return migrations.Up(t.Context(), db, discard) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	var applied int
	err := testenv.Connect(t, db).QueryRow(t.Context(), "SELECT count(*) FROM ratelimitd_schema WHERE version_id > 0").Scan(&applied)
	if err != nil {
		t.Fatal(err)
	}
	if applied != newest {
		t.Errorf("%d migrations were made, want %d: each once", applied, newest)
	}
}

func TestUpLeavesANewerDatabaseAlone(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	if _, err := conn.Exec(t.Context(), "INSERT INTO ratelimitd_schema (version_id, is_applied) VALUES (99999, true)"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db, discard); err != nil {
		t.Errorf("Up on a newer database: %v", err)
	}
	if err := migrations.Check(t.Context(), db); err != nil {
		t.Errorf("Check on a newer database: %v", err)
	}
}

func TestUpTakesAllOfAFileOrNothing(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	conn := testenv.Connect(t, db)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE tps_limits_history (what text)"); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Up(t.Context(), db, discard); err == nil || !strings.Contains(err.Error(), `"tps_limits_history" already exists`) {
		t.Errorf("Up over a table of somebody else: error %v, want one that names it", err)
	}
	if diff := cmp.Diff([]string{"ratelimitd_schema", "tps_limits_history"}, tables(t, conn)); diff != "" {
		t.Errorf("tables after a migration that went wrong (-want +got):\n%s", diff)
	}
}

func TestCheck(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	outdated, ok := errors.AsType[*migrations.OutdatedError](migrations.Check(t.Context(), db))
	if !ok || *outdated != (migrations.OutdatedError{Current: 0, Wanted: newest}) {
		t.Fatalf("Check of an empty database: %v, want an OutdatedError of 0 and %d", outdated, newest)
	}
	if text := outdated.Error(); !strings.Contains(text, "ratelimitd migrate") {
		t.Errorf("error %q does not name the command", text)
	}
	if got := tables(t, testenv.Connect(t, db)); len(got) > 0 {
		t.Errorf("Check has made %v", got)
	}
	if err := migrations.Check(t.Context(), testenv.Database(t)); err != nil {
		t.Errorf("Check of a migrated database: %v", err)
	}
}

func TestErrorsKeepThePassword(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for _, db := range []string{"postgres://u:hunter2@" + nobody + "/d", "postgres://u:hunter2@" + nobody + "/d?connect_timeout=x"} {
		for name, err := range map[string]error{"Up": migrations.Up(t.Context(), db, discard), "Check": migrations.Check(t.Context(), db)} {
			if err == nil || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s without a database: error %v, want one without the password", name, err)
			}
		}
	}
}

// An address may carry settings of the pool, which Postgres does not know.
func TestUpTakesSettingsOfThePool(t *testing.T) {
	if err := migrations.Up(t.Context(), testenv.EmptyDatabase(t)+"&pool_max_conns=2", slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
}
