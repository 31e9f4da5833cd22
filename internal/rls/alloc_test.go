package rls

import (
	"bytes"
	"context"
	"log/slog"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// allocServer is a Service with limits on two levels, and the bytes of a request for them.
func allocServer(tb testing.TB, maxTPS int64, hits uint32) (s *Service, request []byte) {
	tb.Helper()
	limit := func(endpoint, per string) limits.Limit {
		return limits.Limit{Key: limits.Key{Gateway: "pay", Endpoint: endpoint, Per: per}, MaxTPS: maxTPS, Burst: 1000, Enabled: true}
	}
	table, err := limits.NewTable(nil, []limits.Limit{limit("", ""), limit("charge", ""), limit("", "user")}, limits.Stamp{ID: 1, AtNS: 1})
	if err != nil {
		tb.Fatal(err)
	}
	current := &limits.Current{}
	current.Store(table)
	engine := buckets.New(buckets.Config{}, limits.NewClock(), current)
	s, err = New(Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}, ResponseHeaders: true, MaxSeries: 10}, engine, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		tb.Fatal(err)
	}
	request, err = proto.Marshal(&ratelimitv3.RateLimitRequest{Domain: "shop", HitsAddend: hits, Descriptors: []*commonv3.RateLimitDescriptor{
		{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "gateway", Value: "pay"}, {Key: "endpoint", Value: "charge"}, {Key: "user", Value: "ann"}}},
		{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "gateway", Value: "pay"}}},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	return s, request
}

// TestAlloc counts the allocations of a request between its bytes and those of the answer.
//
//	from decoding to encoding: none
//	as grpc calls it: one, the slice of buffers in which grpc-go takes the answer
//
// What grpc-go and net/http allocate around it is theirs.
func TestAlloc(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates by itself; make test/alloc runs this without")
	}
	for name, c := range map[string]struct {
		maxTPS int64
		hits   uint32
	}{"admitted": {limits.MaxMaxTPS, 0}, "refused": {1, 1000}, "never": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			s, request := allocServer(t, c.maxTPS, c.hits)
			answer := make([]byte, 0, answerSize)
			got := testing.AllocsPerRun(1000, func() {
				c := s.calls.Get().(*call)
				if err := c.UnmarshalWire(request); err != nil {
					t.Error(err)
				}
				if err := s.decide(t.Context(), c, -1); err != nil {
					t.Error(err)
				}
				answer, _ = c.MarshalWire(answer[:0])
			})
			if got != 0 || len(answer) == 0 {
				t.Errorf("%v allocations from decoding to an answer of %d bytes, want 0", got, len(answer))
			}
			if got := allocsOverCodec(t, s, request); got != 1 {
				t.Errorf("%v allocations as grpc calls it, want 1", got)
			}
		})
	}
}

// allocsOverCodec runs a request through the handler and the codec.
func allocsOverCodec(t *testing.T, s *Service, request []byte) float64 {
	t.Helper()
	var codec Codec
	in := mem.BufferSlice{mem.SliceBuffer(request)}
	decode := func(v any) error { return codec.Unmarshal(in, v) }
	ctx := context.WithoutCancel(t.Context())
	return testing.AllocsPerRun(1000, func() {
		c, err := shouldRateLimit(s, ctx, decode, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := codec.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		out.Free()
	})
}

// TestPoolIsBounded gives back calls that were large: their memory is not kept for the next.
func TestPoolIsBounded(t *testing.T) {
	for name, request := range map[string][]byte{
		"many bytes":       append([]byte("\x0a\x80\x80\x08"), bytes.Repeat([]byte{'x'}, 2*maxPooledRequest)...),
		"many descriptors": bytes.Repeat([]byte("\x12\x00"), 2*maxPooledItems),
		"many entries":     manyEntries(2 * maxPooledItems),
	} {
		s, _ := allocServer(t, 1, 1)
		c := s.calls.Get().(*call)
		if err := c.UnmarshalWire(request); err != nil {
			t.Fatal(err)
		}
		if c.request.decodingIs != nil {
			t.Fatalf("%s: %v", name, c.request.decodingIs)
		}
		c.release()
		for range 10 { // a pool gives what it holds to the goroutine that put it there
			if next := s.calls.Get().(*call); next == c {
				t.Errorf("%s: a call of %d bytes, %d descriptors, %d entries was kept", name, cap(c.request.buf), cap(c.request.Descriptors), cap(c.request.entries))
			}
		}
	}
}

func manyEntries(n int) []byte {
	content := bytes.Repeat([]byte("\x0a\x00"), n)
	return appendMessage(nil, 2, func(b []byte) []byte { return append(b, content...) })
}
