package pgsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	firstBackoff = 100 * time.Millisecond
	mostBackoff  = 5 * time.Second

	// migrateTimeout bounds a migration, so that a database that hangs is given up and tried again.
	migrateTimeout = 10 * time.Minute
	// remindEvery is how often an outage that lasts is logged.
	remindEvery = time.Minute
)

// follow connects again and again until ctx ends. It closes tried when the first attempt has
// succeeded or failed.
func (s *Sync) follow(ctx context.Context, tried chan struct{}) {
	backoff := firstBackoff
	for first := true; ctx.Err() == nil; first = false {
		began := time.Now()
		err := s.session(ctx, func() {
			if first {
				close(tried)
			}
		})
		if ctx.Err() != nil {
			return
		}
		s.lost(ctx, err)
		if time.Since(began) > mostBackoff {
			backoff = firstBackoff
		}
		wait := backoff/2 + rand.N(backoff) //nolint:gosec // spreads replicas, no secret
		backoff = min(2*backoff, mostBackoff)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// session follows the database on one connection until that breaks. It calls answered when the
// first load has ended, well or not.
func (s *Sync) session(ctx context.Context, answered func()) error {
	conn, err := s.begin(ctx)
	answered()
	if err != nil {
		return err
	}
	defer hangUp(ctx, conn)
	s.lastLogged = time.Time{}
	s.log.InfoContext(ctx, "limits are followed in Postgres", slog.String("database", s.target),
		slog.Int64("snapshot", s.current.Load().ID()), slog.Int("limits", s.current.Load().Len()))
	for {
		s.waitForChange(ctx, conn)
		if ctx.Err() != nil {
			return nil
		}
		if conn.IsClosed() {
			return errors.New("the connection to Postgres was lost")
		}
		if err := s.catchUp(ctx, conn); err != nil {
			return err
		}
	}
}

// begin connects and makes the first load. A migration that fails does not keep the limits from
// being loaded: every release works with the schema before its own migration.
func (s *Sync) begin(ctx context.Context) (*pgx.Conn, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	migrating := s.migrate(ctx)
	if err := s.loadAll(ctx, conn); err != nil {
		hangUp(ctx, conn)
		return nil, errors.Join(migrating, err)
	}
	if migrating != nil {
		s.log.ErrorContext(ctx, "the schema is not up to date; it is tried again with the next connection", slog.Any("error", migrating))
	}
	return conn, nil
}

func (s *Sync) connect(ctx context.Context) (*pgx.Conn, error) {
	// An address may name several hosts, each of which is tried for QueryTimeout (ConnectTimeout).
	allHosts := s.cfg.QueryTimeout
	for range s.poolConf.ConnConfig.Fallbacks {
		allHosts += s.cfg.QueryTimeout
	}
	dialing, cancel := context.WithTimeout(ctx, allHosts)
	defer cancel()
	conn, err := pgx.ConnectConfig(dialing, s.poolConf.ConnConfig.Copy())
	if err != nil {
		return nil, fmt.Errorf("connecting to Postgres: %w", err)
	}
	ctx, cancel = context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	// Before the load, so that no change falls between the two.
	if _, err := conn.Exec(ctx, "LISTEN tps_limits"); err != nil {
		if _, refused := errors.AsType[*pgconn.PgError](err); !refused {
			hangUp(ctx, conn)
			return nil, fmt.Errorf("listening for changes of tps_limits: %w", err)
		}
		s.log.WarnContext(ctx, "changes of limits are found by polling only: Postgres refuses LISTEN",
			slog.Duration("poll_interval", s.cfg.PollInterval), slog.Any("error", err))
	}
	return conn, nil
}

// hangUp closes a connection, which may be broken or hang.
func hangUp(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is lost with it
}

func (s *Sync) migrate(ctx context.Context) error {
	if s.migrated || s.cfg.Migrate == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, migrateTimeout)
	defer cancel()
	if err := s.cfg.Migrate(ctx); err != nil {
		return err
	}
	s.migrated = true
	return nil
}

// waitForChange returns after news of a change, a kick, the poll interval, or the end of the
// connection.
func (s *Sync) waitForChange(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PollInterval)
	kicked := make(chan struct{})
	go func() {
		defer close(kicked)
		select {
		case <-s.kick:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil || s.isNews(n.Payload) { // whatever ended it, the history is looked at next
			break
		}
	}
	cancel()
	<-kicked
}

// isNews tells whether a notification tells of a change that is not in force yet. Under a burst
// of changes one look at the history covers many notifications.
func (s *Sync) isNews(payload string) bool {
	id, err := strconv.ParseInt(payload, 10, 64)
	return err != nil || id > s.current.Load().ID()
}

// lost notes that the limits in force may be old.
func (s *Sync) lost(ctx context.Context, err error) {
	s.metrics.up.Set(0)
	s.metrics.loadErrors.WithLabelValues(reason(err)).Inc()
	if s.current.Load() != nil {
		s.metrics.stale.Set(1)
	}
	s.mu.Lock()
	s.cause = err // last: who waits for Ready finds the metrics
	s.mu.Unlock()
	if time.Since(s.lastLogged) < remindEvery {
		return
	}
	s.lastLogged = time.Now()
	s.log.WarnContext(ctx, "limits cannot be followed in Postgres", slog.String("database", s.target), slog.Any("error", err))
}
