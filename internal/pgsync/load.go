package pgsync

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// errOlder says that the database is behind what was seen of it before.
var errOlder = errors.New("the database is older than what was seen of it before")

// maxChanges is the largest number of changes that are applied one by one; when there are more,
// all rows are read again.
const maxChanges = 10_000

// loadAll reads every row and puts the table in force.
func (s *Sync) loadAll(ctx context.Context, conn *pgx.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, 10*s.cfg.QueryTimeout)
	defer cancel()
	var (
		rows []limits.Limit
		id   int64
	)
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		if id, err = newestID(ctx, tx); err != nil {
			return err
		}
		rows, err = s.readRows(ctx, tx)
		return err
	})
	if err != nil {
		return fmt.Errorf("loading tps_limits: %w", err)
	}
	if err := s.notOlder(id); err != nil {
		return err
	}
	t, err := limits.NewTable(s.current.Load(), rows, s.stamp(id))
	if err != nil {
		return fmt.Errorf("compiling tps_limits: %w", err)
	}
	s.store(t)
	return nil
}

func (s *Sync) stamp(id int64) limits.Stamp {
	return limits.Stamp{ID: id, AtNS: s.clock.NowNS(), LoadedAt: time.Now()}
}

// queryer is what a connection and a transaction have in common.
type queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func newestID(ctx context.Context, q queryer) (id int64, err error) {
	err = q.QueryRow(ctx, "SELECT coalesce(max(id), 0) FROM tps_limits_history").Scan(&id)
	if err != nil {
		return 0, fmt.Errorf("reading the newest change: %w", err)
	}
	return id, nil
}

func (s *Sync) notOlder(id int64) error {
	if last := s.newest(); id < last {
		return fmt.Errorf("%w: its newest change is %d, the last one seen is %d; if it was restored on purpose, remove %s from the data directory and start again",
			errOlder, id, last, stateFile)
	}
	return nil
}

const columns = "domain, gateway, coalesce(endpoint, ''), coalesce(per, ''), max_tps, enabled, coalesce(burst, 0), max_wait_ms, shadow, note, created_at, updated_at, version"

func scanLimit(row pgx.CollectableRow) (l limits.Limit, err error) {
	err = row.Scan(&l.Domain, &l.Gateway, &l.Endpoint, &l.Per, &l.MaxTPS, &l.Enabled, &l.Burst, &l.MaxWaitMS, &l.Shadow, &l.Note, &l.CreatedAt, &l.UpdatedAt, &l.Version)
	return l, err
}

// readRows returns the valid rows; the others are counted and logged.
func (s *Sync) readRows(ctx context.Context, q queryer) ([]limits.Limit, error) {
	rows, err := q.Query(ctx, "SELECT "+columns+" FROM tps_limits")
	if err != nil {
		return nil, fmt.Errorf("reading the rows: %w", err)
	}
	all, err := pgx.CollectRows(rows, scanLimit)
	if err != nil {
		return nil, fmt.Errorf("reading the rows: %w", err)
	}
	valid := all[:0]
	for i := range all {
		if err := all[i].Validate(); err != nil {
			s.passOver(ctx, all[i].Key, err)
			continue
		}
		valid = append(valid, all[i])
	}
	return valid, nil
}

func (s *Sync) passOver(ctx context.Context, key limits.Key, err error) {
	s.metrics.loadErrors.WithLabelValues("invalid_row").Inc()
	s.log.WarnContext(ctx, "a row of tps_limits is not used", slog.String("row", key.String()), slog.Any("error", err))
}

// catchUp applies what is newer than the table in force.
func (s *Sync) catchUp(ctx context.Context, conn *pgx.Conn) error {
	queryCtx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	table := s.current.Load()
	id, err := newestID(queryCtx, conn)
	if err != nil {
		return err
	}
	if err := s.notOlder(id); err != nil {
		return err
	}
	if id == table.ID() {
		s.stillCurrent()
		return nil
	}
	changes, id, err := s.readChanges(queryCtx, conn, table.ID())
	if err != nil {
		return err
	}
	if len(changes) > maxChanges {
		return s.loadAll(ctx, conn)
	}
	next, err := table.Apply(changes, s.stamp(id))
	if err != nil {
		return fmt.Errorf("applying changes of tps_limits: %w", err)
	}
	s.store(next)
	return nil
}

// historyEntry is one entry of tps_limits_history.
type historyEntry struct {
	id            int64
	before, after []byte
}

// readChanges returns what came after the id, at most one more than maxChanges, and the newest
// id among it.
func (s *Sync) readChanges(ctx context.Context, q queryer, after int64) (changes []limits.Change, id int64, err error) {
	rows, err := q.Query(ctx, "SELECT id, before, after FROM tps_limits_history WHERE id > $1 ORDER BY id LIMIT $2", after, maxChanges+1)
	if err != nil {
		return nil, 0, fmt.Errorf("reading tps_limits_history: %w", err)
	}
	entries, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (e historyEntry, err error) {
		err = row.Scan(&e.id, &e.before, &e.after)
		return e, err
	})
	if err != nil {
		return nil, 0, fmt.Errorf("reading tps_limits_history: %w", err)
	}
	id = after
	for _, e := range entries {
		id = e.id
		changes = append(changes, s.toChanges(ctx, e)...)
	}
	return changes, id, nil
}

// toChanges turns an entry into the removal of the old row, where its key has gone, and the
// new row, where it is valid.
func (s *Sync) toChanges(ctx context.Context, e historyEntry) []limits.Change {
	var changes []limits.Change
	before, hadBefore := s.parse(ctx, e.before)
	after, hasAfter := s.parse(ctx, e.after)
	if hadBefore && (!hasAfter || before.Key != after.Key) {
		changes = append(changes, limits.Change{Key: before.Key})
	}
	if !hasAfter {
		return changes
	}
	if err := after.Validate(); err != nil {
		s.passOver(ctx, after.Key, err)
		return append(changes, limits.Change{Key: after.Key})
	}
	return append(changes, limits.Change{Key: after.Key, Limit: &after})
}

// parse reads one side of an entry; it need not be valid.
func (s *Sync) parse(ctx context.Context, side []byte) (limits.Limit, bool) {
	if len(side) == 0 {
		return limits.Limit{}, false
	}
	var row limits.Row
	if err := json.Unmarshal(side, &row); err != nil {
		s.passOver(ctx, limits.Key{}, fmt.Errorf("reading an entry of tps_limits_history: %w", err))
		return limits.Limit{}, false
	}
	l, _ := row.Limit() // whoever uses it validates it
	return l, true
}
