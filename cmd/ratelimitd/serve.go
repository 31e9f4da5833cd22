package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/gofrs/flock"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/mattn/go-isatty"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	_ "google.golang.org/grpc/encoding/gzip" // OpenTelemetry collectors send it; who sends none gets none
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/certs"
	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/recorder"
	"github.com/tps-agent/ratelimitd/internal/rls"
	"github.com/tps-agent/ratelimitd/internal/traffic"
	"github.com/tps-agent/ratelimitd/internal/usage"
	"github.com/tps-agent/ratelimitd/migrations"
)

func (s *settings) run(ctx context.Context, env []string, stdout, stderr io.Writer) error {
	cfg, err := s.resolve(env)
	if err != nil {
		return err
	}
	log := newLogger(cfg, stderr)
	cfg.warn(ctx, log)
	cfg.sayAliases(ctx, log)
	limitMemory(memlimit.FromCgroup, log)
	srv, err := newServer(cfg, log)
	if err != nil {
		return err
	}
	defer srv.close()
	return srv.run(ctx, stdout)
}

func (c *migrateCmd) run(ctx context.Context, env []string, stderr io.Writer) error {
	cfg, err := c.resolve(env)
	if err != nil {
		return err
	}
	if cfg.database == "" {
		return errors.New("migrate needs a database: set TPS_DATABASE_URL or TPS_DB_HOST")
	}
	log := newLogger(cfg, stderr)
	cfg.warn(ctx, log)
	return migrations.Up(ctx, cfg.database, log)
}

func (c *config) warn(ctx context.Context, log *slog.Logger) {
	for _, w := range c.warnings {
		log.WarnContext(ctx, "a variable has no meaning", slog.String("warning", w))
	}
}

func newLogger(cfg config, w io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.logLevel}
	f, isFile := w.(*os.File)
	if cfg.logFormat == "text" || (cfg.logFormat == "" && isFile && isatty.IsTerminal(f.Fd())) {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// store is what pgsync and filesync have in common.
type store interface {
	admin.Store
	Run(ctx context.Context) error
	Ready() error
}

// registry takes the metrics of every part, and gives them to /metrics.
type registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

// server is everything that one process runs.
type server struct {
	cfg      config
	log      *slog.Logger
	registry registry
	clock    limits.Clock
	current  *limits.Current
	engine   *buckets.Engine
	store    store
	recorder *recorder.Recorder
	history  *history.Store                      // nil without Postgres
	pools    struct{ log, others *pgxpool.Pool } // of history; nil without Postgres
	logs     *accesslog.Service
	service  *rls.Service
	domains  domains                                                       // nil without TPS_CONFIG_DIR and TPS_CONFIG_XDS
	inVain   atomic.Int64                                                  // rows, as tellOfRows has told
	line     func([]byte) (t traffic.Transaction, counted bool, err error) // of an access log in JSON
	usage    *usage.Store
	lock     *flock.Flock // of the data directory; nil while nothing is kept there
	locking  sync.Mutex   // of lock
	certs    *certs.Store // nil = the ports are plain
	draining atomic.Bool

	migrationTried chan struct{} // closed when a migration of the schema has ended, well or not; at once where none is wanted

	watches    context.Context // of the streams that the drain ends: watches of health, reflection
	endWatches context.CancelFunc

	health    *health.Server
	grpc      *grpc.Server
	http      *http.Server
	debug     *http.Server
	metrics   *http.Server // nil without TPS_METRICS_ADDR
	listeners struct{ grpc, http, debug, metrics net.Listener }

	handshakes *handshakes // of the connections of gRPC
}

// newServer makes every part and opens the ports; nothing runs yet.
func newServer(cfg config, log *slog.Logger) (*server, error) {
	s := prepare(cfg, log, prometheus.NewRegistry())
	for _, step := range slices.Concat([]func() error{s.lockEarly}, s.parts(), []func() error{s.loadUsage, s.loadDomains, s.listen}) {
		if err := step(); err != nil {
			s.close()
			return nil, err
		}
	}
	return s, nil
}

func prepare(cfg config, log *slog.Logger, reg registry) *server {
	s := &server{cfg: cfg, log: log, registry: reg, clock: limits.NewClock(), current: &limits.Current{}, health: health.NewServer(), migrationTried: make(chan struct{})}
	s.watches, s.endWatches = context.WithCancel(context.Background())
	s.engine = buckets.New(buckets.Config{DefaultMaxTPS: cfg.defaultMaxTPS, MaxBuckets: cfg.maxBuckets, MaxWaiters: cfg.maxWaiters}, s.clock, s.current)
	return s
}

// parts are the steps that make what has metrics. They touch nothing outside of the process.
func (s *server) parts() []func() error {
	return []func() error{s.registerMetrics, s.makeCerts, s.makeStore, s.makeUsage, s.makeRecorder, s.makeServers, s.makeDomains}
}

// close frees what newServer opened.
func (s *server) close() {
	s.endWatches()
	for _, l := range []net.Listener{s.listeners.grpc, s.listeners.http, s.listeners.debug, s.listeners.metrics} {
		if l != nil {
			_ = l.Close() // usually closed by its server already
		}
	}
	within(s.patience(), s.closePools) // pgx gives each connection 15 s to end well
	if s.lock != nil {
		_ = s.lock.Unlock() // the process ends
	}
}

func (s *server) closePools() {
	for _, pool := range []*pgxpool.Pool{s.pools.log, s.pools.others} {
		if pool != nil {
			pool.Close()
		}
	}
}

func (s *server) registerMetrics() error {
	gauge := func(name, help string, v func(*limits.Table) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if t := s.current.Load(); t != nil {
				return v(t)
			}
			return 0
		})
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimitd_build_info", Help: "1, with the version as a label.", ConstLabels: prometheus.Labels{"version": version()}})
	build.Set(1)
	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), build,
		gauge("ratelimitd_limits", "Rows in force.", func(t *limits.Table) float64 { return float64(t.Len()) }),
		gauge("ratelimitd_snapshot_id", "Id of the newest change in the limits in force; replicas of one database come to the same.", func(t *limits.Table) float64 { return float64(t.ID()) }),
		gauge("ratelimitd_snapshot_age_seconds", "Time since the limits in force were loaded or changed; it grows while nothing changes.", func(t *limits.Table) float64 { return time.Since(t.LoadedAt()).Seconds() }),
	} {
		if err := s.registry.Register(c); err != nil {
			return fmt.Errorf("registering metrics: %w", err)
		}
	}
	return nil
}

