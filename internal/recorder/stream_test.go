package recorder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/rls"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// patience is how long a test waits for something that takes milliseconds.
const patience = 20 * time.Second

// closed is a sink that is never asked: what was recorded stays in the queue.
type closed struct{ Sink }

// service is a Recorder behind a real gRPC server with the codec of ratelimitd, and a client.
type service struct {
	*Recorder
	grpc *grpc.Server
	conn *grpc.ClientConn
	lis  *bufconn.Listener
}

func serve(tb testing.TB) *service {
	tb.Helper()
	cfg := Config{BatchSize: 1, FlushInterval: time.Hour, MaxQueue: 100_000, MaxSeries: 100}
	r, err := New(cfg, closed{}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	s := &service{Recorder: r, grpc: grpc.NewServer(grpc.ForceServerCodecV2(rls.Codec{})), lis: bufconn.Listen(1 << 20)}
	r.Register(s.grpc)
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
	for _, t := range s.queue.head(s.queue.max) {
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
		if got := s.queue.length(); got != n {
			return fmt.Errorf("%d transactions, want %d", got, n)
		}
		return nil
	})
}

func (s *service) awaitStreams(tb testing.TB, n float64) {
	tb.Helper()
	testenv.Eventually(tb, patience, "open streams", func() error {
		if got := value(tb, s.metrics.streams); got != n {
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

// counts are what a Recorder has counted besides transactions.
type counts struct{ Malformed, Ignored int }

func (s *service) counts(tb testing.TB) counts {
	tb.Helper()
	return counts{
		Malformed: int(value(tb, s.metrics.dropped.WithLabelValues(dropMalformed))),
		Ignored:   int(value(tb, s.metrics.ignored)),
	}
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

// Only the first message of a stream has the identifier.
func TestStreamOfManyMessages(t *testing.T) {
	s := serve(t)
	stream := s.open(t.Context(), t)
	send(t, stream, marshal(t, identified(httpLogs(logged(endpoint("first"))))))
	want := []string{"first"}
	for i := range 200 {
		a, b := fmt.Sprintf("a%d", i), fmt.Sprintf("b%d", i)
		send(t, stream, messageOf(t, a, b))
		want = append(want, a, b)
	}
	finish(t, stream)
	s.assertRecorded(t, want...)
	if got := s.counts(t); got != (counts{}) {
		t.Errorf("counted %+v, want nothing", got)
	}
	if got := s.Stats().Transactions; got != 401 {
		t.Errorf("the figures have %d transactions, want 401", got)
	}
	s.awaitStreams(t, 0)
}

// Envoy has a stream per worker, and one more per worker for TCP.
func TestManyStreams(t *testing.T) {
	s := serve(t)
	streams := make([]grpc.ClientStream, 8)
	for i := range streams {
		streams[i] = s.open(t.Context(), t)
	}
	for range 10 {
		for _, stream := range streams {
			send(t, stream, messageOf(t, "e"))
		}
	}
	s.awaitRecorded(t, 80)
	s.awaitStreams(t, 8)
	for _, stream := range streams {
		finish(t, stream)
	}
	s.awaitStreams(t, 0)
}

// The other columns come through the stream like the endpoint.
func TestStreamRecordsWhatTheEntrySays(t *testing.T) {
	s := serve(t)
	stream := s.open(t.Context(), t)
	began := time.Now()
	send(t, stream, marshal(t, httpLogs(logged(
		decided(map[string]any{"domain": "edge", "gateway": "gw", "endpoint": "pay", "waited_ms": 100, "throttled": true}), answered(429, "request_rate_limited"), startedAt(nil)))))
	finish(t, stream)
	got := s.queue.head(2)
	if len(got) != 1 || got[0].At.Before(began) || got[0].At.After(time.Now()) {
		t.Fatalf("%+v: want one transaction, of the time when it came: not before %s", got, began)
	}
	want := Transaction{Domain: "edge", Gateway: "gw", Endpoint: "pay", At: got[0].At, Duration: 150 * time.Millisecond, Waited: 100 * time.Millisecond, StatusCode: 429, Throttled: true}
	if diff := cmp.Diff(want, got[0]); diff != "" {
		t.Errorf("transaction (-want +got):\n%s", diff)
	}
}

// A message, whatever its bytes are, costs neither the stream nor other entries.
func TestStreamGoesOn(t *testing.T) {
	const bad = "caf\xe9\xff"
	good := func(name string) []byte { return field(1, common(field(22, text(1, "endpoint"), text(2, name)))) }
	broken := field(1, field(1, []byte{0x7a, 0x7f, 'x'})) // a cluster of 127 bytes that are not there
	tcp := marshal(t, tcpLogs(connected(tcpTags("endpoint", "db")), connected(tcpType(logpb.AccessLogType_TcpPeriodic))))
	var kinds []*logpb.HTTPAccessLogEntry
	for _, kind := range []logpb.AccessLogType{
		logpb.AccessLogType_NotSet, logpb.AccessLogType_DownstreamStart, logpb.AccessLogType_DownstreamPeriodic, logpb.AccessLogType_DownstreamEnd,
		logpb.AccessLogType_UpstreamEnd, logpb.AccessLogType_DownstreamTunnelSuccessfullyEstablished,
	} {
		kinds = append(kinds, logged(endpoint(kind.String()), logType(kind)))
	}
	oldPeriodic := logged(endpoint("old"), logType(logpb.AccessLogType_NotSet))
	oldPeriodic.CommonProperties.IntermediateLogEntry = true //nolint:staticcheck // older Envoys have nothing else
	kinds = append(kinds, oldPeriodic)
	for name, c := range map[string]struct {
		message []byte
		want    []string
		counts  counts
	}{
		"good":                        {messageOf(t, "a", "b"), []string{"a", "b"}, counts{}},
		"nothing":                     {nil, nil, counts{}},
		"the identifier alone":        {marshal(t, identified(httpLogs())), nil, counts{}},
		"only ends of requests count": {marshal(t, httpLogs(kinds...)), []string{"NotSet", "DownstreamEnd"}, counts{Ignored: 5}},
		"TCP":                         {tcp, []string{"db"}, counts{Ignored: 1}},
		"TCP and HTTP":                {bytes.Join([][]byte{tcp, messageOf(t, "a")}, nil), []string{"db", "a"}, counts{Ignored: 1}},
		"invalid UTF-8 in tags": {
			field(2, good("a"), good(bad), field(1, common(field(22, text(1, bad), text(2, bad)), field(22, text(1, "endpoint"), text(2, "c"))))),
			[]string{"a", "caf\ufffd\ufffd", "c"},
			counts{},
		},
		"invalid UTF-8 in request id, path, headers, stream id and details": {
			field(2, good("a"), field(1,
				common(field(22, text(1, "endpoint"), text(2, "b")), text(26, bad), text(10, bad)),
				field(3, text(3, bad), text(4, bad), text(5, bad), text(9, bad), field(13, text(1, bad), text(2, bad))),
				response(field(1, varint(1, 200)), field(4, text(1, bad), text(2, bad)), text(6, bad)),
			), good("c")),
			[]string{"a", "b", "c"},
			counts{},
		},
		"invalid UTF-8 in the identifier": {
			bytes.Join([][]byte{field(1, field(1, text(1, bad)), text(2, bad)), messageOf(t, "a")}, nil),
			[]string{"a"},
			counts{},
		},
		"a broken identifier": {bytes.Join([][]byte{field(1, []byte{0x0a, 0x7f}), messageOf(t, "a")}, nil), []string{"a"}, counts{}},
		"one broken entry":    {field(2, good("a"), broken, good("c")), []string{"a", "c"}, counts{Malformed: 1}},
		"three broken ones":   {field(2, broken, good("b"), broken, broken), []string{"b"}, counts{Malformed: 3}},
		"cut off":             {bytes.Join([][]byte{field(2, good("a"), good("b")), {0x12, 0x7f, 0x0a}}, nil), []string{"a", "b"}, counts{Malformed: 1}},
		"no protobuf":         {[]byte("GET / HTTP/1.1\r\n\r\n"), nil, counts{Malformed: 1}},
		"zeros":               {make([]byte, 100), nil, counts{Malformed: 1}},
		"of 2 MiB":            {field(2, good("a"), field(1, common(field(22, text(1, "endpoint"), text(2, strings.Repeat("x", 2<<20))))), good("c")), []string{"a", strings.Repeat("x", 255), "c"}, counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			stream := s.open(t.Context(), t)
			send(t, stream, messageOf(t, "before"), c.message, messageOf(t, "after"))
			finish(t, stream)
			s.assertRecorded(t, append(append([]string{"before"}, c.want...), "after")...)
			if got := s.counts(t); got != c.counts {
				t.Errorf("counted %+v, want %+v", got, c.counts)
			}
		})
	}
}

// The protobuf library would have ended the stream: the cases above are the ones that matter.
func TestTheStockServiceEndsTheStream(t *testing.T) {
	m := oneEntry(common(field(22, text(1, "endpoint"), text(2, "\xff"))))
	if err := proto.Unmarshal(m, new(alspb.StreamAccessLogsMessage)); err == nil {
		t.Error("the protobuf library takes invalid UTF-8: the own decoder is not needed any more")
	}
}

// What was received of a client that goes away is kept, and its stream is gone.
func TestClientsThatBreak(t *testing.T) {
	for name, leave := range map[string]func(s *service, cancel context.CancelFunc){
		"the stream is reset":      func(_ *service, cancel context.CancelFunc) { cancel() },
		"the connection is closed": func(s *service, _ context.CancelFunc) { _ = s.conn.Close() },
		"the server is stopped":    func(s *service, _ context.CancelFunc) { s.grpc.Stop() },
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			stream := s.open(ctx, t)
			send(t, stream, messageOf(t, "a", "b"), messageOf(t, "c"))
			s.awaitRecorded(t, 3)
			s.awaitStreams(t, 1)
			leave(s, cancel)
			var response []byte
			if err := stream.RecvMsg(&response); status.Code(err) != codes.Canceled && status.Code(err) != codes.Unavailable {
				t.Errorf("the client sees %v, want Canceled or Unavailable", err)
			}
			s.awaitStreams(t, 0)
			s.assertRecorded(t, "a", "b", "c")
			if got := s.counts(t); got != (counts{}) {
				t.Errorf("counted %+v, want nothing", got)
			}
		})
	}
}

// Envoy loses nothing when a stream ends right after a message.
func TestCloseStreamsAfterAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		busy, late := s.open(t.Context(), t), s.open(t.Context(), t)
		send(t, busy, messageOf(t, "a"))
		synctest.Wait()
		s.CloseStreams()
		s.CloseStreams() // twice is once
		began := time.Now()
		send(t, busy, messageOf(t, "b"))
		assertAnswered(t, busy)
		if took := time.Since(began); took != 0 {
			t.Errorf("a stream ended %s after a message, want at once", took)
		}
		<-time.After(closeGrace - time.Millisecond)
		send(t, late, messageOf(t, "c"))
		assertAnswered(t, late)
		if took := time.Since(began); took != closeGrace-time.Millisecond {
			t.Errorf("a stream whose message came late ended after %s, want at once", took)
		}
		after := s.open(t.Context(), t) // a connection that does not know yet
		send(t, after, messageOf(t, "d"))
		assertAnswered(t, after)
		s.assertRecorded(t, "a", "b", "c", "d")
	})
}

