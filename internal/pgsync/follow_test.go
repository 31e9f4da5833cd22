package pgsync_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestFirstLoad(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, `INSERT INTO tps_limits (domain, gateway, endpoint, per, max_tps, enabled, burst, max_wait_ms, shadow, note)
		VALUES ('d', 'g', 'e', 'p', 7, false, 3, 250, true, 'n'); INSERT INTO tps_limits (gateway) VALUES ('bare')`)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	table := r.current.Load()
	if table.Len() != 2 || table.ID() != 2 {
		t.Fatalf("%d limits at change %d, want 2 at 2", table.Len(), table.ID())
	}
	got := *table.Find(limits.Key{Domain: "d", Gateway: "g", Endpoint: "e", Per: "p"})
	if got.MaxTPS != 7 || got.Enabled || got.Burst != 3 || got.MaxWaitMS != 250 || !got.Shadow || got.Note != "n" || got.Version != 1 {
		t.Errorf("the full row is %+v", got)
	}
	if age := time.Since(got.CreatedAt); age < 0 || age > time.Minute || got.CreatedAt.Location() != time.UTC || got.UpdatedAt.IsZero() {
		t.Errorf("created_at is %v, updated_at %v, want now, in UTC", got.CreatedAt, got.UpdatedAt)
	}
	bare := *table.Find(limits.Key{Gateway: "bare"})
	if bare.MaxTPS != limits.DefaultMaxTPS || !bare.Enabled || bare.Burst != 0 || bare.Shadow {
		t.Errorf("the bare row is %+v", bare)
	}
	r.wantMetric(t, 1, "ratelimitd_postgres_up")
	r.wantMetric(t, 0, "ratelimitd_limits_stale")
}

// All rows come the same however the operator has queries made.
func TestFirstLoadInEveryModeOfQueries(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, `INSERT INTO tps_limits (domain, gateway, endpoint, per, max_tps, enabled, burst, max_wait_ms, shadow, note, per_seconds)
		VALUES ('d', 'g', 'e', 'p', 7, false, 3, 250, true, E'two\nlines', 60); INSERT INTO tps_limits (gateway, max_tps, algorithm) VALUES ('bare', 1000000000, 'fixed_window')`)
	want := rows(follow(t, pgsync.Config{ConnString: db, PollInterval: never}).current.Load())
	for _, mode := range []string{"exec", "simple_protocol", "describe_exec", "cache_describe"} {
		r := follow(t, pgsync.Config{ConnString: db + "&default_query_exec_mode=" + mode, PollInterval: never})
		if diff := cmp.Diff(want, rows(r.current.Load())); diff != "" || len(want) != 2 {
			t.Errorf("%d limits in mode %s (-default +mode):\n%s", len(want), mode, diff)
		}
	}
}

// With a poll that never comes only NOTIFY can tell of the change.
func TestNotificationPutsAChangeInForce(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	conn := testenv.Connect(t, db)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	r.waitMaxTPS(t, "g", 10)
	for i := range int64(50) {
		exec(t, conn, "UPDATE tps_limits SET max_tps = $1", i)
		r.waitMaxTPS(t, "g", i)
	}
	exec(t, conn, "TRUNCATE tps_limits")
	r.waitMaxTPS(t, "g", -1)
	if err := r.Ready(); err != nil {
		t.Errorf("an empty set with a newer id: %v, want it in force", err)
	}
}

func TestPollFindsWhatNotificationsMiss(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "ALTER TABLE tps_limits DISABLE TRIGGER tps_limits_4_notify")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: 20 * time.Millisecond})
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	r.waitMaxTPS(t, "g", 10)
}

func TestReconnectsWhenTheListenerIsTerminated(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	for i := range int64(3) {
		n := queryInt(t, conn, `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'ratelimitd' AND pid <> pg_backend_pid()`)
		if n == 0 {
			t.Fatal("no connection is named ratelimitd")
		}
		exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', $1) ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps", i)
		r.waitMaxTPS(t, "g", i)
		r.waitReady(t)
	}
}

// Whatever statements are made, who follows the history has what who loads all rows has.
func TestFollowingEqualsLoading(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	cfg := pgsync.Config{ConnString: db, PollInterval: never}
	r := follow(t, cfg)
	rapid.Check(t, func(rt *rapid.T) {
		for _, sql := range rapid.SliceOfN(statements(), 1, 8).Draw(rt, "statements") {
			_, err := conn.Exec(context.Background(), sql)
			if err != nil && !strings.Contains(err.Error(), "23505") { // a key that is taken
				rt.Fatalf("%s: %v", sql, err)
			}
		}
		newest := queryInt(t, conn, "SELECT coalesce(max(id), 0) FROM tps_limits_history")
		testenv.Eventually(t, patience, "catching up", func() error {
			if id := r.current.Load().ID(); id < newest {
				return fmt.Errorf("at %d of %d", id, newest)
			}
			return nil
		})
		r.sameAsFresh(t, cfg)
	})
}

