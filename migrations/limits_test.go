package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func exec(t *testing.T, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	if _, err := conn.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// entry is what a test looks at in tps_limits_history: gateway and max_tps of both sides.
type entry struct{ Who, Before, After string }

func history(t *testing.T, conn *pgx.Conn) []entry {
	t.Helper()
	const side = "coalesce(%[1]s ->> 'gateway' || '=' || (%[1]s ->> 'max_tps'), '')"
	rows, err := conn.Query(t.Context(), "SELECT who, "+fmt.Sprintf(side, "before")+", "+fmt.Sprintf(side, "after")+" FROM tps_limits_history ORDER BY id")
	if err != nil {
		t.Fatal(err)
	}
	entries, err := pgx.CollectRows(rows, pgx.RowToStructByPos[entry])
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func TestInsertsOfTheOriginalDesign(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	exec(t, conn, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('payment', NULL, 500), ('payment', '/charge', 100)")
	exec(t, conn, "INSERT INTO tps_limits (gateway) VALUES ('defaults')")
	var l limits.Limit
	var burst, endpoint *string
	err := conn.QueryRow(t.Context(), "SELECT domain, endpoint, max_tps, enabled, burst::text, max_wait_ms, shadow, note FROM tps_limits WHERE gateway = 'defaults'").
		Scan(&l.Domain, &endpoint, &l.MaxTPS, &l.Enabled, &burst, &l.MaxWaitMS, &l.Shadow, &l.Note)
	if err != nil {
		t.Fatal(err)
	}
	if l.MaxTPS != limits.DefaultMaxTPS || !l.Enabled || burst != nil || endpoint != nil || l.Domain != "" || l.MaxWaitMS != 0 || l.Shadow || l.Note != "" {
		t.Errorf("defaults are %+v, burst %v, endpoint %v", l, burst, endpoint)
	}
}

// The constraints and limits.Limit.Validate must agree about every row; max_tps and the like
// come as text, so that a case can be any number.
func TestConstraints(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	long, note := strings.Repeat("x", limits.MaxNameBytes), strings.Repeat("n", limits.MaxNoteBytes)
	type row = map[string]any
	good := []row{
		{"gateway": "bare"},
		{"domain": long, "gateway": long, "endpoint": long, "per": long, "note": note},
		{"gateway": strings.Repeat("ü", 127) + "x"},
		{"gateway": "g*", "endpoint": "*"},
		{"gateway": "sp ace \u00a0 \u200b"},
		{"gateway": "zero", "max_tps": 0, "burst": 1, "max_wait_ms": 0},
		{"gateway": "most", "max_tps": limits.MaxMaxTPS, "burst": limits.MaxBurst, "max_wait_ms": limits.MaxMaxWaitMS},
		{"gateway": "note", "note": "two\nlines\tand a tab"},
	}
	for _, r := range good {
		if err := insert(t.Context(), conn, r); err != nil {
			t.Errorf("row %v: %v", r, err)
		}
	}
	bad := []row{
		{"gateway": ""},
		{"gateway": nil},
		{"gateway": long + "x"},
		{"gateway": strings.Repeat("ü", 128)},
		{"gateway": "a\nb"},
		{"gateway": "a\x01"},
		{"gateway": "\x1f"},
		{"gateway": "\x7f"},
		{"gateway": "a\u0080"},
		{"gateway": "\u009fb"},
		{"domain": nil},
		{"domain": long + "x"},
		{"domain": "a\tb"},
		{"endpoint": ""},
		{"endpoint": long + "x"},
		{"endpoint": "a\rb"},
		{"per": ""},
		{"per": long + "x"},
		{"per": "\x1b"},
		{"max_tps": -1},
		{"max_tps": limits.MaxMaxTPS + 1},
		{"max_tps": nil},
		{"burst": 0},
		{"burst": -1},
		{"burst": limits.MaxBurst + 1},
		{"max_wait_ms": -1},
		{"max_wait_ms": limits.MaxMaxWaitMS + 1},
		{"max_wait_ms": nil},
		{"enabled": nil},
		{"shadow": nil},
		{"note": nil},
		{"note": note + "n"},
		{"per_seconds": 0},
		{"per_seconds": -1},
		{"per_seconds": limits.MaxPerSeconds + 1},
		{"per_seconds": nil},
		{"algorithm": "leaky_bucket"},
		{"algorithm": ""},
		{"algorithm": nil},
		{"algorithm": "fixed_window", "burst": 5},
		{"algorithm": "sliding_window", "burst": 5},
		{"created_at": "infinity"},
		{"created_at": "10000-01-01"},
		{"created_at": "0044-03-15 BC"},
	}
	for _, r := range bad {
		if _, said := r["gateway"]; !said {
			r["gateway"] = "bad"
		}
		if err := insert(t.Context(), conn, r); err == nil {
			t.Errorf("row %v is taken", r)
		} else if code := refusal(err); code[:2] != "23" && code[:2] != "22" {
			t.Errorf("row %v: %v, want a refusal for its value", r, err)
		}
	}
}

func refusal(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return "none"
}

func insert(ctx context.Context, conn *pgx.Conn, row map[string]any) error {
	var names, places []string
	var values []any
	for name, v := range row {
		names, values = append(names, name), append(values, v)
		places = append(places, "$"+strconv.Itoa(len(values)))
	}
	_, err := conn.Exec(ctx, "INSERT INTO tps_limits ("+strings.Join(names, ",")+") VALUES ("+strings.Join(places, ",")+")",
		append([]any{pgx.QueryExecModeSimpleProtocol}, values...)...)
	return err
}

func TestKeyTakesNullsAsEqual(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	exec(t, conn, `INSERT INTO tps_limits (domain, gateway, endpoint, per) VALUES
		('', 'g', NULL, NULL), ('d', 'g', NULL, NULL), ('', 'g', 'e', NULL), ('', 'g', NULL, 'p'), ('', 'g', 'e', 'p')`)
	exec(t, conn, "INSERT INTO tps_limits (gateway, per_seconds) VALUES ('g', 60), ('g', 86400)") // beside the one per second
	for _, key := range []string{"('', 'g', NULL, NULL)", "('', 'g', 'e', NULL)", "('', 'g', NULL, 'p')", "('', 'g', 'e', 'p')"} {
		_, err := conn.Exec(t.Context(), "INSERT INTO tps_limits (domain, gateway, endpoint, per) VALUES "+key)
		if code := refusal(err); code != "23505" {
			t.Errorf("key %s twice: %v, want a unique violation", key, err)
		}
	}
}

func TestHistoryPerStatement(t *testing.T) {
	const who = "tps"
	insert2 := []entry{{who, "", "a=1"}, {who, "", "b=2"}}
	for _, c := range []struct {
		name, sql string
		want      []entry // beside that of the two rows it starts with
	}{
		{"insert", "INSERT INTO tps_limits (gateway, max_tps) VALUES ('c', 3), ('d', 4)", []entry{{who, "", "c=3"}, {who, "", "d=4"}}},
		{"update", "UPDATE tps_limits SET max_tps = max_tps * 10", []entry{{who, "a=1", "a=10"}, {who, "b=2", "b=20"}}},
		{"update of a key", "UPDATE tps_limits SET gateway = 'z' WHERE gateway = 'a'", []entry{{who, "a=1", "z=1"}}},
		{"update that changes nothing", "UPDATE tps_limits SET max_tps = max_tps, updated_at = now(), created_at = '2020-01-01', version = 77", nil},
		{"update of no row", "UPDATE tps_limits SET max_tps = 5 WHERE false", nil},
		{"delete", "DELETE FROM tps_limits WHERE gateway = 'b'", []entry{{who, "b=2", ""}}},
		{"truncate", "TRUNCATE tps_limits", []entry{{who, "a=1", ""}, {who, "b=2", ""}}},
		{"upsert", "INSERT INTO tps_limits (gateway, max_tps) VALUES ('a', 9), ('n', 8) ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps", []entry{{who, "a=1", "a=9"}, {who, "", "n=8"}}},
		{"insert that does nothing", "INSERT INTO tps_limits (gateway, max_tps) VALUES ('a', 9) ON CONFLICT DO NOTHING", nil},
		{"merge", `MERGE INTO tps_limits l USING (VALUES ('a'), ('n')) v(g) ON l.gateway = v.g
			WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT (gateway, max_tps) VALUES (v.g, 8)`, []entry{{who, "a=1", ""}, {who, "", "n=8"}}},
		{"delete and insert of one key", `WITH gone AS (DELETE FROM tps_limits WHERE gateway = 'a' RETURNING gateway)
			INSERT INTO tps_limits (gateway, max_tps) SELECT gateway, 7 FROM gone`, []entry{{who, "a=1", ""}, {who, "", "a=7"}}},
		{"named author", "BEGIN; SET LOCAL ratelimitd.who = 'api from here'; DELETE FROM tps_limits WHERE gateway = 'a'; COMMIT; DELETE FROM tps_limits WHERE gateway = 'b'", []entry{{"api from here", "a=1", ""}, {who, "b=2", ""}}},
		{"roll back", "BEGIN; DELETE FROM tps_limits; ROLLBACK", nil},
		{"other search_path", "SET search_path = pg_catalog; UPDATE public.tps_limits SET max_tps = 5 WHERE gateway = 'a'; RESET search_path", []entry{{who, "a=1", "a=5"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := testenv.Connect(t, testenv.Database(t))
			exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('a', 1), ('b', 2)")
			exec(t, conn, c.sql, pgx.QueryExecModeSimpleProtocol)
			if diff := cmp.Diff(append(insert2[:2:2], c.want...), history(t, conn)); diff != "" {
				t.Errorf("%s\nhistory (-want +got):\n%s", c.sql, diff)
			}
			checkVersions(t, conn)
		})
	}
}

// checkVersions compares each row with the newest entry that tells of its gateway.
func checkVersions(t *testing.T, conn *pgx.Conn) {
	t.Helper()
	var wrong int
	err := conn.QueryRow(t.Context(), `SELECT count(*) FROM tps_limits l WHERE to_jsonb(l) IS DISTINCT FROM
		(SELECT h.after FROM tps_limits_history h WHERE h.id = l.version AND NOT EXISTS
			(SELECT FROM tps_limits_history later WHERE later.id > h.id AND later.after ->> 'gateway' = l.gateway))`).Scan(&wrong)
	if err != nil {
		t.Fatal(err)
	}
	if wrong > 0 {
		t.Errorf("%d rows are not what the entry of their version says", wrong)
	}
}

func TestUpdateKeepsCreatedAtAndMovesUpdatedAt(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	exec(t, conn, "INSERT INTO tps_limits (gateway, created_at, updated_at) VALUES ('g', '2024-05-06 07:08:09Z', '2024-05-06 07:08:09Z')")
	exec(t, conn, "UPDATE tps_limits SET max_tps = 5, created_at = now(), updated_at = '2024-05-06 07:08:09Z'")
	var created, updated time.Time
	if err := conn.QueryRow(t.Context(), "SELECT created_at, updated_at FROM tps_limits").Scan(&created, &updated); err != nil {
		t.Fatal(err)
	}
	if want := time.Date(2024, 5, 6, 7, 8, 9, 0, time.UTC); !created.Equal(want) {
		t.Errorf("created_at is %v, want %v", created, want)
	}
	if age := time.Since(updated); age < -time.Minute || age > 10*time.Minute {
		t.Errorf("updated_at is %v, want the time of the UPDATE", updated)
	}
}

func TestTruncateNeedsToSeeEveryRow(t *testing.T) {
	conn := testenv.Connect(t, testenv.Database(t))
	exec(t, conn, "INSERT INTO tps_limits (gateway) VALUES ('g')")
	_, err := conn.Exec(t.Context(), "BEGIN ISOLATION LEVEL REPEATABLE READ; TRUNCATE tps_limits; COMMIT", pgx.QueryExecModeSimpleProtocol)
	if code := refusal(err); code != "0A000" {
		t.Errorf("TRUNCATE with an old snapshot: %v, want a refusal", err)
	}
}

func TestNotification(t *testing.T) {
	db := testenv.Database(t)
	conn, listener := testenv.Connect(t, db), testenv.Connect(t, db)
	exec(t, listener, "LISTEN tps_limits")
	for _, sql := range []string{
		"INSERT INTO tps_limits (gateway) SELECT 'g' || i FROM generate_series(1, 1000) i",
		"UPDATE tps_limits SET max_tps = 7", "DELETE FROM tps_limits WHERE gateway = 'g1'", "TRUNCATE tps_limits",
	} {
		exec(t, conn, sql)
		var newest string
		if err := conn.QueryRow(t.Context(), "SELECT max(id)::text FROM tps_limits_history").Scan(&newest); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		n, err := listener.WaitForNotification(ctx)
		cancel()
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		if n.Payload != newest {
			t.Errorf("%s: notified of %q, want one notification, of %s", sql, n.Payload, newest)
		}
	}
}

// Writers that touch the same rows in different orders neither deadlock nor give ids that become
// visible out of order: a reader who follows the ids ends with what the table holds.
func TestConcurrentWriters(t *testing.T) {
	db := testenv.Database(t)
	setup := testenv.Connect(t, db)
	exec(t, setup, "INSERT INTO tps_limits (gateway, max_tps) SELECT 'g' || i, 0 FROM generate_series(0, 7) i")
	const writers, rounds = 6, 40
	var g errgroup.Group
	for w := range writers {
		conn := testenv.Connect(t, db)
		g.Go(func() error { return writeRows(t.Context(), conn, w, rounds) })
	}
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	reader, seen, last := testenv.Connect(t, db), map[string]string{}, int64(0)
	for finished := false; ; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			finished = true
		default:
		}
		if n := follow(t, reader, seen, &last); n == 0 && finished {
			break
		}
	}
	rows, err := setup.Query(t.Context(), "SELECT gateway, max_tps::text FROM tps_limits")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	var gateway, maxTPS string
	if _, err := pgx.ForEachRow(rows, []any{&gateway, &maxTPS}, func() error { want[gateway] = maxTPS; return nil }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, seen); diff != "" {
		t.Errorf("who follows the history has not what the table has (-table +history):\n%s", diff)
	}
}

// writeRows changes two rows in each transaction, in an order that differs between writers.
func writeRows(ctx context.Context, conn *pgx.Conn, writer, rounds int) error {
	for i := range rounds {
		first, second := (writer+i)%8, (writer*3+i*5+1)%8
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, row := range [2]int{first, second} {
				if _, err := tx.Exec(ctx, "UPDATE tps_limits SET max_tps = $1 WHERE gateway = 'g' || $2::text", writer*1000+i+1, strconv.Itoa(row)); err != nil {
					return err
				}
			}
			if i%7 == 0 {
				_, err := tx.Exec(ctx, "DELETE FROM tps_limits WHERE gateway = 'g0'")
				return err
			}
			_, err := tx.Exec(ctx, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g0', $1) ON CONFLICT DO NOTHING", i)
			return err
		})
		if err != nil {
			return fmt.Errorf("writer %d, round %d: %w", writer, i, err)
		}
	}
	return nil
}

// follow applies to seen what is newer than last, and returns the number of entries.
func follow(t *testing.T, conn *pgx.Conn, seen map[string]string, last *int64) (n int) {
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT id, coalesce(before ->> 'gateway', ''), coalesce(after ->> 'gateway', ''), coalesce(after ->> 'max_tps', '')
		FROM tps_limits_history WHERE id > $1 ORDER BY id`, *last)
	if err != nil {
		t.Fatal(err)
	}
	var id int64
	var before, after, maxTPS string
	_, err = pgx.ForEachRow(rows, []any{&id, &before, &after, &maxTPS}, func() error {
		*last, n = id, n+1
		delete(seen, before)
		if after != "" {
			seen[after] = maxTPS
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDownTakesEverythingAway(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	if err := down(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"ratelimitd_schema"}, tables(t, conn)); diff != "" {
		t.Errorf("tables after Down (-want +got):\n%s", diff)
	}
	var functions int
	if err := conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace").Scan(&functions); err != nil {
		t.Fatal(err)
	}
	if functions > 0 {
		t.Errorf("%d functions are left after Down", functions)
	}
}
