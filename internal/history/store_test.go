package history_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// patience is how long a test waits for something that takes milliseconds.
const patience = 20 * time.Second

// row is one of tps_metrics.
type row struct {
	Gateway    string
	Endpoint   string
	Timestamp  time.Time
	DurationMS float64
	Success    bool
	Domain     string
	ServerID   string
	StatusCode int32
	Throttled  bool
	WaitedMS   float64
}

// store is a database with the schema, and the sink that writes into it.
type store struct {
	*history.Store
	pool *pgxpool.Pool
	conn *pgx.Conn // of the test

	source traffic.Source // what put stores by
	next   int64          // and at which offset
}

func openStore(tb testing.TB, address string) *store {
	tb.Helper()
	return openStoreWith(tb, address, func(*pgxpool.Config) {})
}

func openStoreWith(tb testing.TB, address string, change func(*pgxpool.Config)) *store {
	tb.Helper()
	cfg, err := pgxpool.ParseConfig(address)
	if err != nil {
		tb.Fatal(err)
	}
	cfg.MaxConns = 4
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec // as ratelimitd has it, for PgBouncer
	change(cfg)
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(pool.Close)
	return &store{Store: history.New(history.Config{RawSample: 1}, pool, rollup.NewNames(10_000)), pool: pool, conn: testenv.Connect(tb, address), source: traffic.Source{Server: "edge-1", Run: "run-1"}}
}

// put stores a batch at the next offset.
func (s *store) put(ctx context.Context, batch []traffic.Transaction) error {
	b := traffic.Batch{Source: s.source, First: s.next, Transactions: batch}
	_, err := s.Write(ctx, b)
	if err == nil {
		s.next = b.Next()
	}
	return err
}

