package accesslog

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/test/bufconn"

	"github.com/tps-agent/ratelimitd/internal/rls"
	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// patience is how long a test waits for something that takes milliseconds.
const patience = 20 * time.Second

// service is a Service behind a real gRPC server with the codec of ratelimitd, and a client.
type service struct {
	*Service
	grpc *grpc.Server
	conn *grpc.ClientConn
	lis  *bufconn.Listener

	mu        sync.Mutex
	taken     []traffic.Transaction
	malformed int
}

func (s *service) record(ts []traffic.Transaction) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, ts...)
}

func (s *service) transactions() []traffic.Transaction {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.taken)
}

func serve(tb testing.TB) *service {
	tb.Helper()
	return serveWith(tb, Config{})
}

func serveWith(tb testing.TB, cfg Config) *service {
	tb.Helper()
	s := &service{grpc: grpc.NewServer(grpc.ForceServerCodecV2(rls.Codec{})), lis: bufconn.Listen(1 << 20)}
	var err error
	s.Service, err = New(cfg, Deps{Record: s.record, Malformed: func(error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.malformed++
	}}, prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	s.Register(s.grpc)
	ended := make(chan error, 1)
	go func() { ended <- s.grpc.Serve(s.lis) }()
	s.conn, err = grpc.NewClient("passthrough:als", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(raw{})),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return s.lis.DialContext(ctx) }))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = s.conn.Close() // a test may have closed it
		s.grpc.Stop()
		if err := <-ended; err != nil {
			tb.Errorf("serving: %v", err)
		}
	})
	return s
}

// raw sends bytes as they are: Envoy's messages are not always what an encoder makes.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// open starts a stream, as Envoy does.
func (s *service) open(ctx context.Context, tb testing.TB) grpc.ClientStream {
	tb.Helper()
	stream, err := s.conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, alspb.AccessLogService_StreamAccessLogs_FullMethodName)
	if err != nil {
		tb.Fatal(err)
	}
	return stream
}

func send(tb testing.TB, stream grpc.ClientStream, messages ...[]byte) {
	tb.Helper()
	for i, b := range messages {
		if err := stream.SendMsg(b); err != nil {
			tb.Fatalf("message %d of %d, %x: %v", i+1, len(messages), b, err)
		}
	}
}

// finish ends a stream from the side of the client. All that was sent has been recorded then.
func finish(tb testing.TB, stream grpc.ClientStream) {
	tb.Helper()
	if err := stream.CloseSend(); err != nil {
		tb.Fatal(err)
	}
	assertAnswered(tb, stream)
}

// assertAnswered waits for the end of a stream: an empty response, and no error.
func assertAnswered(tb testing.TB, stream grpc.ClientStream) {
	tb.Helper()
	var response []byte
	if err := stream.RecvMsg(&response); err != nil || len(response) != 0 {
		tb.Errorf("the stream ended with response %x and error %v, want an empty StreamAccessLogsResponse and none", response, err)
	}
}

// recorded are the endpoints of what waits to be written, in order.
func (s *service) recorded() []string {
	var all []string
	for _, t := range s.transactions() {
		all = append(all, t.Endpoint)
	}
	return all
}

func (s *service) assertRecorded(tb testing.TB, want ...string) {
	tb.Helper()
	if diff := cmp.Diff(want, s.recorded()); diff != "" {
		tb.Errorf("endpoints recorded (-want +got):\n%s", diff)
	}
}

// awaitRecorded waits until so many transactions are recorded.
func (s *service) awaitRecorded(tb testing.TB, n int) {
	tb.Helper()
	testenv.Eventually(tb, patience, "recording", func() error {
		if got := len(s.transactions()); got != n {
			return fmt.Errorf("%d transactions, want %d", got, n)
		}
		return nil
	})
}

func (s *service) awaitStreams(tb testing.TB, n float64) {
	tb.Helper()
	testenv.Eventually(tb, patience, "open streams", func() error {
		if got := value(tb, s.streams); got != n {
			return fmt.Errorf("%v, want %v", got, n)
		}
		return nil
	})
}

// value is that of a counter or gauge.
func value(tb testing.TB, m prometheus.Metric) float64 {
	tb.Helper()
	var d dto.Metric
	if err := m.Write(&d); err != nil {
		tb.Fatal(err)
	}
	return d.GetCounter().GetValue() + d.GetGauge().GetValue()
}

// counts are what a Service has counted besides transactions.
type counts struct{ Malformed, Ignored int }

func (s *service) counts(tb testing.TB) counts {
	tb.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	return counts{Malformed: s.malformed, Ignored: int(value(tb, s.ignored))}
}

// endpoint makes the entry one of this endpoint.
func endpoint(name string) part {
	return decided(map[string]any{"gateway": "gw", "endpoint": name})
}

// messageOf has an entry for each endpoint.
func messageOf(tb testing.TB, endpoints ...string) []byte {
	tb.Helper()
	var entries []*logpb.HTTPAccessLogEntry
	for _, e := range endpoints {
		entries = append(entries, logged(endpoint(e)))
	}
	return marshal(tb, httpLogs(entries...))
}

func identified(m *alspb.StreamAccessLogsMessage) *alspb.StreamAccessLogsMessage {
	m.Identifier = &alspb.StreamAccessLogsMessage_Identifier{Node: &corepb.Node{Id: "edge-1", Cluster: "edge"}, LogName: "edge"}
	return m
}
