package pgsync

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

var (
	// errOlder says that the database is behind what was seen of it before.
	errOlder = errors.New("the database is older than what was seen of it before")
	// errEmptied says that rows have gone without a change that removed them.
	errEmptied = errors.New("tps_limits is empty, and no change says so")
)

const (
	// maxChanges is the largest number of changes that are applied one by one; when there are more,
	// all rows are read again.
	maxChanges = 10_000
	// maxLogged is the largest number of bad rows that one load logs.
	maxLogged = 10
)

// loadAll reads every row and puts the table in force.
func (s *Sync) loadAll(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*s.cfg.QueryTimeout)
	defer cancel()
	var (
		id   int64
		rows batch
	)
	// One snapshot for both: the rows are those of exactly this change.
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if id, err = s.newestID(ctx, tx); err != nil {
			return err
		}
		rows, err = s.readRows(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("loading tps_limits: %w", err)
	}
	if err := s.notEmptied(id, rows); err != nil {
		return err
	}
	err = s.publish(func(prev *limits.Table) (*limits.Table, error) { return s.compile(ctx, prev, id, rows) })
	if err != nil {
		return fmt.Errorf("compiling tps_limits: %w", err)
	}
	s.confirm()
	return nil
}

// newestID is the id of the newest change, 0 where there never was one. It fails with errOlder
// where a newer one was seen before.
func (s *Sync) newestID(ctx context.Context, q queryer) (id int64, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM tps_limits_history").Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("reading the newest change: %w", err)
	}
	if last := s.lastSeen(); id < last.id {
		return 0, fmt.Errorf("%w: its newest change is %d, the last one seen is %d; if it was restored on purpose, stop ratelimitd, remove %s from its data directory and start it again",
			errOlder, id, last.id, stateFile)
	}
	return id, nil
}

func (s *Sync) lastSeen() mark {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen
}

// notEmptied refuses an empty set of rows where the same change once left some.
func (s *Sync) notEmptied(id int64, rows batch) error {
	if last := s.lastSeen(); len(rows.good)+len(rows.bad) == 0 && id == last.id && last.rows > 0 {
		return fmt.Errorf("%w: after change %d there were %d rows (was a trigger disabled?)", errEmptied, id, last.rows)
	}
	return nil
}

// queryer is what a connection and a transaction have in common.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// batch is what was read of tps_limits.
type batch struct {
	good []*limits.Limit // where they are as in the table in force, its own
	bad  []limits.Key
}

func (s *Sync) readRows(ctx context.Context, q queryer) (b batch, err error) {
	wanted, err := columnsOf(ctx, q)
	if err != nil {
		return batch{}, err
	}
	rows, err := q.Query(ctx, "SELECT "+wanted+" FROM tps_limits", s.wholeTable())
	if err != nil {
		return batch{}, fmt.Errorf("reading the rows: %w", err)
	}
	var r row
	prev, pause, read := s.current.Load(), s.pause(), 0
	b.good = make([]*limits.Limit, 0, s.expected())
	_, err = pgx.ForEachRow(rows, r.targets(), func() error {
		if read++; pause != nil && read%pauseEvery == 0 {
			pause()
		}
		l, err := r.limit()
		if err == nil {
			b.good = append(b.good, prev.Shared(&l))
			return nil
		}
		b.bad = append(b.bad, l.Key)
		if len(b.bad) <= maxLogged {
			s.passOver(ctx, l.Key, err)
		}
		return nil
	})
	if err != nil {
		return batch{}, fmt.Errorf("reading the rows: %w", err)
	}
	if more := len(b.bad) - maxLogged; more > 0 {
		s.metrics.loadErrors.WithLabelValues("invalid_row").Add(float64(more))
		s.log.WarnContext(ctx, "more rows of tps_limits are not used", slog.Int("rows", more))
	}
	return b, nil
}

// pauseEvery is after how many rows that are read requests get a turn, pauseTime for how long.
const (
	pauseEvery = 256
	pauseTime  = 50 * time.Microsecond
)

// pause lets requests go before a load of many rows, which would else keep a processor and the
// collector busy for seconds. While there are no limits yet nothing goes before them: then it is nil.
func (s *Sync) pause() func() {
	if s.current.Load() == nil {
		return nil
	}
	return func() { <-time.After(pauseTime) }
}

// wholeTable is how all rows are asked for: in binary, which takes a third of the time off. Postgres
// describes the rows first; between the two a PgBouncer stays with one server, as the transaction
// is open.
func (s *Sync) wholeTable() pgx.QueryExecMode {
	if mode := s.poolConf.ConnConfig.DefaultQueryExecMode; mode != pgx.QueryExecModeExec {
		return mode // the operator's choice
	}
	return pgx.QueryExecModeDescribeExec
}