func (s *store) exec(tb testing.TB, sql string) {
	tb.Helper()
	if _, err := s.conn.Exec(tb.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
}

// query returns the one value that SQL asks for.
func query[T any](tb testing.TB, conn *pgx.Conn, sql string, args ...any) (value T) {
	tb.Helper()
	if err := conn.QueryRow(tb.Context(), sql, args...).Scan(&value); err != nil {
		tb.Fatalf("%s: %v", sql, err)
	}
	return value
}

// rows are all that is in tps_metrics, by endpoint.
func (s *store) rows(tb testing.TB) []row {
	tb.Helper()
	result, err := s.conn.Query(tb.Context(), `SELECT gateway, endpoint, timestamp, duration_ms, success, domain, server_id, status_code, throttled, waited_ms
		FROM tps_metrics ORDER BY endpoint COLLATE "C"`)
	if err != nil {
		tb.Fatal(err)
	}
	all, err := pgx.CollectRows(result, pgx.RowToStructByPos[row])
	if err != nil {
		tb.Fatal(err)
	}
	return all
}

// endpoints are those of the rows that Postgres has, in order.
func endpoints(ctx context.Context, conn *pgx.Conn) ([]string, error) {
	result, err := conn.Query(ctx, `SELECT endpoint FROM tps_metrics ORDER BY endpoint COLLATE "C"`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(result, pgx.RowTo[string])
}

// assertEndpoints waits until the rows are those of these endpoints.
func assertEndpoints(tb testing.TB, conn *pgx.Conn, want []string) {
	tb.Helper()
	testenv.Eventually(tb, patience, "the rows of tps_metrics", func() error {
		got, err := endpoints(tb.Context(), conn)
		if err != nil {
			return err
		}
		if diff := cmp.Diff(want, got); diff != "" {
			return fmt.Errorf("endpoints (-want +got):\n%s", diff)
		}
		return nil
	})
}

// transactionsOf are plain ones of these endpoints.
func transactionsOf(endpoints ...string) []traffic.Transaction {
	all := make([]traffic.Transaction, len(endpoints))
	for i, e := range endpoints {
		all[i] = traffic.Transaction{Domain: "edge", Gateway: "gw", Endpoint: e, At: time.Now(), Duration: time.Millisecond, StatusCode: 200, Success: true}
	}
	return all
}

func TestEachColumnArrives(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	at := time.Date(2026, 11, 25, 23, 59, 59, 123_456_789, time.FixedZone("", 3600))
	const hold = 30 * time.Minute
	batch := []traffic.Transaction{
		{Domain: "edge", Gateway: "gw", Endpoint: "a", At: at, Duration: 12_345_678 * time.Nanosecond, StatusCode: 200, Success: true},
		{Gateway: "-", At: at.Add(time.Microsecond)},
		{Domain: "edge", Gateway: "gw", Endpoint: "b", At: at, Waited: hold, StatusCode: 429, Throttled: true},
		{Domain: "é\ufffd", Gateway: strings.Repeat("€", 85), Endpoint: "c'\"\\;--\u2028", At: at, Duration: 366 * 24 * time.Hour, StatusCode: 999},
		{Gateway: "gw", Endpoint: "d", At: time.Unix(1, 0), StatusCode: 7},
	}
	if err := s.put(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	stamp := time.Date(2026, 11, 25, 22, 59, 59, 123_456_000, time.UTC)
	want := []row{
		{Gateway: "-", Timestamp: stamp.Add(time.Microsecond), ServerID: "edge-1"},
		{Gateway: "gw", Endpoint: "a", Timestamp: stamp, DurationMS: 12.345678, Success: true, Domain: "edge", ServerID: "edge-1", StatusCode: 200},
		{Gateway: "gw", Endpoint: "b", Timestamp: stamp, Domain: "edge", ServerID: "edge-1", StatusCode: 429, Throttled: true, WaitedMS: 1_800_000},
		{Gateway: strings.Repeat("€", 85), Endpoint: "c'\"\\;--\u2028", Timestamp: stamp, DurationMS: 366 * 24 * 3600 * 1000, Domain: "é\ufffd", ServerID: "edge-1", StatusCode: 999},
		{Gateway: "gw", Endpoint: "d", Timestamp: time.Unix(1, 0), ServerID: "edge-1", StatusCode: 7},
	}
	sameInstant := cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })
	if diff := cmp.Diff(want, s.rows(t), sameInstant); diff != "" {
		t.Errorf("batch %+v: rows (-want +got):\n%s", batch, diff)
	}
}

// Every column of the schema is written, and none is left to its default.
func TestWritesEveryColumn(t *testing.T) {
	s := openStore(t, testenv.Database(t))
	columns := strings.Fields(query[string](t, s.conn,
		"SELECT string_agg(attname, ' ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'tps_metrics'::regclass AND attnum > 0 AND NOT attisdropped"))
	for _, c := range columns {
		s.exec(t, "ALTER TABLE tps_metrics ALTER COLUMN "+pgx.Identifier{c}.Sanitize()+" DROP DEFAULT")
	}
	if len(columns) != 10 {
		t.Errorf("tps_metrics has columns %v, want the ten that row has", columns)
	}
	if err := s.put(t.Context(), transactionsOf("pay")); err != nil { // all are NOT NULL
		t.Error(err)
	}
}

// What Postgres says of values makes a batch refused, what it says of itself does not.
func TestTellsRefusalsFromFaults(t *testing.T) {
	for name, c := range map[string]struct {
		before  string
		batch   []traffic.Transaction
		refused bool
	}{
		"a constraint":                {"ALTER TABLE tps_metrics ADD CHECK (endpoint <> 'bad')", transactionsOf("good", "bad"), true},
		"a column that nobody fills":  {"ALTER TABLE tps_metrics ADD COLUMN team text NOT NULL", transactionsOf("good"), true},
		"a column of a smaller kind":  {"ALTER TABLE tps_metrics ALTER COLUMN gateway TYPE varchar(1)", transactionsOf("good"), true},
		"no partition for it":         {"DROP TABLE tps_metrics_default", transactionsOf("good"), true},
		"bytes that are no text":      {"SELECT", transactionsOf("a\x00"), true},
		"a trigger":                   {"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$; CREATE TRIGGER no BEFORE INSERT ON tps_metrics FOR EACH ROW EXECUTE FUNCTION no()", transactionsOf("good"), true},
		"a row too large for a limit": {"CREATE FUNCTION long(text) RETURNS text LANGUAGE sql IMMUTABLE RETURN (SELECT string_agg(md5($1 || n), '') FROM generate_series(1, 1000) n); CREATE INDEX ON tps_metrics (long(endpoint))", transactionsOf("good"), true},
		"no table":                    {"ALTER TABLE tps_metrics RENAME TO gone", transactionsOf("good"), false},
		"no column":                   {"ALTER TABLE tps_metrics DROP COLUMN throttled", transactionsOf("good"), false},
		"a replica that only reads":   {"DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$", transactionsOf("good"), false},
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, testenv.Database(t))
			s.exec(t, c.before)
			err := s.put(t.Context(), c.batch)
			if _, refused := errors.AsType[*traffic.RefusedError](err); err == nil || refused != c.refused {
				t.Errorf("batch %+v: refused %t with error %v, want an error and %t", c.batch, refused, err, c.refused)
			}
		})
	}
}

