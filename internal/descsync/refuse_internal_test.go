package descsync

import (
	"fmt"
	"log/slog"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
)

// A server that answers each refusal at once with the next bad response gets one answer a second, also
// where a good one comes in between; a single refusal is told at once.
func TestRefusalsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		published := 0
		x, err := NewXDS(XDSConfig{Server: "xds:1", Publish: func(*descriptors.Set) { published++ }}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		response := func(version int, key string) *discoveryv3.DiscoveryResponse {
			resource, err := anypb.New(&ratelimitv3.RateLimitConfig{Name: "a", Domain: "a", Descriptors: []*ratelimitv3.RateLimitDescriptor{{Key: key}}})
			if err != nil {
				t.Fatal(err)
			}
			return &discoveryv3.DiscoveryResponse{TypeUrl: typeURL, VersionInfo: strconv.Itoa(version), Resources: []*anypb.Any{resource}}
		}
		start := time.Now()
		answer := x.take(t.Context(), response(0, ""))
		if took := time.Since(start); answer.GetErrorDetail() == nil || took != 0 {
			t.Errorf("the first refusal after %v: %v", took, answer)
		}
		for i := range 10 {
			x.take(t.Context(), response(2*i+1, fmt.Sprintf("k%d", i)))
			x.take(t.Context(), response(2*i+2, ""))
		}
		if took := time.Since(start); took != 10*refusedPause || published != 10 {
			t.Errorf("10 more refusals and %d good responses took %v", published, took)
		}
		if got := testutil.ToFloat64(x.metrics.errors); got != 11 { // each is news after a good one
			t.Errorf("%v errors are counted, want 11", got)
		}
		x.take(t.Context(), response(50, "k9"))
		if published != 10 || x.version != "50" {
			t.Errorf("the same resources under another version: published %d times, version %s", published, x.version)
		}
		for range 2 {
			x.take(t.Context(), response(51, ""))
		}
		if got := testutil.ToFloat64(x.metrics.errors); got != 12 {
			t.Errorf("%v errors are counted after the same bad response twice, want 12", got)
		}
		x.take(t.Context(), response(52, "k9")) // which changes nothing
		x.take(t.Context(), response(53, ""))
		if got := testutil.ToFloat64(x.metrics.errors); got != 13 {
			t.Errorf("%v errors are counted, want 13", got)
		}
	})
}
