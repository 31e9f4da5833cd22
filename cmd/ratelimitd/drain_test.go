package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// decision is what a request has come to.
type decision struct {
	*ratelimitv3.RateLimitResponse
	err error
}

func (d decision) retryAfter() string {
	for _, h := range d.GetResponseHeadersToAdd() {
		if h.GetKey() == "retry-after" {
			return h.GetValue()
		}
	}
	return ""
}

func ask(ctx context.Context, conn *grpc.ClientConn, gateway string, hits uint32) decision {
	resp, err := ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx, &ratelimitv3.RateLimitRequest{
		Domain: "edge", HitsAddend: hits,
		Descriptors: []*commonv3.RateLimitDescriptor{{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "gateway", Value: gateway}}}},
	})
	return decision{resp, err}
}

// hold begins a request that has to wait, and returns where its answer will be.
func hold(tb testing.TB, conn *grpc.ClientConn, gateway string, hits uint32) <-chan decision {
	tb.Helper()
	answer := make(chan decision, 1)
	go func() { answer <- ask(tb.Context(), conn, gateway, hits) }()
	return answer
}

func (d *daemon) waitersAre(tb testing.TB, n int) {
	tb.Helper()
	testenv.Eventually(tb, patience, "waiting", func() error {
		if _, body := get(tb, d.api+"/metrics"); !strings.Contains(body, fmt.Sprintf("\nratelimitd_waiters %d\n", n)) {
			return fmt.Errorf("there are not %d waiters", n)
		}
		return nil
	})
}

// watchHealth returns what waits for the next status of a service.
func watchHealth(tb testing.TB, conn *grpc.ClientConn, service string) (next func() (healthpb.HealthCheckResponse_ServingStatus, error)) {
	tb.Helper()
	stream, err := healthpb.NewHealthClient(conn).Watch(tb.Context(), &healthpb.HealthCheckRequest{Service: service})
	if err != nil {
		tb.Fatal(err)
	}
	return func() (healthpb.HealthCheckResponse_ServingStatus, error) {
		m, err := stream.Recv()
		return m.GetStatus(), err
	}
}

// TestDrain stops a server that holds two requests, of which one can be served in time.
func TestDrain(t *testing.T) {
	// Health says no for 5 s, then those may stay who can be served within 25 s less 5 s for the
	// recorder and 0.5 s for the answers: one needs 7 s, the other a minute. Between these times lie
	// some seconds, which a busy machine may lose.
	d := start(t, "TPS_DRAIN_DELAY=5s", "TPS_DRAIN_TIME=25s")
	conn := dial(t, d.grpcAddr)
	for gateway, burst := range map[string]string{"quick": "7", "slow": "100"} {
		d.ratelimitd(t, "limits", "set", "--gateway="+gateway, "--max-tps=1", "--burst="+burst, "--max-wait-ms=600000").wants(t, 0, "", "")
	}
	for gateway, all := range map[string]uint32{"quick": 7, "slow": 100} {
		if got := ask(t.Context(), conn, gateway, all); got.err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
			t.Fatalf("%s: %+v", gateway, got)
		}
	}
	quick, slow := hold(t, conn, "quick", 7), hold(t, conn, "slow", 60)
	d.waitersAre(t, 2)
	watches := map[string]func() (healthpb.HealthCheckResponse_ServingStatus, error){}
	for _, service := range []string{"", "ratelimit"} {
		watches[service] = watchHealth(t, conn, service)
		if got, err := watches[service](); err != nil || got != healthpb.HealthCheckResponse_SERVING {
			t.Fatalf("health of %q before the stop: %v, %v", service, got, err)
		}
	}

	d.stop()
	for service, next := range watches {
		if got, err := next(); err != nil || got != healthpb.HealthCheckResponse_NOT_SERVING {
			t.Errorf("health of %q after the stop: %v, %v", service, got, err)
		}
	}
	// Everything is served as before, and nothing makes health say yes again.
	if got := ask(t.Context(), conn, "other", 1); got.err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("a request in the delay: %+v", got)
	}
	d.ratelimitd(t, "limits", "set", "--gateway=late", "--max-tps=5").wants(t, 0, "late", "")
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("health after a change of limits: %v, %v", got, err)
	}
	if code, body := get(t, d.api+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "the server is stopping") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	select {
	case early := <-slow:
		t.Errorf("the slow request was answered within the delay: %+v", early)
	default:
	}

	if got := <-slow; got.err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OVER_LIMIT || got.retryAfter() == "" {
		t.Errorf("who cannot be served in time: %+v, want OVER_LIMIT with retry-after", got)
	}
	if got := <-quick; got.err != nil || got.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
		t.Errorf("who can be served in time: %+v, want OK", got)
	}
	for service, next := range watches { // they would keep the server from its end
		if _, err := next(); status.Code(err) != codes.Canceled {
			t.Errorf("the watch of %q ended with %v", service, err)
		}
	}
	if code := d.wait(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	if log := d.stderr.String(); !strings.Contains(log, `"msg":"stopping","delay":5000000000,"at_most":25000000000`) || strings.Contains(log, "had not ended") {
		t.Errorf("the log is\n%s", log)
	}
}

