package pgsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Config says which database to follow.
type Config struct {
	ConnString   string        // as pgx takes it; holds a password
	PollInterval time.Duration // the history is looked at this often beside LISTEN; 0 = 5 s
	QueryTimeout time.Duration // of connecting and of each query; 0 = 5 s (a full load has ten times as long)
	StartTimeout time.Duration // after this long without Postgres the limits of the state file are served; 0 = 2 s
	DataDir      string        // where limits.json lies; empty = nothing is kept
	// Migrate brings the schema up to date; it is called once, when Postgres first answers. nil =
	// the schema is somebody else's task.
	Migrate func(ctx context.Context) error
}

func (c Config) withDefaults() Config {
	orDefault := func(d *time.Duration, otherwise time.Duration) {
		if *d <= 0 {
			*d = otherwise
		}
	}
	orDefault(&c.PollInterval, 5*time.Second)
	orDefault(&c.QueryTimeout, 5*time.Second)
	orDefault(&c.StartTimeout, 2*time.Second)
	return c
}

// Sync follows tps_limits and writes to it.
type Sync struct {
	cfg     Config
	conn    *pgx.ConnConfig
	target  string // host:port/database, without secrets
	pool    *pgxpool.Pool
	clock   limits.Clock
	current *limits.Current
	metrics *metrics
	log     *slog.Logger
	kick    chan struct{} // somebody wants the history read at once
	dirty   chan struct{} // the state file is out of date

	migrated bool // only session looks at it

	mu      sync.Mutex
	fault   error // why what is served may be old; nil = it is current
	lastID  int64 // newest id ever seen of this database
	applied chan struct{}
}

// New reads the settings of the database; it does not connect.
func New(cfg Config, clock limits.Clock, current *limits.Current, reg prometheus.Registerer, log *slog.Logger) (*Sync, error) {
	cfg = cfg.withDefaults()
	poolConfig, err := pgxpool.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of the database: %w", err)
	}
	poolConfig.MaxConns = 4 // the API's writes only
	poolConfig.ConnConfig.ConnectTimeout = cfg.QueryTimeout
	pool, err := pgxpool.NewWithConfig(context.Background(), poolConfig) //nolint:forbidigo // connects when used; Run closes it
	if err != nil {
		return nil, fmt.Errorf("preparing connections to the database: %w", err)
	}
	m, err := newMetrics(reg)
	if err != nil {
		pool.Close()
		return nil, err
	}
	c := poolConfig.ConnConfig.Copy()
	return &Sync{
		cfg: cfg, conn: c, pool: pool, clock: clock, current: current, metrics: m, log: log,
		target: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database,
		kick:   make(chan struct{}, 1), dirty: make(chan struct{}, 1), applied: make(chan struct{}),
		fault: errors.New("the limits have not been loaded from Postgres yet"),
	}, nil
}

// Ready returns nil when the limits in force are those of Postgres, else what is missing and
// what is served meanwhile.
func (s *Sync) Ready() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault
}

// Run follows the database until ctx ends, and returns nil then. It writes the state file a
// last time before it returns.
func (s *Sync) Run(ctx context.Context) error {
	defer s.pool.Close()
	saved := make(chan struct{})
	go func() {
		defer close(saved)
		s.keepState(ctx)
	}()
	fallback := time.AfterFunc(s.cfg.StartTimeout, s.serveState)
	defer fallback.Stop()
	s.recallID()
	s.follow(ctx)
	<-saved
	return nil
}

// follow connects again and again until ctx ends.
func (s *Sync) follow(ctx context.Context) {
	const first, most = 100 * time.Millisecond, 5 * time.Second
	backoff := first
	for ctx.Err() == nil {
		began := time.Now()
		err := s.session(ctx)
		if ctx.Err() != nil {
			return
		}
		s.lost(ctx, err)
		if time.Since(began) > most {
			backoff = first
		}
		wait := backoff/2 + rand.N(backoff) //nolint:gosec // spreads replicas, no secret
		backoff = min(2*backoff, most)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// session follows the database on one connection until that breaks.
func (s *Sync) session(ctx context.Context) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = conn.Close(closing) // a connection that is broken anyway
	}()
	if err := s.migrate(ctx); err != nil {
		return err
	}
	if err := s.loadAll(ctx, conn); err != nil {
		return err
	}
	s.metrics.up.Set(1)
	s.log.InfoContext(ctx, "limits are followed in Postgres", slog.String("database", s.target), slog.Int64("snapshot", s.current.Load().ID()))
	for ctx.Err() == nil {
		s.waitForChange(ctx, conn)
		if ctx.Err() != nil {
			break
		}
		if conn.IsClosed() {
			return errors.New("the connection to Postgres was lost")
		}
		if err := s.catchUp(ctx, conn); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// migrateTimeout bounds a migration, so that a database that hangs is given up and tried again.
const migrateTimeout = 10 * time.Minute

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

func (s *Sync) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.QueryTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, s.conn)
	if err != nil {
		return nil, fmt.Errorf("connecting to Postgres: %w", err)
	}
	if _, err := conn.Exec(ctx, "LISTEN tps_limits"); err != nil {
		_ = conn.Close(ctx) // the first error counts
		return nil, fmt.Errorf("listening for changes of tps_limits: %w", err)
	}
	return conn, nil
}

// waitForChange returns after a notification, a kick, or the poll interval.
func (s *Sync) waitForChange(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.PollInterval)
	defer cancel()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-s.kick:
			cancel()
		case <-ctx.Done():
		}
	}()
	_, _ = conn.WaitForNotification(ctx) // whatever ended it, the history is looked at next
	cancel()
	<-stopped
}

// lost notes that the limits in force may be old.
func (s *Sync) lost(ctx context.Context, err error) {
	s.metrics.up.Set(0)
	s.metrics.loadErrors.WithLabelValues(reason(err)).Inc()
	s.mu.Lock()
	again := s.fault != nil && s.fault.Error() == s.faultText(err)
	s.fault = errors.New(s.faultText(err))
	s.mu.Unlock()
	if s.current.Load() != nil {
		s.metrics.stale.Set(1)
	}
	if !again {
		s.log.WarnContext(ctx, "limits cannot be followed in Postgres", slog.String("database", s.target), slog.Any("error", err))
	}
}

func (s *Sync) faultText(err error) string {
	if t := s.current.Load(); t != nil {
		return fmt.Sprintf("limits are served as of change %d: %v", t.ID(), err)
	}
	return fmt.Sprintf("no limits to serve: %v", err)
}

// store puts a table in force and wakes who waits for it.
func (s *Sync) store(t *limits.Table) {
	s.current.Store(t)
	s.metrics.stale.Set(0)
	s.mu.Lock()
	s.fault = nil
	s.lastID = max(s.lastID, t.ID())
	close(s.applied)
	s.applied = make(chan struct{})
	s.mu.Unlock()
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// stillCurrent notes that Postgres answered and has nothing newer.
func (s *Sync) stillCurrent() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = nil
}

func (s *Sync) newest() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lastID
}