func statements() *rapid.Generator[string] {
	return rapid.Custom(func(rt *rapid.T) string {
		gateway := rapid.SampledFrom([]string{"'a'", "'b'", "'c*'"})
		endpoint := rapid.SampledFrom([]string{"NULL", "'e'", "'*'"})
		g, e, n := gateway.Draw(rt, "gateway"), endpoint.Draw(rt, "endpoint"), rapid.IntRange(0, 5).Draw(rt, "max_tps")
		return rapid.SampledFrom([]string{
			fmt.Sprintf("INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES (%s, %s, %d)", g, e, n),
			fmt.Sprintf("INSERT INTO tps_limits (gateway, endpoint, max_tps) SELECT g, %s, %d FROM unnest(ARRAY['a','b','c*']) g ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps", e, n),
			fmt.Sprintf("UPDATE tps_limits SET max_tps = %d, note = 'x' WHERE gateway = %s", n, g),
			fmt.Sprintf("UPDATE tps_limits SET gateway = %s, per = 'k' WHERE endpoint IS NOT DISTINCT FROM %s AND per IS NULL", g, e),
			fmt.Sprintf("DELETE FROM tps_limits WHERE gateway = %s AND endpoint IS NOT DISTINCT FROM %s", g, e),
			fmt.Sprintf("WITH gone AS (DELETE FROM tps_limits WHERE gateway = %s RETURNING *) INSERT INTO tps_limits SELECT * FROM gone", g),
			"TRUNCATE tps_limits",
		}).Draw(rt, "sql")
	})
}

func TestManyChangesAtOnce(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	cfg := pgsync.Config{ConnString: db, PollInterval: never}
	r := follow(t, cfg)
	const all = 10_050 // more than are applied one by one
	exec(t, conn, fmt.Sprintf("INSERT INTO tps_limits (gateway, max_tps) SELECT 'g' || i, i FROM generate_series(1, %d) i", all))
	r.waitMaxTPS(t, fmt.Sprintf("g%d", all), all)
	if n := r.current.Load().Len(); n != all {
		t.Errorf("%d limits are in force, want %d", n, all)
	}
	exec(t, conn, "UPDATE tps_limits SET max_tps = 3 WHERE gateway IN ('g1', 'g2')")
	r.waitMaxTPS(t, "g2", 3)
	r.sameAsFresh(t, cfg)
}

// What a change does not touch stays the very same limit, with the instant since which it holds.
func TestReloadKeepsLimitsThatDidNotChange(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10), ('h', 10)")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	before := r.current.Load().Find(limits.Key{Gateway: "g"})
	exec(t, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	exec(t, conn, "UPDATE tps_limits SET max_tps = 11 WHERE gateway = 'h'")
	r.waitMaxTPS(t, "h", 11)
	if after := r.current.Load().Find(limits.Key{Gateway: "g"}); after != before {
		t.Errorf("limit of g was %p, is %p, want the same", before, after)
	}
}

func TestMigrate(t *testing.T) {
	db := testenv.EmptyDatabase(t)
	conn := testenv.Connect(t, db)
	calls := 0
	r := start(t, pgsync.Config{ConnString: db, Migrate: func(context.Context) error {
		if calls++; calls == 1 {
			return errors.New("no right to do that")
		}
		exec(t, conn, "CREATE TABLE tps_limits_history (id bigint, before jsonb, after jsonb); CREATE TABLE tps_limits AS "+
			"SELECT ''::text AS domain, 'g'::text AS gateway, null::text AS endpoint, null::text AS per, 5::bigint AS max_tps, true AS enabled, "+
			"null::bigint AS burst, 0::bigint AS max_wait_ms, false AS shadow, ''::text AS note, 0::bigint AS version, now() AS created_at, now() AS updated_at")
		return nil
	}})
	r.waitReady(t)
	r.waitMaxTPS(t, "g", 5)
	exec(t, conn, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	r.waitReady(t)
	r.stop()
	if calls != 2 {
		t.Errorf("Migrate was called %d times, want until it succeeded, twice", calls)
	}
	if logs := r.logs.String(); !strings.Contains(logs, "no right to do that") {
		t.Errorf("the logs do not say why the migration went wrong")
	}
}

func TestMigrationThatFailsDoesNotKeepLimitsAway(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, Migrate: func(context.Context) error { return errors.New("no right to do that") }})
	r.stop()
	if logs := r.logs.String(); !strings.Contains(logs, "the schema is not up to date") || !strings.Contains(logs, "no right to do that") {
		t.Errorf("the logs do not say that the migration went wrong")
	}
}