// TestDrainIsBounded: a client that does not go away cannot keep the process.
func TestDrainIsBounded(t *testing.T) {
	d := start(t, "TPS_DRAIN_TIME=1s")
	stream, err := reflectionpb.NewServerReflectionClient(dial(t, d.grpcAddr)).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&reflectionpb.ServerReflectionRequest{MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	d.stop()
	if code := d.wait(); code != 0 {
		t.Errorf("serve ended with %d", code)
	}
	logged(t, d.stderr, "some requests had not ended when the drain time was over")
	if _, err := stream.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream ended with %v", err)
	}
}

// TestNothingIsWaitedForWithoutBound: neither at the stop nor at the end.
func TestNothingIsWaitedForWithoutBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hangs := make(chan struct{})
		defer close(hangs)
		began := time.Now()
		within(time.Second, func() { <-hangs })
		if took := time.Since(began); took != time.Second {
			t.Errorf("what hangs was waited for %s, want 1s", took)
		}
		within(time.Hour, func() {})
		if took := time.Since(began); took != time.Second {
			t.Errorf("what ends was waited for %s, want 0", took-time.Second)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := until(ctx, func() error { <-hangs; return io.EOF }); err != nil {
			t.Errorf("what hangs ended with %v, want nil", err)
		}
		if err := until(t.Context(), func() error { return io.EOF }); !errors.Is(err, io.EOF) {
			t.Errorf("what fails ended with %v, want EOF", err)
		}
		var logs testenv.Logs
		s := &server{cfg: config{drainTime: 25 * time.Second}, log: slog.New(slog.NewTextHandler(&logs, nil))}
		began = time.Now()
		if err := s.untilFlushed(ctx, "the limits", func(context.Context) error { <-hangs; return io.EOF }); err != nil {
			t.Errorf("what hangs at its last write ended with %v, want nil", err)
		}
		if took, want := time.Since(began), 4*time.Second; took != want || !strings.Contains(logs.String(), `level=WARN msg="the data directory hangs`) {
			t.Errorf("the last write was waited for %s, want %s; logs %s", took, want, logs.String())
		}
		if err := s.untilFlushed(t.Context(), "the limits", func(context.Context) error { return io.EOF }); !errors.Is(err, io.EOF) {
			t.Errorf("a part that fails ended with %v, want EOF", err)
		}
	})
}

// TestReserve: what comes after the requests is within the drain time too.
func TestReserve(t *testing.T) {
	type parts struct{ reserve, sinks, spool, patience time.Duration }
	for drainTime, want := range map[time.Duration]parts{
		time.Second:      {200 * time.Millisecond, 90 * time.Millisecond, 30 * time.Millisecond, 40 * time.Millisecond},
		25 * time.Second: {5 * time.Second, 3 * time.Second, time.Second, 500 * time.Millisecond},
		2 * time.Hour:    {5 * time.Second, 3 * time.Second, time.Second, 500 * time.Millisecond},
	} {
		s := server{cfg: config{drainTime: drainTime}}
		sinks, spool := s.flushTimes()
		if got := (parts{s.reserve(), sinks, spool, s.patience()}); got != want || got.sinks+got.spool+2*got.patience != got.reserve {
			t.Errorf("of %s: %+v, want %+v", drainTime, got, want)
		}
	}
}
