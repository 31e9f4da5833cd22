package rls

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// treeFile is a domain of three levels with 10,000 nodes, 100 of them patterns.
func treeFile() []byte {
	var b strings.Builder
	b.WriteString("domain: shop\ndescriptors:\n")
	for tenant := range 20 {
		fmt.Fprintf(&b, "- key: tenant\n  value: tenant-%02d\n  descriptors:\n", tenant)
		for route := range 25 {
			value := fmt.Sprintf("/api/v1/route-%02d", route)
			if route < 5 {
				value = fmt.Sprintf("/files/%02d-*", route)
			}
			fmt.Fprintf(&b, "  - key: route\n    value: %s\n    descriptors:\n    - {key: user, rate_limit: {unit: minute, requests_per_unit: 4000000000}}\n", value)
			for user := range 18 {
				fmt.Fprintf(&b, "    - {key: user, value: user-%02d, rate_limit: {unit: minute, requests_per_unit: 4000000000}}\n", user)
			}
		}
	}
	return []byte(b.String())
}

// treeServer serves treeFile, and returns n requests, a part of which goes through patterns.
func treeServer(tb testing.TB, n int) (s *Service, requests [][]byte) {
	tb.Helper()
	s, err := New(Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}, MaxSeries: 10_000},
		buckets.New(buckets.Config{}, limits.NewClock(), &limits.Current{}), prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	set := descriptors.Update(nil, map[string]descriptors.File{"tree.yaml": {Body: treeFile()}})
	if err := set.Err(); err != nil {
		tb.Fatal(err)
	}
	s.Serve(set)
	random := rand.New(rand.NewPCG(1, 2))
	for range n {
		route := fmt.Sprintf("/api/v1/route-%02d", 5+random.IntN(20))
		if random.IntN(2) == 0 {
			route = fmt.Sprintf("/files/%02d-%d", random.IntN(5), random.IntN(100))
		}
		requests = append(requests, encodeRequest(tb, "tenant", fmt.Sprintf("tenant-%02d", random.IntN(20)), "route", route, "user", fmt.Sprintf("user-%02d", random.IntN(25))))
	}
	return s, requests
}

func encodeRequest(tb testing.TB, keysAndValues ...string) []byte {
	tb.Helper()
	d := &commonv3.RateLimitDescriptor{}
	for i := 0; i < len(keysAndValues); i += 2 {
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: keysAndValues[i], Value: keysAndValues[i+1]})
	}
	out, err := proto.Marshal(&ratelimitv3.RateLimitRequest{Domain: "shop", Descriptors: []*commonv3.RateLimitDescriptor{d}})
	if err != nil {
		tb.Fatal(err)
	}
	return out
}

// BenchmarkFileDecision is a decision over a tree of three levels with 10,000 nodes and 100 patterns, of
// a request that is decoded: its limit, its counter, the hits of each rule, the verdict.
func BenchmarkFileDecision(b *testing.B) {
	for _, n := range []int{1, 1000} {
		b.Run(fmt.Sprintf("keys=%d", n), func(b *testing.B) {
			s, requests := treeServer(b, n)
			entries := make([][]buckets.Entry, n)
			for i := range entries {
				var r Request
				if err := r.UnmarshalWire(requests[i]); err != nil {
					b.Fatal(err)
				}
				entries[i] = r.Descriptors[0].Entries
			}
			c := &call{service: s} // each request is written over the one before, as the decoder does it
			if err := c.UnmarshalWire(requests[0]); err != nil {
				b.Fatal(err)
			}
			domain, err := s.fileDomain("shop")
			if err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				c.request.Descriptors[0] = buckets.Descriptor{Entries: entries[i%n], Hits: 1}
				if err := s.decideFile(b.Context(), c, domain, s.engine.NowNS()); err != nil || c.decision.Code != buckets.OK || c.matched.rules[0].Rule == nil {
					b.Fatalf("%v %v %+v", err, c.decision.Code, c.matched.rules)
				}
			}
		})
	}
}

// BenchmarkFileRequest is the whole, from the bytes of the request to those of the answer.
func BenchmarkFileRequest(b *testing.B) {
	s, requests := treeServer(b, 1000)
	var answer []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := s.calls.Get().(*call)
		if err := c.UnmarshalWire(requests[i%len(requests)]); err != nil {
			b.Fatal(err)
		}
		if err := s.decide(b.Context(), c, 0); err != nil {
			b.Fatal(err)
		}
		answer, _ = c.MarshalWire(answer[:0])
	}
}
