package pgsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/lastgood"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Config says which database to follow.
type Config struct {
	ConnString   string        // as pgx takes it; holds a password
	PollInterval time.Duration // the history is looked at this often beside LISTEN; 0 = 5 s
	QueryTimeout time.Duration // of connecting and of each query; 0 = 5 s (a full load has ten times as long)
	StartTimeout time.Duration // after this long without an answer of Postgres the limits of the state file are served; 0 = 2 s
	DataDir      string        // where limits.json lies, for this process alone; empty = nothing is kept
	// Prepare makes DataDir and keeps other processes out of it. It is called before each write; nil =
	// nothing is to be done.
	Prepare func() error
	// Migrate brings the schema up to date; it is called before the first load, until it succeeds.
	// nil = the schema is somebody else's task.
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
	cfg      Config
	poolConf *pgxpool.Config
	target   string // host:port/database, without secrets
	clock    limits.Clock
	current  *limits.Current
	metrics  *metrics
	log      *slog.Logger
	kept     *lastgood.File[*limits.Table]
	kick     chan struct{} // somebody wants the history read at once

	// Of follow's goroutine alone.
	migrated   bool
	lastLogged time.Time // when an outage was logged; zero while there is none
	keptID     int64     // newest change that was given to kept; -1 = none

	// building is held from reading the table in force to storing the one that is made of it.
	building sync.Mutex

	mu      sync.Mutex
	pool    *pgxpool.Pool // for writes; nil unless Run runs
	cause   error         // why what is served may be old; nil = it is current
	seen    mark
	applied chan struct{} // closed when a table is put in force, and replaced
}

// mark is how far a database had come.
type mark struct {
	id   int64 // newest change
	rows int   // in force then
}

// New reads the settings of the database; it does not connect.
func New(cfg Config, clock limits.Clock, current *limits.Current, reg prometheus.Registerer, log *slog.Logger) (*Sync, error) {
	cfg = cfg.withDefaults()
	poolConf, err := parse(cfg)
	if err != nil {
		return nil, err
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	c := poolConf.ConnConfig
	s := &Sync{
		cfg: cfg, poolConf: poolConf, clock: clock, current: current, metrics: m, log: log,
		target: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))) + "/" + c.Database,
		kick:   make(chan struct{}, 1), applied: make(chan struct{}),
		keptID: -1, cause: errors.New("no answer of Postgres yet"),
	}
	s.kept = lastgood.New(lastgood.Config[*limits.Table]{
		What: "the last good limits of Postgres", Dir: cfg.DataDir, Name: stateFile, Prepare: cfg.Prepare, Encode: s.encode,
		Errors: m.loadErrors.WithLabelValues("state_file"),
	}, log)
	return s, nil
}

func parse(cfg Config) (*pgxpool.Config, error) {
	c, err := pgxpool.ParseConfig(cfg.ConnString)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of the database: %w", err)
	}
	const connections = 4 // for the writes of the API only
	c.MaxConns, c.MinConns, c.MinIdleConns = connections, 0, 0
	c.ConnConfig.ConnectTimeout = cfg.QueryTimeout
	if c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// Prepared statements break behind a PgBouncer that pools by transaction.
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	if _, said := c.ConnConfig.RuntimeParams["application_name"]; !said {
		c.ConnConfig.RuntimeParams["application_name"] = "ratelimitd"
	}
	return c, nil
}

// Ready returns nil when the limits in force are those of Postgres, else what is wrong and what
// is served meanwhile.
func (s *Sync) Ready() error {
	s.mu.Lock()
	cause := s.cause
	s.mu.Unlock()
	if cause == nil {
		return nil
	}
	t := s.current.Load()
	if t == nil {
		return fmt.Errorf("there are no limits to serve: %w", cause)
	}
	return fmt.Errorf("%d limits are served as of change %d, loaded at %s: %w", t.Len(), t.ID(), t.LoadedAt().UTC().Format(time.RFC3339), cause)
}

// Run follows the database until ctx ends, and returns nil then. It writes the state file a last
// time before it returns. It fails only where the settings of the database are of no use.
func (s *Sync) Run(ctx context.Context) error {
	pool, err := pgxpool.NewWithConfig(ctx, s.poolConf.Copy())
	if err != nil {
		return fmt.Errorf("preparing connections to the database: %w", err)
	}
	s.setPool(pool)
	defer func() {
		s.setPool(nil)
		go pool.Close() // waits for the connections of a Postgres that hangs, some 15 s for each
	}()
	saved := s.recall(ctx)
	s.kept.RunWhile(ctx, func() {
		tried := make(chan struct{})
		var standing sync.WaitGroup
		standing.Go(func() { s.standIn(ctx, saved, tried) })
		s.follow(ctx, tried)
		standing.Wait()
	})
	return nil
}

func (s *Sync) setPool(pool *pgxpool.Pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pool = pool
}

// publish puts in force what build makes of the table in force, which is nil at first; it stays
// where build returns nil or an error.
func (s *Sync) publish(build func(prev *limits.Table) (*limits.Table, error)) error {
	s.building.Lock()
	defer s.building.Unlock()
	t, err := build(s.current.Load())
	if err != nil || t == nil {
		return err
	}
	s.current.Store(t)
	return nil
}

// confirm notes that the table in force is what Postgres has, and wakes who waits for it.
func (s *Sync) confirm() {
	s.metrics.up.Set(1)
	s.metrics.stale.Set(0)
	t := s.current.Load()
	s.mu.Lock()
	s.cause, s.seen = nil, mark{t.ID(), t.Len()}
	close(s.applied)
	s.applied = make(chan struct{})
	s.mu.Unlock()
	s.keep(t)
}

// stamp is that of a table that shows the state after a change and comes into force at once.
func (s *Sync) stamp(id int64) limits.Stamp {
	return limits.Stamp{ID: id, AtNS: s.clock.NowNS(), LoadedAt: time.Now(), Pause: s.pause()}
}
