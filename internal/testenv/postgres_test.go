package testenv_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// ask runs a query that gives one value, with a bound on time.
func ask[T any](tb testing.TB, conn *pgx.Conn, sql string) (T, error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Second)
	defer cancel()
	var v T
	err := conn.QueryRow(ctx, sql).Scan(&v)
	return v, err
}

func mustAsk[T any](tb testing.TB, conn *pgx.Conn, sql string) T {
	tb.Helper()
	v, err := ask[T](tb, conn, sql)
	if err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestDatabaseIsMigratedAndPrivate(t *testing.T) {
	first := testenv.Connect(t, testenv.Database(t))
	second := testenv.Connect(t, testenv.Database(t))
	if _, err := first.Exec(t.Context(), "INSERT INTO tps_limits (gateway) VALUES ('gw')"); err != nil {
		t.Fatal(err)
	}
	if n := mustAsk[int](t, first, "SELECT count(*) FROM tps_limits"); n != 1 {
		t.Errorf("the database that was written to has %d rows, want 1", n)
	}
	if n := mustAsk[int](t, second, "SELECT count(*) FROM tps_limits"); n != 0 {
		t.Errorf("the other database has %d rows, want 0", n)
	}
}

func TestEmptyDatabaseHasNoTables(t *testing.T) {
	conn := testenv.Connect(t, testenv.EmptyDatabase(t))
	if n := mustAsk[int](t, conn, "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"); n != 0 {
		t.Errorf("an empty database has %d tables, want 0", n)
	}
}

func TestDatabasesAreDropped(t *testing.T) {
	conn := testenv.Connect(t, testenv.Shared(t).ConnString("postgres"))
	const count = "SELECT count(*) FROM pg_database"
	before := mustAsk[int](t, conn, count)
	t.Run("uses one", func(t *testing.T) {
		testenv.Connect(t, testenv.EmptyDatabase(t))
		if during := mustAsk[int](t, conn, count); during != before+1 {
			t.Errorf("%d databases while the test runs, want %d", during, before+1)
		}
	})
	if after := mustAsk[int](t, conn, count); after != before {
		t.Errorf("%d databases after the test, want %d", after, before)
	}
}

func TestPostgresSurvivesKillRestartAndHang(t *testing.T) {
	p := testenv.NewPostgres(t)
	db := p.Database(t)
	conn := testenv.Connect(t, db)
	if _, err := conn.Exec(t.Context(), "CREATE TABLE kept AS SELECT 1 AS n"); err != nil {
		t.Fatal(err)
	}

	p.Hang()
	if _, err := ask[int](t, conn, "SELECT n FROM kept"); err == nil {
		t.Error("a server that hangs has answered")
	}
	p.Continue()
	conn = testenv.Connect(t, db)
	if n := mustAsk[int](t, conn, "SELECT n FROM kept"); n != 1 {
		t.Errorf("after Continue: %d, want 1", n)
	}

	for name, outage := range map[string]func(){
		"Kill and Start": func() { p.Kill(); p.Start(t) },
		"Restart":        func() { p.Restart(t) },
	} {
		outage()
		if _, err := ask[int](t, conn, "SELECT n FROM kept"); err == nil {
			t.Errorf("%s: the old connection still answers", name)
		}
		conn = testenv.Connect(t, db)
		if n := mustAsk[int](t, conn, "SELECT n FROM kept"); n != 1 {
			t.Errorf("%s: %d, want 1", name, n)
		}
	}
}

// helperVariable makes a copy of the test binary start a server and wait to be killed.
const helperVariable = "TESTENV_START_AND_WAIT"

func TestHelperStartAndWait(t *testing.T) {
	if os.Getenv(helperVariable) == "" {
		t.Skip("this is the child of TestServersDieWithTheTest")
	}
	p := testenv.NewPostgres(t)
	conn := testenv.Connect(t, p.ConnString("postgres"))
	if _, err := os.Stdout.WriteString("serving " + p.ConnString("postgres") + "\n"); err != nil {
		t.Fatal(err)
	}
	<-t.Context().Done()
	_ = conn
}

func TestServersDieWithTheTest(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	child := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestHelperStartAndWait$", "-test.v")
	dir, err := os.MkdirTemp("", "ratelimitd-orphan-") //nolint:usetesting // TempDir does not wait for what Postgres still writes
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil { // Postgres runs as another user
		t.Fatal(err)
	}
	child.Env = append(os.Environ(), helperVariable+"=1", "TMPDIR="+dir)
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	connString := servingAt(t, out)
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = child.Wait() // killed
	testenv.Eventually(t, 10*time.Second, "the end of Postgres", func() error {
		conn, err := pgx.Connect(ctx, connString)
		if err != nil {
			return nil //nolint:nilerr // that is what is waited for
		}
		return errors.Join(errors.New("Postgres still answers"), conn.Close(ctx))
	})
	testenv.Eventually(t, 10*time.Second, "removing what the child has left", func() error { return os.RemoveAll(dir) })
}

// servingAt reads what the child prints until it says where its server is.
func servingAt(tb testing.TB, out io.Reader) string {
	tb.Helper()
	var printed strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if connString, ok := strings.CutPrefix(lines.Text(), "serving "); ok {
			return connString
		}
		printed.WriteString(lines.Text() + "\n")
	}
	tb.Fatalf("the child has ended:\n%s", &printed)
	return ""
}