// A migration may change the kind of a column under a connection that has asked for it before.
func TestAColumnChangesItsKind(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeExec, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe} {
		t.Run(mode.String(), func(t *testing.T) {
			s := openStoreWith(t, testenv.Database(t), func(cfg *pgxpool.Config) { cfg.MaxConns, cfg.ConnConfig.DefaultQueryExecMode = 1, mode })
			written := numbered(0, 1)
			for i, change := range []string{
				"SELECT",
				"ALTER TABLE tps_metrics ALTER COLUMN status_code TYPE bigint",
				"ALTER TABLE tps_metrics ALTER COLUMN waited_ms TYPE real",
				"ALTER TABLE tps_metrics ALTER COLUMN duration_ms DROP DEFAULT, ALTER COLUMN duration_ms TYPE numeric",
				"ALTER TABLE tps_offsets ALTER COLUMN next_offset TYPE numeric",
				"ALTER TABLE tps_rollups ALTER COLUMN held TYPE integer",
			} {
				s.exec(t, change)
				written = numbered(0, i+1)
				testenv.Eventually(t, patience, "writing after "+change, func() error { return s.put(t.Context(), transactionsOf(written[i])) })
			}
			assertEndpoints(t, s.conn, written)
		})
	}
}

// cut is a connection that breaks in the middle of COPY, while what it sends is on its way.
type cut struct {
	net.Conn
	broken, arrive chan struct{} // closed when it breaks, and to let through what was being sent then
	once           sync.Once
	later          chan struct{} // gets what was sent after that
}

func (c *cut) Write(b []byte) (int, error) {
	const copied = 10_000 // other messages are shorter
	if len(b) < copied {
		return c.Conn.Write(b)
	}
	first := false
	c.once.Do(func() { first = true; close(c.broken) })
	if !first {
		c.later <- struct{}{}
		return 0, net.ErrClosed
	}
	_ = c.Close()
	<-c.arrive
	return len(b), nil
}

// After a write the transactions are the caller's again, also where the connection has broken in the
// middle: pgx goes on to read for a moment then.
func TestABrokenWriteLeavesTheTransactions(t *testing.T) {
	c := &cut{broken: make(chan struct{}), arrive: make(chan struct{}), later: make(chan struct{}, 1)}
	s := openStoreWith(t, testenv.Database(t), func(cfg *pgxpool.Config) {
		dial := cfg.ConnConfig.DialFunc
		cfg.ConnConfig.DialFunc = func(ctx context.Context, network, addr string) (_ net.Conn, err error) {
			c.Conn, err = dial(ctx, network, addr)
			return c, err
		}
	})
	err := s.put(t.Context(), transactionsOf(numbered(0, 10_000)...))
	if _, refused := errors.AsType[*traffic.RefusedError](err); err == nil || refused {
		t.Errorf("a write whose connection broke: error %v, want one that is no refusal", err)
	}
	<-c.broken
	close(c.arrive)
	select {
	case <-c.later:
		t.Error("transactions are read after Write has returned")
	case <-time.After(200 * time.Millisecond): // nothing tells that there will be none
	}
}

// Postgres gives up on a writer that has vanished, so that its lock does not stop others of the same
// server. The settings are those of the transaction alone.
func TestNoWriterKeepsItsLock(t *testing.T) {
	s := openStoreWith(t, testenv.Database(t), func(cfg *pgxpool.Config) { cfg.MaxConns = 1 })
	const settings = "statement_timeout idle_in_transaction_session_timeout tcp_keepalives_idle tcp_keepalives_interval tcp_keepalives_count"
	const show = "SELECT string_agg(current_setting(name), ' ' ORDER BY n) FROM unnest(string_to_array('" + settings + "', ' ')) WITH ORDINALITY AS names (name, n)"
	before := query[string](t, s.conn, show)
	s.exec(t, "CREATE TABLE seen (settings text); CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen "+show+"; RETURN NEW; END $$; CREATE TRIGGER look BEFORE INSERT ON tps_metrics FOR EACH ROW EXECUTE FUNCTION look()")
	if err := s.put(t.Context(), transactionsOf("pay")); err != nil {
		t.Fatal(err)
	}
	if got, want := query[string](t, s.conn, "SELECT settings FROM seen"), "30s 30s 10 5 4"; got != want {
		t.Errorf("%s are %s in a write, want %s", settings, got, want)
	}
	var after string
	if err := s.pool.QueryRow(t.Context(), show).Scan(&after); err != nil || after != before {
		t.Errorf("%s are %s after a write, error %v; want %s", settings, after, err, before)
	}
}