// expected is a guess of how many rows there are, with room for some that are new.
func (s *Sync) expected() int {
	const most = 1 << 20 // what a state file says may be wrong
	rows := s.lastSeen().rows
	return min(rows+rows/64, most)
}

func (s *Sync) passOver(ctx context.Context, key limits.Key, err error) {
	s.metrics.loadErrors.WithLabelValues("invalid_row").Inc()
	s.log.WarnContext(ctx, "a row of tps_limits is not used", slog.String("row", fmt.Sprintf("%.500s", key)), slog.Any("error", err))
}

// compile makes a table of rows. In place of a bad row its last good version stays.
func (s *Sync) compile(ctx context.Context, prev *limits.Table, id int64, rows batch) (*limits.Table, error) {
	good := rows.good
	if prev != nil && len(rows.bad) > 0 {
		good = withLastGood(prev, rows)
	}
	t, err := limits.NewTableFrom(prev, slices.Values(good), s.stamp(id))
	if err == nil {
		return t, nil
	}
	// Every row is valid, so two have one key: somebody dropped tps_limits_key.
	return limits.NewTableFrom(prev, slices.Values(s.withoutTwins(ctx, good)), s.stamp(id))
}

func withLastGood(prev *limits.Table, rows batch) []*limits.Limit {
	have := make(map[limits.Key]bool, len(rows.good))
	for i := range rows.good {
		have[rows.good[i].Key] = true
	}
	for _, key := range rows.bad {
		if old := prev.Find(key); old != nil && !have[key] {
			have[key] = true
			rows.good = append(rows.good, old)
		}
	}
	return rows.good
}

// withoutTwins keeps the newest row of each key.
func (s *Sync) withoutTwins(ctx context.Context, rows []*limits.Limit) []*limits.Limit {
	slices.SortFunc(rows, func(a, b *limits.Limit) int {
		return cmp.Or(a.Compare(b.Key), cmp.Compare(b.Version, a.Version))
	})
	return slices.CompactFunc(rows, func(kept, twin *limits.Limit) bool {
		if kept.Key != twin.Key {
			return false
		}
		s.passOver(ctx, twin.Key, errors.New("there is a newer row of the same key"))
		return true
	})
}

// catchUp puts in force what is newer than the table in force.
func (s *Sync) catchUp(ctx context.Context, conn *pgx.Conn) error {
	queryCtx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	entries, err := readHistory(queryCtx, conn, s.current.Load().ID())
	switch {
	case err != nil:
		return err
	case len(entries) == 0:
		_, err = s.newestID(queryCtx, conn)
		return err
	case len(entries) > maxChanges:
		return s.loadAll(ctx, conn)
	}
	var changes []limits.Change
	for i := range entries {
		more, err := s.toChanges(ctx, &entries[i])
		if err != nil {
			return err
		}
		changes = append(changes, more...)
	}
	err = s.publish(func(prev *limits.Table) (*limits.Table, error) {
		return prev.Apply(changes, s.stamp(entries[len(entries)-1].id))
	})
	if err != nil {
		return fmt.Errorf("applying changes of tps_limits: %w", err)
	}
	s.confirm()
	return nil
}

// entry is one of tps_limits_history.
type entry struct {
	id            int64
	before, after []byte // JSON of a row, nil where there was none
}

// readHistory returns what came after the id, at most one more than maxChanges.
func readHistory(ctx context.Context, q queryer, after int64) ([]entry, error) {
	rows, err := q.Query(ctx, "SELECT id, before, after FROM tps_limits_history WHERE id > $1 ORDER BY id LIMIT $2", after, maxChanges+1)
	if err != nil {
		return nil, fmt.Errorf("reading tps_limits_history: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e entry, err error) {
		err = row.Scan(&e.id, &e.before, &e.after)
		return e, err
	})
	if err != nil {
		return nil, fmt.Errorf("reading tps_limits_history: %w", err)
	}
	return entries, nil
}

// toChanges turns an entry into the removal of the old row, where its key has gone, and the new
// row, where it is valid. Where it is not, the last good version of its key stays. An error makes
// the caller read all rows.
func (s *Sync) toChanges(ctx context.Context, e *entry) (changes []limits.Change, err error) {
	var before, after row
	if err := errors.Join(decode(e.before, &before), decode(e.after, &after)); err != nil {
		return nil, fmt.Errorf("reading entry %d of tps_limits_history: %w", e.id, err)
	}
	if e.before != nil && (e.after == nil || before.key() != after.key()) {
		changes = append(changes, limits.Change{Key: before.key()})
	}
	if e.after == nil {
		return changes, nil
	}
	l, fault := after.limit()
	if fault != nil {
		s.passOver(ctx, l.Key, fault)
		return changes, nil
	}
	return append(changes, limits.Change{Key: l.Key, Limit: &l}), nil
}

func decode(side []byte, r *row) error {
	if side == nil {
		return nil
	}
	return json.Unmarshal(side, r)
}
