package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/descsync"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// domains is what the directory and the xDS server of descriptor files have in common.
type domains interface {
	Load(ctx context.Context) error
	Run(ctx context.Context) error
	Ready() error
	Loaded() error
}

// makeDomains makes what follows the descriptor files.
func (s *server) makeDomains() (err error) {
	switch c := s.cfg.descriptors; {
	case c.dir != "":
		s.domains, err = descsync.NewDir(descsync.DirConfig{Dir: c.dir, DataDir: s.cfg.dataDir, Prepare: s.lockDataDir, Publish: s.serveDomains}, s.registry, s.log)
	case c.xds.Server != "":
		c.xds.DataDir, c.xds.Prepare, c.xds.Publish = s.cfg.dataDir, s.lockDataDir, s.serveDomains
		s.domains, err = descsync.NewXDS(c.xds, s.registry, s.log)
	}
	return err
}

// loadDomains puts in force what can be read at the start.
func (s *server) loadDomains() error {
	if s.domains == nil {
		return nil
	}
	if err := s.domains.Load(context.Background()); err != nil {
		return fmt.Errorf("TPS_CONFIG_DIR=%q: %w", s.cfg.descriptors.dir, err)
	}
	return nil
}

func (s *server) serveDomains(set *descriptors.Set) {
	s.service.Serve(set)
	s.updateHealth()
	s.tellOfRows(s.current.Load())
}

// tellOfRows says that rows mean nothing, because descriptor files name their domains. It looks at all
// rows, and so only once they are loaded and when files change.
func (s *server) tellOfRows(t *limits.Table) {
	if t == nil || s.service.Files().Len() == 0 {
		return
	}
	rows := 0
	for l := range t.All() {
		if s.fileDomain(l.Domain) {
			rows++
		}
	}
	if s.inVain.Swap(int64(rows)) != int64(rows) && rows > 0 {
		s.log.Warn("rows of tps_limits mean nothing: descriptor files name their domains", slog.Int("rows", rows))
	}
}

func (s *server) domainsReady() error {
	if s.domains == nil {
		return nil
	}
	return s.domains.Ready()
}

// domainsServed tells whether there is a configuration, be it an old one.
func (s *server) domainsServed() error {
	if s.cfg.descriptors.configured() && s.service.Files() == nil {
		return errors.New("no rate limit configuration has been loaded yet")
	}
	return nil
}

// domainsLoaded tells whether each file was good at least once.
func (s *server) domainsLoaded() error {
	if s.domains == nil {
		return nil
	}
	return s.domains.Loaded()
}

// fileDomain tells whether descriptor files name a domain.
func (s *server) fileDomain(name string) bool {
	_, found := s.service.Files().Domain(name)
	return found
}

// metricsHandler serves TPS_METRICS_ADDR.
func (s *server) metricsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", admin.Metrics(s.registry, s.log))
	return mux
}

// sayAliases tells which variables of envoyproxy/ratelimit were understood, and which mean nothing. The
// first is told also where LOG_LEVEL is WARN, which many carry over with them.
func (c *config) sayAliases(ctx context.Context, log *slog.Logger) {
	switch {
	case len(c.aliasesTook) == 0:
	case log.Enabled(ctx, slog.LevelInfo):
		log.InfoContext(ctx, "variables of envoyproxy/ratelimit are understood", slog.Any("settings", c.aliasesTook))
	default:
		log.WarnContext(ctx, "variables of envoyproxy/ratelimit are understood", slog.Any("settings", c.aliasesTook))
	}
	if len(c.aliases.ignored) > 0 {
		log.WarnContext(ctx, "variables of envoyproxy/ratelimit mean nothing here", slog.Any("variables", c.aliases.ignored))
	}
}
