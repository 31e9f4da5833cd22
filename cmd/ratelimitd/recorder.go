package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
	"github.com/tps-agent/ratelimitd/internal/collector"
	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/rollup"
	"github.com/tps-agent/ratelimitd/internal/spool"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// makeRecorder makes all that measures.
func (s *server) makeRecorder() error {
	deps := recorder.Deps{Names: rollup.NewNames(s.cfg.maxSeries)}
	var err error
	if deps.Sinks, err = s.makeSinks(deps.Names); err != nil {
		return err
	}
	if deps.Log, err = s.openSpool(deps.Sinks); err != nil {
		return err
	}
	flushTime, _ := s.flushTimes()
	c := recorder.Config{
		ServerID: s.cfg.serverID, BatchSize: s.cfg.recorder.batchSize, FlushInterval: s.cfg.recorder.flushInterval,
		FlushTimeout: flushTime, Prometheus: s.cfg.recorder.prometheusSink,
	}
	if s.recorder, err = recorder.New(c, deps, s.registry, s.log); err != nil {
		return err
	}
	mapping, err := accesslog.NewMapping(s.cfg.recorder.mapping)
	if err != nil {
		return err // the settings have been tried before
	}
	s.line = func(line []byte) (traffic.Transaction, bool, error) { return mapping.Line(line, time.Now()) }
	s.logs, err = accesslog.New(accesslog.Config{Mapping: mapping, StreamMaxAge: s.cfg.recorder.streamMaxAge}, accesslog.Deps{
		Record:    func(ts []traffic.Transaction) { s.recorder.Record(ts) },
		Malformed: s.recorder.Malformed,
	}, s.registry)
	return err
}

func (s *server) makeSinks(names *rollup.Names) (sinks []recorder.NamedSink, err error) {
	if s.cfg.recorder.postgresSink {
		// The log has connections of its own: neither questions nor those who wait for their batch to be
		// stored keep it waiting.
		const forLog, forOthers = 3, 8 // 4 batches that are received, 2 questions, 2 what-ifs
		if s.pools.log, err = newPool(s.cfg.database, forLog); err != nil {
			return nil, err
		}
		if s.pools.others, err = newPool(s.cfg.database, forOthers); err != nil {
			return nil, err
		}
		cfg := s.cfg.recorder.history
		cfg.FlushInterval = s.cfg.recorder.flushInterval
		store := history.New(cfg, s.pools.log, names)
		s.history = history.New(cfg, s.pools.others, names)
		sinks = append(sinks, recorder.NamedSink{Name: "postgres", Sink: store, Received: s.history, Maintain: s.afterMigration(store.Maintain)})
	}
	if s.cfg.recorder.collectorSink {
		client, err := collector.New(s.cfg.recorder.collector)
		if err != nil {
			return nil, err // the settings have been tried before
		}
		sinks = append(sinks, recorder.NamedSink{Name: "collector", Sink: client})
	}
	return sinks, nil
}

// afterMigration keeps f from looking for tables that are about to be made.
func (s *server) afterMigration(f func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-s.migrationTried:
			return f(ctx)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openSpool returns nil where nothing keeps transactions: then none are written to disk.
func (s *server) openSpool(sinks []recorder.NamedSink) (*spool.Log, error) {
	if len(sinks) == 0 {
		return nil, nil //nolint:nilnil // no log is not a fault
	}
	_, spoolTime := s.flushTimes()
	c := spool.Config{Dir: filepath.Join(s.cfg.dataDir, "spool"), Prepare: s.lockDataDir, Max: s.cfg.recorder.spoolMax, MaxPending: s.cfg.recorder.maxQueue, StopTime: spoolTime}
	for _, sink := range sinks {
		c.Readers = append(c.Readers, sink.Name)
	}
	log, err := spool.Open(c, s.registry, s.log)
	if err != nil {
		return nil, fmt.Errorf("TPS_DATA_DIR=%q: %w", s.cfg.dataDir, err)
	}
	return log, nil
}

// newPool prepares the connections over which transactions are written; none is made yet.
func newPool(database string, most int32) (*pgxpool.Pool, error) {
	c, err := pgxpool.ParseConfig(database)
	if err != nil {
		return nil, fmt.Errorf("reading the settings of the database: %w", err)
	}
	const connectTimeout = 5 * time.Second
	c.MaxConns, c.ConnConfig.ConnectTimeout = most, connectTimeout
	if c.ConnConfig.DefaultQueryExecMode == pgx.QueryExecModeCacheStatement {
		// Prepared statements break behind a PgBouncer that pools by transaction.
		c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), c)
	if err != nil {
		return nil, fmt.Errorf("preparing connections to the database: %w", err)
	}
	return pool, nil
}
