package pgsync_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// impatient gives up quickly, so that tests of hanging servers are quick.
func impatient(db string) pgsync.Config {
	return pgsync.Config{ConnString: db, PollInterval: 50 * time.Millisecond, QueryTimeout: 300 * time.Millisecond, StartTimeout: 100 * time.Millisecond}
}

func TestKilledAndRestarted(t *testing.T) {
	server := testenv.NewPostgres(t)
	db := server.Database(t)
	exec(t, testenv.Connect(t, db), "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	r := follow(t, impatient(db))
	server.Kill()
	r.waitFault(t, "1 limits are served as of change 1")
	r.wantMetric(t, 1, "ratelimitd_limits_stale")
	r.wantMetric(t, 0, "ratelimitd_postgres_up")
	if got := r.maxTPS("g"); got != 10 {
		t.Errorf("while Postgres is away g is limited to %d, want still 10", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := r.Put(ctx, full, "t"); !isUnavailable(err) || ctx.Err() != nil {
		t.Errorf("Put while Postgres is away: %v, want Unavailable before the context ends", err)
	}
	server.Start(t)
	exec(t, testenv.Connect(t, db), "UPDATE tps_limits SET max_tps = 20")
	r.waitMaxTPS(t, "g", 20)
	r.waitReady(t)
	r.wantMetric(t, 0, "ratelimitd_limits_stale")
	r.wantMetric(t, 1, "ratelimitd_postgres_up")
	if r.metric(t, "ratelimitd_limits_load_errors_total", "reason", "connection") == 0 {
		t.Error("no fault of the connection is counted")
	}
	if n := strings.Count(r.logs.String(), "limits cannot be followed"); n != 1 {
		t.Errorf("the outage is logged %d times, want once", n)
	}
}

func TestHangs(t *testing.T) {
	server := testenv.NewPostgres(t)
	db := server.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	r := follow(t, impatient(db))
	server.Hang()
	r.waitFault(t, "1 limits are served as of change 1")
	if got := r.maxTPS("g"); got != 10 {
		t.Errorf("while Postgres hangs g is limited to %d, want still 10", got)
	}
	if _, err := r.Put(t.Context(), full, "t"); !isUnavailable(err) {
		t.Errorf("Put while Postgres hangs: %v, want Unavailable", err)
	}
	server.Continue()
	exec(t, conn, "UPDATE tps_limits SET max_tps = 20")
	r.waitMaxTPS(t, "g", 20)
	r.waitReady(t)
	if _, err := r.Put(t.Context(), full, "t"); err != nil {
		t.Errorf("Put after it: %v", err)
	}
}

// Of several hosts one that takes connections and never answers does not keep the others away.
func TestTheFirstOfTwoHostsHangs(t *testing.T) {
	hanging, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = hanging.Close() }()
	db := strings.Replace(testenv.Database(t), "@", "@"+hanging.Addr().String()+",", 1)
	r := follow(t, impatient(db))
	r.waitReady(t)
}

func TestStopsWhilePostgresHangs(t *testing.T) {
	server := testenv.NewPostgres(t)
	r := follow(t, impatient(server.Database(t)))
	server.Hang()
	stopped := make(chan struct{})
	go func() { r.stop(); close(stopped) }()
	select {
	case <-stopped:
	case <-time.After(patience):
		t.Error("Run does not return")
	}
	server.Continue()
}

// restored makes the database forget its newest changes, as a restore from a backup does.
const restored = `BEGIN; ALTER TABLE tps_limits DISABLE TRIGGER USER; UPDATE tps_limits SET max_tps = 1;
	DELETE FROM tps_limits_history WHERE id > 1; ALTER TABLE tps_limits ENABLE TRIGGER USER; COMMIT`

const terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

func TestAnOlderDatabaseIsNotBelieved(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	for i := range 5 {
		exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ($1, 10)", fmt.Sprint("g", i))
	}
	cfg := impatient(db)
	cfg.DataDir = t.TempDir()
	r := follow(t, cfg)
	r.waitSaved(t, cfg, 5)
	exec(t, conn, restored)
	exec(t, conn, terminate)
	check := func(what string) {
		t.Helper()
		r.waitFault(t, "older than what was seen")
		if err := r.Ready(); !strings.Contains(err.Error(), "newest change is 1") || !strings.Contains(err.Error(), "limits.json") {
			t.Errorf("%s: Ready says %q, want the ids and what to do", what, err)
		}
		if got := r.maxTPS("g3"); got != 10 {
			t.Errorf("%s: g3 is limited to %d, want still 10", what, got)
		}
		if r.metric(t, "ratelimitd_limits_load_errors_total", "reason", "older") == 0 {
			t.Errorf("%s: it is not counted", what)
		}
		if _, err := r.Put(t.Context(), full, "t"); !isUnavailable(err) {
			t.Errorf("%s: Put: %v, want Unavailable", what, err)
		}
	}
	check("the same process")
	r.stop()
	r = start(t, cfg)
	testenv.Eventually(t, patience, "serving the state file", func() error {
		if r.maxTPS("g3") != 10 {
			return errors.New("g3 has no limit of 10")
		}
		return nil
	})
	check("the next process")
	if n := queryInt(t, conn, "SELECT count(*) FROM tps_limits WHERE gateway = 'g'"); n != 0 {
		t.Error("a Put was made")
	}
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('new', 1)") // id 6: ids go on
	r.waitMaxTPS(t, "g3", 1)
	r.waitReady(t)
}

func TestAnEmptyTableNeedsAChangeThatSaysSo(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	cfg := impatient(db)
	cfg.DataDir = t.TempDir()
	r := follow(t, cfg)
	r.waitSaved(t, cfg, 1)
	exec(t, conn, "BEGIN; ALTER TABLE tps_limits DISABLE TRIGGER USER; DELETE FROM tps_limits; ALTER TABLE tps_limits ENABLE TRIGGER USER; COMMIT")
	exec(t, conn, terminate)
	r.waitFault(t, "tps_limits is empty, and no change says so")
	if got := r.maxTPS("g"); got != 10 {
		t.Errorf("g is limited to %d, want still 10", got)
	}
	if r.metric(t, "ratelimitd_limits_load_errors_total", "reason", "emptied") == 0 {
		t.Error("it is not counted")
	}
	r.stop()
	r = start(t, cfg)
	r.waitFault(t, "tps_limits is empty, and no change says so")
	r.waitMaxTPS(t, "g", 10)
	exec(t, conn, "INSERT INTO tps_limits (gateway) VALUES ('g'); TRUNCATE tps_limits")
	r.waitReady(t)
	r.waitMaxTPS(t, "g", -1)
}

func TestWithoutASchema(t *testing.T) {
	r := start(t, impatient(testenv.EmptyDatabase(t)))
	r.waitFault(t, `"tps_limits_history" does not exist`)
	if r.current.Load() != nil {
		t.Error("limits are in force, and there are none")
	}
	if r.metric(t, "ratelimitd_limits_load_errors_total", "reason", "query") == 0 {
		t.Error("it is not counted")
	}
}

const noConstraints = `DO $$ DECLARE c name; BEGIN
	FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'tps_limits'::regclass LOOP
		EXECUTE format('ALTER TABLE tps_limits DROP CONSTRAINT %I', c);
	END LOOP; END $$;
	ALTER TABLE tps_limits ALTER gateway DROP NOT NULL, ALTER max_tps DROP NOT NULL, ALTER enabled DROP NOT NULL, ALTER note DROP NOT NULL,
		ALTER created_at DROP NOT NULL, ALTER shadow DROP NOT NULL, ALTER max_wait_ms DROP NOT NULL`

// badRows are changes that the constraints would refuse, and the field and value that are logged.
var badRows = []struct{ set, logged string }{
	{"max_tps = -5", "max_tps -5"},
	{"max_tps = NULL", "max_tps NULL"},
	{"enabled = NULL", "enabled NULL"},
	{"shadow = NULL", "shadow NULL"},
	{"max_wait_ms = 1800001", "max_wait_ms 1800001"},
	{"burst = 0", "burst 0"},
	{"endpoint = ''", `endpoint \"\"`},
	{"per = ''", `per \"\"`},
	{"per = 'a' || chr(10)", `per \"a\\n\": has a control character`},
	{"gateway = repeat('x', 100000)", `x\"… (100000 bytes): is longer`},
	{"gateway = NULL", `gateway \"\": is empty`},
	{"note = repeat('n', 4097)", `n\"… (4097 bytes): is longer`},
}

func TestABadRowCostsNoOther(t *testing.T) {
	for _, c := range badRows {
		t.Run(c.set, func(t *testing.T) {
			db := testenv.Database(t)
			conn := testenv.Connect(t, db)
			exec(t, conn, noConstraints)
			exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('good', 10), ('bad', 10)")
			cfg := pgsync.Config{ConnString: db, PollInterval: never}
			followed := follow(t, cfg)
			exec(t, conn, "UPDATE tps_limits SET "+c.set+" WHERE gateway = 'bad'; UPDATE tps_limits SET max_tps = 11 WHERE gateway = 'good'")
			followed.waitMaxTPS(t, "good", 11)
			loaded := follow(t, cfg)
			for what, r := range map[string]*replica{"followed": followed, "loaded": loaded} {
				if got := r.maxTPS("good"); got != 11 {
					t.Errorf("%s: good is limited to %d, want 11", what, got)
				}
				r.wantMetric(t, 1, "ratelimitd_limits_load_errors_total", "reason", "invalid_row")
				if logs := r.logs.String(); !strings.Contains(logs, c.logged) || len(logs) > 10_000 {
					t.Errorf("%s: the logs do not say %s, or too much:\n%.10000s", what, c.logged, logs)
				}
			}
			if n := loaded.current.Load().Len(); n != 1 {
				t.Errorf("a fresh replica has %d limits, want the good one", n)
			}
		})
	}
}

// A value that turned bad keeps the last good one in force, also over a reload, until it is mended.
func TestTheLastGoodVersionOfARowStays(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, noConstraints)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('good', 10), ('bad', 10)")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	exec(t, conn, "UPDATE tps_limits SET max_tps = -1 WHERE gateway = 'bad'; UPDATE tps_limits SET max_tps = 11 WHERE gateway = 'good'")
	r.waitMaxTPS(t, "good", 11)
	if got := r.maxTPS("bad"); got != 10 {
		t.Errorf("after a bad change it is limited to %d, want still 10", got)
	}
	exec(t, conn, terminate)
	exec(t, conn, "UPDATE tps_limits SET max_tps = 12 WHERE gateway = 'good'")
	r.waitMaxTPS(t, "good", 12)
	if got := r.maxTPS("bad"); got != 10 {
		t.Errorf("after a reload it is limited to %d, want still 10", got)
	}
	exec(t, conn, "UPDATE tps_limits SET max_tps = 13 WHERE gateway = 'bad'")
	r.waitMaxTPS(t, "bad", 13)
	exec(t, conn, "DELETE FROM tps_limits WHERE gateway = 'bad'")
	r.waitMaxTPS(t, "bad", -1)
}

func TestManyBadRowsAreNotAllLogged(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, noConstraints)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) SELECT 'g' || i, -1 FROM generate_series(1, 500) i")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	r.wantMetric(t, 500, "ratelimitd_limits_load_errors_total", "reason", "invalid_row")
	if n := strings.Count(r.logs.String(), "a row of tps_limits is not used"); n != 10 {
		t.Errorf("%d bad rows are logged, want 10", n)
	}
	if !strings.Contains(r.logs.String(), "rows=490") {
		t.Error("the logs do not say that there are 490 more")
	}
}

