package descsync

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/lastgood"
)

// XDSConfig names the xDS server.
type XDSConfig struct {
	Server   string            // host:port
	Node     string            // id that the server is told
	Metadata map[string]string // of the node
	Headers  map[string]string // of each stream

	TLS        bool
	CA         string // PEM file of authorities; empty = those of the system
	Cert, Key  string // PEM files of what the server is shown; both empty = nothing
	ServerName string // in the server's certificate; empty = the host of Server

	DataDir string       // keeps the last good resources
	Prepare func() error // makes DataDir and keeps other processes out of it
	Publish func(*descriptors.Set)
}

// XDS follows one xDS server: aggregated discovery, state of the world.
type XDS struct {
	cfg       XDSConfig
	log       *slog.Logger
	metrics   *metrics
	connected prometheus.Gauge
	responses *prometheus.CounterVec
	kept      *lastgood.File[savedResources]

	loaded atomic.Bool
	fault  atomic.Pointer[error] // why what is in force may not be what the server has; nil = it is

	// Below: of Load, then of Run alone.
	version   string    // of what is in force
	bodies    [][]byte  // the same, in the wire format
	refused   string    // why the last response was; empty = it was not
	refusedAt time.Time // when one was, last
}

// savedResources is what the data directory keeps.
type savedResources struct {
	Server    string   `json:"server"`
	Version   string   `json:"version"`
	Resources [][]byte `json:"resources"` // RateLimitConfig in the wire format
}

// resourcesName is that of the file in the data directory.
const resourcesName = "xds.json"

// NewXDS returns an XDS that has asked nobody yet.
func NewXDS(cfg XDSConfig, reg prometheus.Registerer, log *slog.Logger) (*XDS, error) {
	x := &XDS{
		cfg: cfg, log: log.With(slog.String("server", cfg.Server)),
		connected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "ratelimitd_xds_connected", Help: "1 while the xDS server has a stream and has answered on it."}),
		responses: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ratelimitd_xds_responses_total", Help: "Responses of the xDS server, by result: ack (in force), nack (refused; what was in force stays).",
		}, []string{"result"}),
	}
	x.failed(errors.New("it has not answered yet"))
	var err error
	if x.metrics, err = newMetrics(reg, x.Ready); err != nil {
		return nil, err
	}
	x.kept = lastgood.New(lastgood.Config[savedResources]{What: "the last good resources of the xDS server", Dir: cfg.DataDir, Name: resourcesName, Prepare: cfg.Prepare, Errors: x.metrics.stateErrors}, log)
	for _, c := range []prometheus.Collector{x.connected, x.responses} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of xDS: %w", err)
		}
	}
	x.responses.WithLabelValues("ack")
	x.responses.WithLabelValues("nack")
	return x, nil
}

func (x *XDS) failed(err error) {
	err = fmt.Errorf("the xDS server %s: %w", x.cfg.Server, err)
	x.fault.Store(&err)
}

// Load puts in force what an earlier process has kept of the server. It returns nil.
func (x *XDS) Load(ctx context.Context) error {
	var was savedResources
	if !x.kept.Read(ctx, &was) {
		return nil
	}
	if was.Server != x.cfg.Server {
		x.log.WarnContext(ctx, "the last good resources are those of another xDS server and are not used", slog.String("theirs", was.Server))
		return nil
	}
	set, err := decode(was.Resources)
	if err != nil {
		x.metrics.stateErrors.Inc()
		x.log.ErrorContext(ctx, "the last good resources of the xDS server cannot be used", slog.Any("error", err))
		return nil
	}
	x.publish(set, was.Version, was.Resources)
	x.log.InfoContext(ctx, "the last good resources are in force until the xDS server answers", slog.Int("domains", set.Len()), slog.String("version", was.Version))
	return nil
}

func (x *XDS) publish(set *descriptors.Set, version string, bodies [][]byte) {
	x.cfg.Publish(set)
	x.metrics.loaded(set)
	x.version, x.bodies = version, bodies
	x.loaded.Store(true)
}

// decode compiles resources in the wire format.
func decode(resources [][]byte) (*descriptors.Set, error) {
	all := make([]*ratelimitv3.RateLimitConfig, len(resources))
	for i, body := range resources {
		all[i] = &ratelimitv3.RateLimitConfig{}
		if err := proto.Unmarshal(body, all[i]); err != nil {
			return nil, fmt.Errorf("resource %d is no RateLimitConfig: %w", i, err)
		}
	}
	return descriptors.SetFromResources(all)
}

// Ready returns nil when what is in force is what the server has. It never waits.
func (x *XDS) Ready() error {
	if err := x.fault.Load(); err != nil {
		return *err
	}
	return nil
}

// Loaded returns nil when something was ever in force.
func (x *XDS) Loaded() error {
	if x.loaded.Load() {
		return nil
	}
	return x.Ready()
}

// The pauses between two streams, which grow until one has lasted for longer than the longest.
const (
	leastPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
)

// Run follows the server until ctx ends, and returns nil then.
func (x *XDS) Run(ctx context.Context) error {
	x.kept.RunWhile(ctx, func() { x.follow(ctx) })
	return nil
}

func (x *XDS) follow(ctx context.Context) {
	pause, said := leastPause, ""
	for ctx.Err() == nil {
		began := time.Now()
		err := x.stream(ctx)
		x.connected.Set(0)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > mostPause {
			pause, said = leastPause, ""
		}
		if err.Error() != said {
			said = err.Error()
			x.log.WarnContext(ctx, "the xDS server is away; what is in force stays", slog.Any("error", err))
		}
		x.failed(err)
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + rand.N(pause)): //nolint:gosec // no secret
		}
		pause = min(2*pause, mostPause)
	}
}
