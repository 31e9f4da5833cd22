package capacity_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	commonpb "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rlspb "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const many = 100_000

// BenchmarkLimits: memory of rows, read from Postgres while ratelimitd runs.
func BenchmarkLimits(b *testing.B) {
	for b.Loop() {
		address := testenv.Database(b)
		d := start(b, "", "TPS_DATABASE_URL="+address)
		d.await(b, "ratelimitd_postgres_up", 1)
		before := d.memory(b)
		began := time.Now()
		_, err := testenv.Connect(b, address).Exec(b.Context(), `INSERT INTO tps_limits (gateway, endpoint, max_tps)
			SELECT 'gateway-' || n % 1000, 'endpoint-' || n, 100 FROM generate_series(1, $1) n`, many)
		if err != nil {
			b.Fatal(err)
		}
		d.await(b, "ratelimitd_limits", many)
		b.ReportMetric(time.Since(began).Seconds(), "s-until-in-force")
		d.reportMemory(b, before, many)
	}
}

// BenchmarkLimitsFile: the same from the limits file.
func BenchmarkLimitsFile(b *testing.B) {
	for b.Loop() {
		d := start(b, "")
		before := d.memory(b)
		var file strings.Builder
		file.WriteString("limits:\n")
		for n := range many {
			fmt.Fprintf(&file, "- {gateway: gateway-%d, endpoint: endpoint-%d, max_tps: 100}\n", n%1000, n)
		}
		if err := os.WriteFile(d.rows, []byte(file.String()), 0o600); err != nil {
			b.Fatal(err)
		}
		d.await(b, "ratelimitd_limits", many)
		d.reportMemory(b, before, many)
	}
}

func request(endpoint string, hits uint32) *rlspb.RateLimitRequest {
	return &rlspb.RateLimitRequest{Domain: "edge", HitsAddend: hits, Descriptors: []*commonpb.RateLimitDescriptor{{
		Entries: []*commonpb.RateLimitDescriptor_Entry{{Key: "gateway", Value: "shop"}, {Key: "endpoint", Value: endpoint}},
	}}}
}

// ask sends a request for each of n endpoints, and fails where one is not admitted.
func ask(b *testing.B, d *daemon, name string, n int) {
	b.Helper()
	const clients = 64
	client := rlspb.NewRateLimitServiceClient(d.dial(b, 1)[0])
	var group sync.WaitGroup
	for first := range clients {
		group.Go(func() {
			for i := first; i < n; i += clients {
				answer, err := client.ShouldRateLimit(b.Context(), request(fmt.Sprintf("%s-%d", name, i), 500_000))
				if err != nil || answer.GetOverallCode() != rlspb.RateLimitResponse_OK {
					b.Errorf("endpoint %d: %v, %v", i, answer, err)
					return
				}
			}
		})
	}
	group.Wait()
}

// template gives each endpoint a bucket of its own, half of which one request uses for days.
const template = `{gateway: shop, endpoint: "*", max_tps: 1, burst: 1000000}`

// BenchmarkBuckets: memory of live buckets of names that no row writes out, without their series.
func BenchmarkBuckets(b *testing.B) {
	for b.Loop() {
		d := start(b, template, "TPS_MAX_SERIES=1")
		ask(b, d, "warm", 100)
		before := d.memory(b)
		ask(b, d, "endpoint", many)
		d.await(b, "ratelimitd_buckets_bounded", many)
		d.reportMemory(b, before, many)
	}
}

// BenchmarkHeld: memory of requests that are held over gRPC, in ratelimitd.
func BenchmarkHeld(b *testing.B) {
	const waiting, connections = 10_000, 4
	for b.Loop() {
		d := start(b, "{gateway: shop, endpoint: pay, max_tps: 6, burst: 1, max_wait_ms: 1800000}")
		conns := d.dial(b, connections)
		for _, conn := range conns {
			call(b, conn)
		}
		before := d.memory(b)
		ctx, cancel := context.WithCancel(b.Context())
		var group sync.WaitGroup
		for i := range waiting + 500 { // some have their turn meanwhile
			client := rlspb.NewRateLimitServiceClient(conns[i%connections])
			group.Go(func() { _, _ = client.ShouldRateLimit(ctx, request("pay", 1)) }) // most end with ctx
		}
		d.await(b, "ratelimitd_waiters", waiting)
		d.reportMemory(b, before, waiting)
		cancel()
		group.Wait()
	}
}

// call makes a connection ready.
func call(b *testing.B, conn grpc.ClientConnInterface) {
	b.Helper()
	if _, err := rlspb.NewRateLimitServiceClient(conn).ShouldRateLimit(b.Context(), request("warm", 1)); err != nil {
		b.Fatal(err)
	}
}