func TestOfTwoRowsOfOneKeyTheNewestCounts(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, noConstraints)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 1), ('other', 5), ('g', 2), ('g', 3); UPDATE tps_limits SET max_tps = 4 WHERE max_tps = 2")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	if got := r.maxTPS("g"); got != 4 {
		t.Errorf("g is limited to %d, want 4", got)
	}
	if got := r.maxTPS("other"); got != 5 {
		t.Errorf("other is limited to %d, want 5", got)
	}
	r.wantMetric(t, 2, "ratelimitd_limits_load_errors_total", "reason", "invalid_row")
}

// Dates that JSON cannot hold must keep neither the row nor the state file away.
func TestDatesThatCannotBeUsed(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, noConstraints)
	cfg := pgsync.Config{ConnString: db, PollInterval: never, DataDir: t.TempDir()}
	r := follow(t, cfg)
	exec(t, conn, "INSERT INTO tps_limits (gateway, created_at) VALUES ('a', 'infinity'), ('b', '-infinity'), ('c', '0044-03-15 BC'), ('d', '20000-01-01'), ('e', NULL)")
	testenv.Eventually(t, patience, "following", func() error {
		if n := r.current.Load().Len(); n != 5 {
			return fmt.Errorf("%d limits", n)
		}
		return nil
	})
	r.waitSaved(t, cfg, 5)
	r.sameAsFresh(t, cfg)
	if created := r.current.Load().Find(limits.Key{Gateway: "c"}).CreatedAt; !created.IsZero() {
		t.Errorf("created_at is %v, want unknown", created)
	}
}
