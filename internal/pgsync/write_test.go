package pgsync_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var full = limits.Limit{
	Key: limits.Key{Domain: "d", Gateway: "g", Endpoint: "e", Per: "p"}, MaxTPS: 7, Burst: 3, MaxWaitMS: 250, Shadow: true, Note: "n",
}

func TestPutReturnsWhatIsInForce(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	stored, err := r.Put(t.Context(), full, "api from here")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(limits.RowOf(&stored), limits.RowOf(r.current.Load().Find(full.Key))); diff != "" {
		t.Errorf("what Put returns is not what is in force (-returned +in force):\n%s", diff)
	}
	if diff := cmp.Diff(full, stored, cmpopts.IgnoreUnexported(limits.Limit{}), cmpopts.IgnoreFields(limits.Limit{}, "CreatedAt", "UpdatedAt", "Version")); diff != "" {
		t.Errorf("what Put returns is not what was put (-put +returned):\n%s", diff)
	}
	if stored.Version != 1 || stored.CreatedAt.IsZero() || stored.UpdatedAt.IsZero() {
		t.Errorf("version %d, created_at %v, updated_at %v", stored.Version, stored.CreatedAt, stored.UpdatedAt)
	}
	var who string
	if err := conn.QueryRow(t.Context(), "SELECT who FROM tps_limits_history").Scan(&who); err != nil || who != "api from here" {
		t.Errorf("the history says who = %q (%v)", who, err)
	}
}

func TestPutReplacesTheWholeRow(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	first, err := r.Put(t.Context(), full, "t")
	if err != nil {
		t.Fatal(err)
	}
	second, err := r.Put(t.Context(), limits.Limit{Key: full.Key, MaxTPS: 9, Enabled: true}, "t")
	if err != nil {
		t.Fatal(err)
	}
	want := limits.Limit{Key: full.Key, MaxTPS: 9, Enabled: true, CreatedAt: first.CreatedAt, UpdatedAt: second.UpdatedAt, Version: second.Version}
	if diff := cmp.Diff(limits.RowOf(&want), limits.RowOf(&second)); diff != "" {
		t.Errorf("the second row (-want +got):\n%s", diff)
	}
	if second.Version <= first.Version || !second.UpdatedAt.After(first.UpdatedAt) {
		t.Errorf("version %d after %d, updated_at %v after %v", second.Version, first.Version, second.UpdatedAt, first.UpdatedAt)
	}
	third, err := r.Put(t.Context(), second, "t")
	if err != nil {
		t.Fatal(err)
	}
	if third.Version != second.Version || !third.UpdatedAt.Equal(second.UpdatedAt) {
		t.Errorf("the same row once more has version %d, want still %d", third.Version, second.Version)
	}
}

func TestDelete(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	keys := []limits.Key{full.Key, {Gateway: "g"}, {Gateway: "g", Endpoint: "e"}, {Gateway: "g", Per: "p"}}
	for _, key := range keys {
		if _, err := r.Put(t.Context(), limits.Limit{Key: key, MaxTPS: 1}, "t"); err != nil {
			t.Fatal(err)
		}
	}
	for i, key := range keys {
		if err := r.Delete(t.Context(), key, "t"); err != nil {
			t.Fatal(err)
		}
		if table := r.current.Load(); table.Find(key) != nil || table.Len() != len(keys)-i-1 {
			t.Errorf("after the deletion of %s there are %d limits, that one: %v", key, table.Len(), table.Find(key))
		}
		if err := r.Delete(t.Context(), key, "t"); !errors.Is(err, limits.ErrNotFound) || isUnavailable(err) {
			t.Errorf("deleting %s twice: %v, want ErrNotFound", key, err)
		}
	}
}

func TestPutOfABadRow(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "ALTER TABLE tps_limits ADD CONSTRAINT our_own CHECK (gateway <> 'forbidden')")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	for name, l := range map[string]limits.Limit{
		"max_tps": {Key: limits.Key{Gateway: "g"}, MaxTPS: -1},
		"gateway": {MaxTPS: 1},
		"our_own": {Key: limits.Key{Gateway: "forbidden"}, MaxTPS: 1},
	} {
		_, err := r.Put(t.Context(), l, "t")
		if fault, ok := errors.AsType[*limits.FieldError](err); !ok || !strings.Contains(fault.Error(), name) || isUnavailable(err) {
			t.Errorf("row %+v: %v, want a FieldError that names %s", l, err, name)
		}
	}
	if _, ok := errors.AsType[*limits.FieldError](r.Delete(t.Context(), limits.Key{}, "t")); !ok {
		t.Error("deleting a key without a gateway is no FieldError")
	}
	if n := queryInt(t, conn, "SELECT count(*) FROM tps_limits_history"); n != 0 {
		t.Errorf("%d changes were made", n)
	}
}

func TestPutWithoutRun(t *testing.T) {
	r := idle(t, pgsync.Config{ConnString: testenv.Database(t)})
	if _, err := r.Put(t.Context(), full, "t"); !isUnavailable(err) {
		t.Errorf("Put before Run: %v, want Unavailable", err)
	}
	if err := r.Ready(); err == nil {
		t.Error("Ready before Run says nothing")
	}
}

func TestPutGivesUpOnALock(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never, QueryTimeout: 500 * time.Millisecond})
	exec(t, conn, "BEGIN; INSERT INTO tps_limits (gateway) VALUES ('of an operator who went for lunch')")
	if _, err := r.Put(t.Context(), full, "t"); !isUnavailable(err) || !strings.Contains(err.Error(), "another transaction has changed tps_limits") {
		t.Errorf("Put beside an open transaction: %v, want Unavailable and why", err)
	}
	exec(t, conn, "ROLLBACK")
	if _, err := r.Put(t.Context(), full, "t"); err != nil {
		t.Errorf("Put after it has ended: %v", err)
	}
}