func (s *server) makeCerts() (err error) {
	if s.cfg.tls.Cert != "" {
		s.certs, err = certs.New(s.cfg.tls, s.registry, s.log)
	}
	return err
}

func (s *server) makeStore() (err error) {
	if s.cfg.database == "" {
		s.store, err = filesync.New(filesync.Config{Path: s.cfg.limitsFile}, s.clock, s.current, s.registry, s.log)
		return err
	}
	c := pgsync.Config{ConnString: s.cfg.database, PollInterval: s.cfg.pollInterval, DataDir: s.cfg.dataDir, Prepare: s.lockDataDir}
	tried := sync.OnceFunc(func() { close(s.migrationTried) })
	if s.cfg.migrate {
		c.Migrate = func(ctx context.Context) error {
			defer tried()
			return migrations.Up(ctx, s.cfg.database, s.log)
		}
	} else {
		tried()
	}
	s.store, err = pgsync.New(c, s.clock, s.current, s.registry, s.log)
	return err
}

// makeServers registers every service. There is no limit on concurrent streams: Envoy fills a
// connection before it knows of one, and lets through what is refused then.
func (s *server) makeServers() error {
	var err error
	s.service, err = rls.New(rls.Config{
		GatewayKeys: s.cfg.gatewayKeys, EndpointKeys: s.cfg.endpointKeys, ResponseHeaders: s.cfg.responseHeaders, MaxSeries: s.cfg.maxSeries,
		Files: s.cfg.descriptors.files,
	}, s.engine, s.registry)
	if err != nil {
		return err
	}
	s.grpc = grpc.NewServer(
		grpc.ForceServerCodecV2(rls.Codec{}),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second}), // else a peer that has vanished is held for hours
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.StreamInterceptor(s.endWithDrain),
	)
	s.service.Register(s.grpc)
	s.logs.Register(s.grpc)
	healthpb.RegisterHealthServer(s.grpc, s.health)
	reflection.Register(s.grpc)
	s.setHealth(healthpb.HealthCheckResponse_NOT_SERVING)
	var first sync.Once
	s.current.OnSwap(func(t *limits.Table) {
		s.updateHealth()
		first.Do(func() { s.tellOfRows(t) })
	})
	const headerTimeout, idleTimeout = 10 * time.Second, 2 * time.Minute // no write timeout: /json may be held for long
	s.http = &http.Server{Handler: s.adminHandler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)}
	s.debug = &http.Server{Handler: s.debugHandler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
	if s.cfg.metricsAddr != "" {
		s.metrics = &http.Server{Handler: s.metricsHandler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout}
	}
	return nil
}

