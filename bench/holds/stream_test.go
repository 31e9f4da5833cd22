//go:build e2e

package holds

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ratelimitv3common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const (
	connections = 2
	streamLanes = 1000
)

func streamTable(b *testing.B) string {
	b.Helper()
	s := newServed(b)
	before := s.Memory(b)
	began := time.Now()
	s.hold(b)
	took := time.Since(began)
	share := cpuShare(b, s.Server.PID())
	held := s.Memory(b)
	each := float64(held.Now-before.Now) / streams
	began = time.Now()
	s.hangUp(b)
	left := time.Since(began)
	b.ReportMetric(each, "RSS-B/stream")

	body := fmt.Sprintf("## The real binary, %d requests over %d gRPC connections in %d lanes\n\n", streams, connections, streamLanes)
	body += row("RSS before", "RSS with all held", "bytes for each", "µs to queue one", "CPU while nothing is granted", "target", "all hang up: until nobody waits") + row("---", "---", "---", "---", "---", "---", "---")
	return body + row(measure.MiB(before.Now), measure.MiB(held.Now), fmt.Sprintf("%.0f", each), fmt.Sprintf("%.1f", took.Seconds()*1e6/streams), fmt.Sprintf("%.1f %%", share), "< 5 %", left.Round(time.Millisecond))
}

// served is a ratelimitd whose queue does not move.
type served struct {
	*measure.Ratelimitd
	clients []ratelimitv3.RateLimitServiceClient
	ctx     context.Context //nolint:containedctx // of all that wait
	leave   context.CancelFunc
	waiting sync.WaitGroup
}

func newServed(b *testing.B) *served {
	b.Helper()
	dir := b.TempDir()
	file := fmt.Sprintf("limits:\n- {gateway: %s, max_tps: %d, burst: %d, max_wait_ms: %d}\n", gateway, rate, burst, maxWaitMS)
	if err := os.WriteFile(filepath.Join(dir, "limits.yaml"), []byte(file), 0o600); err != nil {
		b.Fatal(err)
	}
	s := &served{Ratelimitd: measure.Start(b, measure.Build(b), dir)}
	s.AwaitReady(b)
	for range connections {
		conn, err := grpc.NewClient("passthrough:///"+s.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		s.clients = append(s.clients, ratelimitv3.NewRateLimitServiceClient(conn))
	}
	s.ctx, s.leave = context.WithCancel(b.Context())
	if answer, err := s.clients[0].ShouldRateLimit(s.ctx, message("", burst)); err != nil || answer.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		b.Fatalf("emptying the bucket: %v, %v", answer, err)
	}
	s.join(b, 0, message("", burst))
	s.await(b, 1)
	return s
}

func message(endpoint string, hits uint32) *ratelimitv3.RateLimitRequest {
	entries := []*ratelimitv3common.RateLimitDescriptor_Entry{{Key: "gateway", Value: gateway}}
	if endpoint != "" {
		entries = append(entries, &ratelimitv3common.RateLimitDescriptor_Entry{Key: "endpoint", Value: endpoint})
	}
	return &ratelimitv3.RateLimitRequest{
		Domain: "edge", HitsAddend: hits, Descriptors: []*ratelimitv3common.RateLimitDescriptor{{Entries: entries}},
	}
}

// join makes a call wait.
func (s *served) join(b *testing.B, connection int, m *ratelimitv3.RateLimitRequest) {
	b.Helper()
	s.waiting.Go(func() {
		answer, err := s.clients[connection].ShouldRateLimit(s.ctx, m)
		if s.ctx.Err() == nil { // once some hang up, others get the tokens that came meanwhile
			b.Errorf("a request was answered: %v, %v", answer, err)
		}
	})
}

func (s *served) await(b *testing.B, n float64) {
	b.Helper()
	testenv.Eventually(b, time.Minute, "requests in the queue", func() error {
		if got := s.Metric(b, "ratelimitd_waiters"); got != n {
			return fmt.Errorf("%g wait, want %g", got, n)
		}
		return nil
	})
}

func (s *served) hold(b *testing.B) {
	b.Helper()
	for i := range streams {
		s.join(b, i%connections, message(endpointOf(i, streamLanes), 1))
	}
	s.await(b, streams+1)
}

func (s *served) hangUp(b *testing.B) {
	b.Helper()
	s.leave()
	s.waiting.Wait()
	s.await(b, 0)
}
