package rls

import (
	"bytes"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// twoLevelServer is a Service with limits on two levels, and the bytes of a request for them.
func twoLevelServer(tb testing.TB, maxTPS int64, hits uint32) (s *Service, request []byte) {
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
	s, err = New(Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}, ResponseHeaders: true, MaxSeries: 10}, engine, prometheus.NewRegistry())
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

// TestPoolIsBounded gives back calls that were large: their memory is not kept for the next.
func TestPoolIsBounded(t *testing.T) {
	for name, request := range map[string][]byte{
		"many bytes":       append([]byte("\x0a\x80\x80\x08"), bytes.Repeat([]byte{'x'}, 2*maxPooledRequest)...),
		"many descriptors": bytes.Repeat([]byte("\x12\x00"), 2*maxPooledItems),
		"many entries":     manyEntries(2 * maxPooledItems),
	} {
		s, _ := twoLevelServer(t, 1, 1)
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