// maxMessage is the largest message over gRPC. Clients of Envoy choose the length of header
// values, each of which may stand in several descriptors, and Envoy lets a request through whose
// message was refused: so it is far above what Envoy's own bound of 60 KiB of headers gives.
const maxMessage = 64 << 20

// handshakeTimeout is for TLS and the preface of HTTP/2; Envoy waits for as long by default.
const handshakeTimeout = 5 * time.Second

// serveGRPC serves Envoy. TLS ends in the listener, not in grpc-go's credentials: these refuse a
// client that does not name its protocol (ALPN), which Envoy does only where it is told to, and an
// Envoy that is refused lets every request through.
func (s *server) serveGRPC() error {
	if s.certs == nil || s.cfg.grpcPlain {
		return s.grpc.Serve(s.handshakes)
	}
	return s.grpc.Serve(tls.NewListener(s.handshakes, s.certs.Server(tls.RequireAndVerifyClientCert, "h2")))
}

func (s *server) plainHTTP() bool { return s.certs == nil || s.cfg.httpPlain }

// serveHTTP serves the API; probes come without a client certificate, so that it is admin which
// demands one.
func (s *server) serveHTTP() error {
	if s.plainHTTP() {
		return s.http.Serve(s.listeners.http)
	}
	s.http.TLSConfig = s.certs.Server(tls.VerifyClientCertIfGiven, "h2", "http/1.1")
	return s.http.ServeTLS(s.listeners.http, "", "")
}

func (s *server) setHealth(status healthpb.HealthCheckResponse_ServingStatus) {
	s.health.SetServingStatus("", status)
	s.health.SetServingStatus("ratelimit", status)
}

// updateHealth says yes once everything is there that decisions need.
func (s *server) updateHealth() {
	if s.current.Load() != nil && s.domainsServed() == nil {
		s.setHealth(healthpb.HealthCheckResponse_SERVING)
	}
}

func (s *server) adminHandler() http.Handler {
	return admin.New(admin.Config{Tokens: s.cfg.tokens, ClientCertificates: s.cfg.tls.ClientCA != "" && !s.cfg.httpPlain}, admin.Deps{
		Store: s.store, Current: s.current, Gatherer: s.registry, JSON: s.service.JSON(), Explain: s.service.Explain(), FileDomain: s.fileDomain, Log: s.log,
		Fullest: s.fullest, ResetBucket: s.resetBucket,
		Received: s.received, Stats: s.stats, Seconds: s.seconds, WhatIfRange: s.whatIfRange(), Done: s.watches.Done(),
		Offer: s.recorder.Offer, Receive: s.recorder.Receive, Line: s.line,
		Checks: []admin.Check{
			{Name: "limits", Fatal: true, Run: func() error {
				if s.current.Load() == nil {
					return buckets.ErrNoTable
				}
				return nil
			}},
			{Name: "source", Run: s.store.Ready},
			{Name: "tls", Run: s.tlsReady},
			{Name: "descriptors", Run: s.domainsReady},
			{Name: "descriptors_served", Fatal: true, Run: s.domainsServed},
			{Name: "descriptors_loaded", Fatal: true, ReadyOnly: true, Run: s.domainsLoaded},
			{Name: "running", Fatal: true, Run: func() error {
				if s.draining.Load() {
					return errors.New("the server is stopping")
				}
				return nil
			}},
		},
	})
}

