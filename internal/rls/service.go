package rls

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3" // descriptors for reflection
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/httpjson"
)

// Config says what of a request is the gateway and the endpoint, and what goes into answers.
type Config struct {
	GatewayKeys     []string // descriptor keys that carry the gateway, the first that is there counts
	EndpointKeys    []string // the same for the endpoint
	ResponseHeaders bool     // also send x-ratelimit-limit, -remaining and -reset
	// BodyTimeout is the time within which the body of POST /json must have arrived; 0 = 10 s.
	BodyTimeout time.Duration
	MaxSeries   int // series of names in each family before the rest counts as `other`
	Files       FileConfig
}

func (c *Config) validate() error {
	var errs []error
	if len(c.GatewayKeys) == 0 {
		errs = append(errs, errors.New("gateway keys: there are none"))
	}
	if c.MaxSeries < 1 {
		errs = append(errs, fmt.Errorf("max series %d: is not at least 1", c.MaxSeries))
	}
	return errors.Join(errs...)
}

// Service answers RateLimitService v3 and POST /json.
type Service struct {
	cfg     Config
	engine  *buckets.Engine
	metrics *metrics
	calls   sync.Pool
	files   atomic.Pointer[fileDomains]
}

// New returns a Service over engine. It registers its metrics, the engine's among them.
func New(cfg Config, engine *buckets.Engine, reg prometheus.Registerer) (*Service, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configuring the rate limit service: %w", err)
	}
	m, err := newMetrics(cfg.MaxSeries, engine, reg)
	if err != nil {
		return nil, err
	}
	if cfg.BodyTimeout <= 0 {
		cfg.BodyTimeout = httpjson.DefaultBodyTimeout
	}
	s := &Service{cfg: cfg, engine: engine, metrics: m}
	s.calls.New = func() any { return &call{service: s} }
	return s, nil
}

// call is one request on its way, with all the memory that it needs.
type call struct {
	service  *Service
	request  Request
	matched  matched
	decision buckets.Decision
}

// UnmarshalWire decodes the request.
func (c *call) UnmarshalWire(b []byte) error { return c.request.UnmarshalWire(b) }

// MarshalWire appends the answer, and gives the call back: it is used for nothing after.
func (c *call) MarshalWire(b []byte) ([]byte, error) {
	b = c.appendAnswer(b)
	c.release()
	return b, nil
}

func (c *call) appendAnswer(b []byte) []byte {
	if c.matched.domain != nil {
		return c.service.appendFileAnswer(b, c)
	}
	return appendAnswer(b, &c.request, &c.decision, c.service.cfg.ResponseHeaders)
}

// What is kept for the next request is bounded: a few bytes on the wire can be a descriptor,
// which takes some hundred bytes from the decoding to the answer.
const (
	maxPooledRequest = 64 << 10
	maxPooledItems   = 1024 // entries, descriptors
)

func (c *call) release() {
	if cap(c.request.buf) > maxPooledRequest || cap(c.request.entries) > maxPooledItems || cap(c.request.Descriptors) > maxPooledItems {
		return
	}
	c.decision.Release()
	c.matched.release()
	c.service.calls.Put(c)
}

// Register adds the service to a grpc server, which must use [Codec].
func (s *Service) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.ratelimit.v3.RateLimitService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "ShouldRateLimit", Handler: shouldRateLimit}},
		Metadata:    "envoy/service/ratelimit/v3/rls.proto",
	}, s)
}

func shouldRateLimit(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc-go's order of arguments
	s := srv.(*Service)
	c := s.calls.Get().(*call)
	if err := decode(c); err != nil {
		return nil, err
	}
	s.metrics.grpc.Inc()
	if err := s.decide(ctx, c, -1); err != nil {
		st := grpcStatus(ctx, err)
		s.metrics.failed(st.Code())
		c.release()
		return nil, st.Err()
	}
	return c, nil
}

// decide answers the request of c, waiting where a limit says so, at most maxWait (negative =
// what the limits allow).
func (s *Service) decide(ctx context.Context, c *call, maxWait time.Duration) error {
	startNS := s.engine.NowNS()
	if err := c.request.prepare(&s.cfg); err != nil {
		return err
	}
	domain, err := s.fileDomain(c.request.Domain)
	switch {
	case err != nil:
	case domain != nil:
		err = s.decideFile(ctx, c, domain, startNS)
	default:
		c.matched.domain = nil
		err = s.engine.Do(ctx, &c.request.Request, maxWait, &c.decision)
	}
	if err != nil {
		return err
	}
	s.metrics.decided(c, time.Duration(s.engine.NowNS()-startNS))
	return nil
}

// grpcStatus says why there is no decision. Whether a caller ran out of time or went away is
// told by the clock: grpc-go ends the context of both alike.
func grpcStatus(ctx context.Context, err error) *status.Status {
	var invalid invalidError
	switch {
	case errors.As(err, &invalid):
		return status.New(codes.InvalidArgument, err.Error())
	case errors.Is(err, buckets.ErrNoTable), errors.Is(err, errNoFiles):
		return status.New(codes.Unavailable, err.Error())
	}
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		return status.New(codes.DeadlineExceeded, "the caller's deadline passed while the request was held")
	}
	return status.New(codes.Canceled, "the caller went away while the request was held")
}