func TestPutObeysTheContext(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never, QueryTimeout: never})
	exec(t, conn, "BEGIN; INSERT INTO tps_limits (gateway) VALUES ('g')")
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Put(ctx, full, "t"); !isUnavailable(err) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Put with a context that ends: %v, want its deadline", err)
	}
	exec(t, conn, "ROLLBACK")
}

// A change that is stored while nobody follows is not in force: Put must not say so.
func TestPutWaitsUntilItIsInForce(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "ALTER TABLE tps_limits DISABLE TRIGGER tps_limits_4_notify")
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	if _, err := r.Put(t.Context(), full, "t"); err != nil { // the kick, as neither NOTIFY nor poll tell
		t.Fatal(err)
	}
	if r.current.Load().Find(full.Key) == nil {
		t.Error("Put has returned, and the limit is not in force")
	}
}

func TestWritesOfManyAtOnce(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	const writers, each = 6, 15
	errs := make(chan error, writers)
	for w := range writers {
		go func() { errs <- putAndDelete(t.Context(), r, w, each) }()
	}
	for range writers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := r.current.Load().Len(); n != 0 {
		t.Errorf("%d limits are left, want none", n)
	}
}

func putAndDelete(ctx context.Context, r *replica, writer, times int) error {
	key := limits.Key{Gateway: strings.Repeat("g", writer+1)}
	for i := range times {
		l := limits.Limit{Key: key, MaxTPS: int64(i)}
		if _, err := r.Put(ctx, l, "t"); err != nil {
			return err
		}
		if got := r.current.Load().Find(key); got == nil || got.MaxTPS != l.MaxTPS {
			return errors.New("a limit is not in force after Put")
		}
		if err := r.Delete(ctx, key, "t"); err != nil {
			return err
		}
	}
	return nil
}

func TestSecretsStaySecret(t *testing.T) {
	for _, conn := range []string{
		"postgres://u:hunter2@127.0.0.1:1/d?connect_timeout=x", "host=127.0.0.1 port=x password=hunter2", "postgres://u:hunter2@:port/d",
	} {
		_, err := pgsync.New(pgsync.Config{ConnString: conn}, limits.NewClock(), new(limits.Current), nil, nil)
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error %v, want one without the password", conn, err)
		}
	}
	r := start(t, pgsync.Config{ConnString: "postgres://u:hunter2@127.0.0.1:1/d"})
	r.waitFault(t, "connecting to Postgres")
	if text := r.Ready().Error() + r.logs.String(); strings.Contains(text, "hunter2") {
		t.Errorf("the password is shown: %s", text)
	}
}

// Rows of several windows stand beside each other, and are written and deleted each by itself.
func TestRowsOfSeveralWindows(t *testing.T) {
	db := testenv.Database(t)
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	second := limits.Limit{Key: limits.Key{Gateway: "g"}, MaxTPS: 10, Enabled: true}
	day := limits.Limit{Key: limits.Key{Gateway: "g", PerSeconds: 86_400}, MaxTPS: 10_000, Algorithm: limits.FixedWindow, Enabled: true}
	for _, l := range []limits.Limit{second, day} {
		stored, err := r.Put(t.Context(), l, "t")
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(l, stored, cmpopts.IgnoreUnexported(limits.Limit{}), cmpopts.IgnoreFields(limits.Limit{}, "CreatedAt", "UpdatedAt", "Version")); diff != "" {
			t.Errorf("stored (-put +returned):\n%s", diff)
		}
	}
	if n := r.current.Load().Len(); n != 2 {
		t.Errorf("%d rows are in force, want 2", n)
	}
	if err := r.Delete(t.Context(), limits.Key{Gateway: "g", PerSeconds: 1}, "t"); err != nil {
		t.Fatal(err)
	}
	if table := r.current.Load(); table.Find(second.Key) != nil || table.Find(day.Key) == nil || table.Find(day.Key).Algorithm != limits.FixedWindow {
		t.Errorf("after the row of a second was deleted there are %v", table.Sorted())
	}
}

// A release works with the schema of the one before, too: rows count per second, and writing waits
// for the migration.
func TestSchemaWithoutWindows(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	for _, statement := range []string{
		"ALTER TABLE tps_limits DROP CONSTRAINT tps_limits_key, DROP COLUMN per_seconds, DROP COLUMN algorithm",
		"ALTER TABLE tps_limits ADD CONSTRAINT tps_limits_key UNIQUE NULLS NOT DISTINCT (domain, gateway, endpoint, per)",
		"INSERT INTO tps_limits (gateway, max_tps) VALUES ('old', 7)",
	} {
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	r := follow(t, pgsync.Config{ConnString: db, PollInterval: never})
	if l := r.current.Load().Find(limits.Key{Gateway: "old"}); l == nil || l.MaxTPS != 7 || l.Seconds() != 1 || l.Algorithm != limits.TokenBucket {
		t.Errorf("the row of the older schema is %+v", l)
	}
	_, put := r.Put(t.Context(), limits.Limit{Key: limits.Key{Gateway: "new"}, MaxTPS: 1}, "t")
	for what, err := range map[string]error{"Put": put, "Delete": r.Delete(t.Context(), limits.Key{Gateway: "old"}, "t")} {
		if unavailable, ok := errors.AsType[*pgsync.UnavailableError](err); !ok || !strings.Contains(unavailable.Error(), "ratelimitd migrate") {
			t.Errorf("%s: %v, want an UnavailableError that names the command", what, err)
		}
	}
}
