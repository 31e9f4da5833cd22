package history

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// writeTimeout is when a database that hangs is given up, and another connection tried.
const writeTimeout = 30 * time.Second

// Config of a Store.
type Config struct {
	RawSample float64 // share of transactions that get a row in tps_metrics, 0 to 1; rollups count all
	Retention Retention
	// FlushInterval is how long what was measured may wait until a replica writes it. What is younger is
	// not looked at for the TPS of now.
	FlushInterval time.Duration
}

// Retention is how long what is measured is kept; 0 = for ever. Partitions are dropped whole, once
// all of one is older.
type Retention struct {
	Raw                  time.Duration // tps_metrics
	Second, Minute, Hour time.Duration // tps_rollups
}

// Store is what was measured, in Postgres.
type Store struct {
	cfg   Config
	pool  *pgxpool.Pool
	names *rollup.Names
}

// New returns a Store over a pool, which stays the caller's. names bounds the names of rollups.
func New(cfg Config, pool *pgxpool.Pool, names *rollup.Names) *Store {
	return &Store{cfg: cfg, pool: pool, names: names}
}

// Write stores what is new of a batch, all of it or nothing, and returns how many transactions that
// was: those before the next offset of the source are there already. The error is a
// *traffic.RefusedError where Postgres finds fault with the values of a row.
func (s *Store) Write(ctx context.Context, b traffic.Batch) (fresh int, err error) {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	err = s.pool.AcquireFunc(ctx, func(conn *pgxpool.Conn) error {
		fresh, err = s.writeOver(ctx, conn.Conn(), b)
		return err
	})
	if err == nil {
		return fresh, nil
	}
	err = fmt.Errorf("writing %d transactions: %w", len(b.Transactions), err)
	if refuses(sqlState(err)) {
		err = &traffic.RefusedError{Err: err}
	}
	return 0, err
}

// beginWrite makes Postgres give up about when Write does. Else a host that vanished in the middle of
// a write would keep its lock, and whoever writes for the same server waiting, until TCP finds out.
const beginWrite = `BEGIN; SET LOCAL statement_timeout = '30s'; SET LOCAL idle_in_transaction_session_timeout = '30s';
	SET LOCAL tcp_keepalives_idle = 10; SET LOCAL tcp_keepalives_interval = 5; SET LOCAL tcp_keepalives_count = 4`

// writeOver forgets after an error what the connection knew of the tables: a migration may have
// changed the kind of a column, and values of the old kind would never be taken.
func (s *Store) writeOver(ctx context.Context, conn *pgx.Conn, b traffic.Batch) (fresh int, err error) {
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{BeginQuery: beginWrite}, func(tx pgx.Tx) error {
		next, err := lockSource(ctx, tx, b.Source)
		if err != nil {
			return err
		}
		left := b.From(next)
		if fresh = len(left.Transactions); fresh == 0 {
			return nil
		}
		return s.writeFresh(ctx, tx, &left)
	})
	if err != nil {
		_ = conn.DeallocateAll(ctx) // where it fails the connection is gone, and what it knew
	}
	return fresh, err
}

// writeFresh counts the batch while Postgres reads its rows.
func (s *Store) writeFresh(ctx context.Context, tx pgx.Tx, b *traffic.Batch) error {
	counted := make(chan *rollup.Groups, 1)
	go func() { counted <- rollup.Group(b.Transactions, s.names) }()
	err := copyRows(ctx, tx, s.sample(b), b.Server)
	groups := <-counted // also after an error: the transactions are the caller's then
	if err != nil {
		return err
	}
	if err := mergeRollups(ctx, tx, groups, b.Server); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		INSERT INTO tps_offsets (server_id, run, next_offset) VALUES ($1, $2, $3)
		ON CONFLICT (run) DO UPDATE SET server_id = excluded.server_id, next_offset = excluded.next_offset, at = now()`, b.Server, b.Run, b.Next())
	return err
}

// lockSource keeps other writers of the run and of the server out until the end of the transaction:
// two of a run would store it twice, two of a server add to the same rollups. It returns the next
// offset of the run, whatever the server was called when it began. The tables are locked before
// anything is read, as the write will do: else a partition that is being made, which waits for
// readers and lets no writer begin, would wait for this transaction and this one for it.
func lockSource(ctx context.Context, tx pgx.Tx, source traffic.Source) (next int64, err error) {
	var b pgx.Batch
	b.Queue("SELECT pg_advisory_xact_lock(hashtext('tps_offsets'), hashtext($1))", source.Run)
	b.Queue("SELECT pg_advisory_xact_lock(hashtext('tps_rollups'), hashtext($1))", source.Server)
	b.Queue("LOCK TABLE ONLY tps_metrics, ONLY tps_rollups_second, ONLY tps_rollups_minute, ONLY tps_rollups_hour IN ROW EXCLUSIVE MODE")
	b.Queue("SELECT coalesce((SELECT next_offset FROM tps_offsets WHERE run = $1), 0)", source.Run).
		QueryRow(func(row pgx.Row) error { return row.Scan(&next) })
	err = tx.SendBatch(ctx, &b).Close()
	return next, err
}

// sample returns the transactions that get a row. Chance decides, by a hash of their place, so that
// a batch that comes again is sampled alike.
func (s *Store) sample(b *traffic.Batch) []traffic.Transaction {
	switch {
	case s.cfg.RawSample >= 1:
		return b.Transactions
	case s.cfg.RawSample <= 0:
		return nil
	}
	var kept []traffic.Transaction
	for i := range b.Transactions {
		if chance(b.Run, b.First+int64(i)) < s.cfg.RawSample {
			kept = append(kept, b.Transactions[i])
		}
	}
	return kept
}

// chance is a number from 0 to below 1 that is always the same for a place.
func chance(run string, offset int64) float64 {
	h := fnv.New64a()
	_, _ = h.Write(strconv.AppendInt([]byte(run), offset, 10)) // never fails
	x := h.Sum64()
	x ^= x >> 33 // the last steps of MurmurHash3: FNV alone leaves the high bits of neighbours alike
	x *= 0xff51afd7ed558ccd
	x ^= x >> 33
	x *= 0xc4ceb9fe1a85ec53
	x ^= x >> 33
	const bits = 53
	return float64(x>>(64-bits)) / (1 << bits)
}

// refuses tells whether Postgres finds fault with the values of a row: data exception, constraint
// violation, program limit (a row too large for an index), or what a trigger raises. A value of the
// wrong kind (22P03) is no fault of the row.
func refuses(code string) bool {
	if len(code) != 5 || code == "22P03" {
		return false
	}
	switch code[:2] {
	case "22", "23", "54", "P0":
		return true
	}
	return false
}

// sqlState is empty where Postgres has said nothing.
func sqlState(err error) string {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code
	}
	return ""
}