func TestCloseStreamsEndsIdleStreams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		streams := []grpc.ClientStream{s.open(t.Context(), t), s.open(t.Context(), t)}
		send(t, streams[0], messageOf(t, "a"))
		synctest.Wait()
		began := time.Now()
		stopped := make(chan time.Duration, 1)
		go func() {
			s.grpc.GracefulStop()
			stopped <- time.Since(began)
		}()
		<-time.After(time.Minute)
		select {
		case after := <-stopped:
			t.Fatalf("the server stopped after %s, though there are streams", after)
		default:
		}
		began = time.Now()
		s.CloseStreams()
		for _, stream := range streams {
			assertAnswered(t, stream)
		}
		if after := <-stopped; after != closeGrace {
			t.Errorf("the server stopped %s after CloseStreams, want %s", after, closeGrace)
		}
		s.assertRecorded(t, "a")
	})
}

// A stream that Envoy has opened and not used yet ends like any other.
func TestStreamWithoutAMessage(t *testing.T) {
	s := serve(t)
	stream := s.open(t.Context(), t)
	finish(t, stream)
	s.assertRecorded(t)
	if err := stream.RecvMsg(new([]byte)); !errors.Is(err, io.EOF) {
		t.Errorf("after the response comes %v, want the end", err)
	}
}
