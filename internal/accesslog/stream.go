package accesslog

import (
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3" // descriptors for reflection
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// closeGrace is how long an idle stream is kept when streams are to end: Envoy's usual
// buffer_flush_interval of a second, and some.
const closeGrace = 2 * time.Second

// Config says what entries mean, and how long streams last. The zero value is the default.
type Config struct {
	Mapping *Mapping // nil = that of the zero MappingConfig
	// StreamMaxAge is the age at which a stream is ended, right after a message; 0 = never. Each
	// stream has its own, up to a fifth more or less, so that those that began together do not all
	// begin again together. An idle stream stays.
	StreamMaxAge time.Duration
}

// Deps take what was received. They are called by any number of goroutines and never block.
type Deps struct {
	Record    func([]traffic.Transaction) // those of one message, at most 1,000 at once; must not keep the slice
	Malformed func(error)                 // an entry, or the rest of a message, that cannot be read
}

// Service takes access logs over gRPC.
type Service struct {
	Deps
	cfg     Config
	streams prometheus.Gauge
	ignored prometheus.Counter
	exports sync.Pool     // *export
	closing chan struct{} // closed when streams are to end
	close   sync.Once
}

// New returns a Service that nothing is registered with yet. The error says what is wrong with cfg, or
// that a metric is registered already.
func New(cfg Config, deps Deps, reg prometheus.Registerer) (*Service, error) {
	if cfg.StreamMaxAge < 0 {
		return nil, fmt.Errorf("configuring access logs: stream max age %s: is below 0", cfg.StreamMaxAge)
	}
	if cfg.Mapping == nil {
		cfg.Mapping, _ = NewMapping(MappingConfig{}) // the default is without fault
	}
	s := &Service{
		Deps: deps, cfg: cfg, closing: make(chan struct{}),
		streams: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "ratelimitd_recorder_streams", Help: "Open access-log streams.",
		}),
		ignored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "ratelimitd_recorder_ignored_total", Help: "Access-log entries that are not the end of a request or connection.",
		}),
	}
	s.exports.New = func() any { return newExport(s) }
	for _, c := range []prometheus.Collector{s.streams, s.ignored} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of access logs: %w", err)
		}
	}
	return s, nil
}

// Register adds AccessLogService v3 and OpenTelemetry's LogsService v1 to a grpc server, whose codec
// must let messages decode themselves (rls.Codec).
func (s *Service) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.accesslog.v3.AccessLogService",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "StreamAccessLogs", Handler: streamAccessLogs, ClientStreams: true}},
		Metadata:    "envoy/service/accesslog/v3/als.proto",
	}, s)
	r.RegisterService(&grpc.ServiceDesc{
		ServiceName: "opentelemetry.proto.collector.logs.v1.LogsService",
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: "Export", Handler: exportLogs}},
		Metadata:    "opentelemetry/proto/collector/logs/v1/logs_service.proto",
	}, s)
}

// CloseStreams ends every stream right after the next message, idle ones after two seconds:
// Envoy loses nothing when a stream ends there, and opens the next one elsewhere.
func (s *Service) CloseStreams() { s.close.Do(func() { close(s.closing) }) }

func streamAccessLogs(srv any, stream grpc.ServerStream) error {
	s := srv.(*Service)
	s.streams.Inc()
	defer s.streams.Dec()
	ended := make(chan error, 1)
	go func() { ended <- s.receive(stream) }()
	if err := s.await(ended); err != nil {
		return err
	}
	return stream.SendMsg(empty{}) // the end of the stream ends receive as well
}

// await returns when receive has ended, or some time after CloseStreams where the stream is idle.
func (s *Service) await(ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-s.closing:
	}
	idle := time.NewTimer(closeGrace)
	defer idle.Stop()
	select {
	case err := <-ended:
		return err
	case <-idle.C:
		return nil
	}
}

// receive reads messages until the client, CloseStreams or the age of the stream ends it; none of
// these is an error.
func (s *Service) receive(stream grpc.ServerStream) error {
	m, end := newMessage(s), s.endOfStream()
	for {
		if err := stream.RecvMsg(m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		select {
		case <-s.closing:
			return nil
		default:
			if !m.receivedAt.Before(end) {
				return nil
			}
		}
	}
}

// endOfStream is when a stream that begins now is old; without an age, in some centuries.
func (s *Service) endOfStream() time.Time {
	const spread = 0.2 // more or less
	age := s.cfg.StreamMaxAge
	if age == 0 {
		return time.Now().Add(math.MaxInt64)
	}
	share := 1 + spread*(2*rand.Float64()-1) //nolint:gosec // nobody gains by guessing it
	return time.Now().Add(time.Duration(float64(age) * share))
}

// message is a StreamAccessLogsMessage. One is used for all messages of a stream.
type message struct {
	taker
	visitor visitor
	buffer  []byte
}

func newMessage(s *Service) *message {
	m := &message{taker: newTaker(s)}
	m.visitor = visitor{entry: m.take, bad: s.Malformed, request: s.cfg.Mapping.wantsRequest()}
	return m
}

// Buffer is memory for a message of this size. That for a usual one is kept: each would else be garbage
// at once, 80 kB of a hundred entries.
func (m *message) Buffer(size int) []byte {
	const usual = 1 << 20
	if size > usual {
		return make([]byte, size)
	}
	m.buffer = slices.Grow(m.buffer[:0], size)[:size]
	return m.buffer
}

// UnmarshalWire records every entry of the message. It never fails: what cannot be read is
// counted, and the stream goes on.
func (m *message) UnmarshalWire(b []byte) error {
	m.read(b, time.Now())
	return nil
}

func (m *message) read(b []byte, receivedAt time.Time) {
	m.receivedAt = receivedAt
	if err := m.visitor.message(b); err != nil {
		m.service.Malformed(err)
	}
	m.flush()
}

// empty is StreamAccessLogsResponse, and an ExportLogsServiceResponse that says that all went well.
type empty struct{}

// MarshalWire appends nothing.
func (empty) MarshalWire(b []byte) ([]byte, error) { return b, nil }

// taker makes transactions of entries, and hands them on. It is for one goroutine at a time.
type taker struct {
	service    *Service
	names      namer
	receivedAt time.Time
	taken      []traffic.Transaction // and not handed on yet
}

// mostTaken bounds the memory of a message: an entry may have two bytes, a transaction has a hundred.
const mostTaken = 1000

func newTaker(s *Service) taker {
	return taker{service: s, names: namer{mapping: s.cfg.Mapping, known: make(map[string]string)}}
}

func (t *taker) take(e *entry) {
	if !e.counted() {
		t.service.ignored.Inc()
		return
	}
	t.taken = append(t.taken, t.names.transaction(e, t.receivedAt))
	if len(t.taken) >= mostTaken {
		t.flush()
	}
}

func (t *taker) flush() {
	if len(t.taken) > 0 {
		t.service.Record(t.taken)
	}
	t.taken = t.taken[:0]
}