func (s *server) tlsReady() error {
	if s.certs == nil {
		return nil
	}
	return s.certs.Ready()
}

func (s *server) listen() (err error) {
	for _, l := range []struct {
		name, addr string
		to         *net.Listener
	}{
		{"TPS_GRPC_ADDR", s.cfg.grpcAddr, &s.listeners.grpc},
		{"TPS_HTTP_ADDR", s.cfg.httpAddr, &s.listeners.http},
		{"TPS_DEBUG_ADDR", s.cfg.debugAddr, &s.listeners.debug},
		{"TPS_METRICS_ADDR", s.cfg.metricsAddr, &s.listeners.metrics},
	} {
		if l.addr == "" {
			continue
		}
		if *l.to, err = net.Listen("tcp", l.addr); err != nil {
			return fmt.Errorf("%s=%q: %w", l.name, l.addr, err)
		}
	}
	s.handshakes = newHandshakes(s.listeners.grpc)
	return nil
}

// run serves until ctx ends or a signal comes, and then drains.
func (s *server) run(ctx context.Context, stdout io.Writer) error {
	stop := notify(ctx)
	defer stop.close()
	// The parts live as long as the drain, which begins when ctx ends.
	live, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	group, live := errgroup.WithContext(live)
	group.Go(func() error { return s.untilFlushed(live, "the limits", s.store.Run) })
	group.Go(func() error { return s.engine.Run(live) })
	group.Go(func() error { return s.untilFlushed(live, "the usage of long windows", s.usage.Run) })
	group.Go(func() error { return s.recorder.Run(live) })
	if s.domains != nil {
		group.Go(func() error { return s.untilFlushed(live, "the last good descriptor files", s.domains.Run) })
	}
	if s.metrics != nil {
		group.Go(func() error { return named("serving metrics", ignoreClosed(s.metrics.Serve(s.listeners.metrics))) })
	}
	group.Go(func() error { return named("serving gRPC", ignoreClosed(until(live, s.serveGRPC))) })
	group.Go(func() error { return named("serving HTTP", ignoreClosed(s.serveHTTP())) })
	if s.certs != nil {
		group.Go(func() error { return s.certs.Run(live) })
	}
	group.Go(func() error { return named("serving the debug port", ignoreClosed(s.debug.Serve(s.listeners.debug))) })
	group.Go(func() error {
		s.drain(live, stop)
		end()
		return nil
	})
	s.greet(stdout)
	return group.Wait()
}

func named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ignoreClosed: a server may be told to stop before its goroutine has come to serve.
func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

// greet says in three lines where Envoy must point, where API and metrics are, and how to try.
func (s *server) greet(w io.Writer) {
	grpcAddr, httpAddr := reachable(s.listeners.grpc.Addr()), "http://"+reachable(s.listeners.http.Addr())
	if !s.plainHTTP() {
		httpAddr = "https" + strings.TrimPrefix(httpAddr, "http")
	}
	fmt.Fprintf(w, "Envoy:   point rate_limit_service and the gRPC access log at %s (examples in envoy/)\n", grpcAddr)
	fmt.Fprintf(w, "API:     %s/api/v1/limits   metrics: %s/metrics   readiness: %s/readyz\n", httpAddr, httpAddr, httpAddr)
	fmt.Fprintf(w, "Try it:  ratelimitd limits set --server %s --gateway demo --max-tps 5 && ratelimitd check --server %s gateway=demo\n", httpAddr, httpAddr)
	addresses := []any{
		slog.String("grpc", s.listeners.grpc.Addr().String()), slog.String("http", s.listeners.http.Addr().String()),
		slog.String("debug", s.listeners.debug.Addr().String()), slog.String("version", version()),
	}
	if s.metrics != nil {
		addresses = append(addresses, slog.String("metrics", s.listeners.metrics.Addr().String()))
	}
	s.log.Info("serving", addresses...)
}

// reachable is an address with localhost in place of "every interface".
func reachable(a net.Addr) string {
	host, port, err := net.SplitHostPort(a.String())
	if ip := net.ParseIP(host); err == nil && ip != nil && ip.IsUnspecified() {
		return net.JoinHostPort("localhost", port)
	}
	return a.String()
}
