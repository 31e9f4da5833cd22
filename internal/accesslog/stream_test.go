package accesslog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

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
	got := s.transactions()
	if len(got) != 1 || got[0].At.Before(began) || got[0].At.After(time.Now()) {
		t.Fatalf("%+v: want one transaction, of the time when it came: not before %s", got, began)
	}
	want := traffic.Transaction{Domain: "edge", Gateway: "gw", Endpoint: "pay", At: got[0].At, Duration: 150 * time.Millisecond, Waited: 100 * time.Millisecond, StatusCode: 429, Throttled: true}
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
