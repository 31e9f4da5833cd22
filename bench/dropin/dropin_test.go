//go:build e2e

package dropin

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var (
	rounds = flag.Int("rounds", 5, "rounds of each service")
	round  = flag.Duration("round", 3*time.Second, "length of a round")
	out    = flag.String("out", "", "write the results to this Markdown file")
)

func TestMain(m *testing.M) {
	flag.Parse()
	testenv.Main(m)
}

const (
	connections = 2
	callers     = 16 // of each connection, each with one request at a time
	users       = 1000
)

// service is one of the two, and what was measured of it.
type service struct {
	name  string
	pids  []int // of all its processes
	conns [connections]*grpc.ClientConn
	found []figures
}

// figures are those of one round.
type figures struct {
	perSecond float64
	p50, p99  time.Duration
	cpu       time.Duration // for each request
}

func newService(b *testing.B, name, addr string, pids ...int) *service {
	b.Helper()
	s := &service{name: name, pids: pids}
	for i := range s.conns {
		conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(&measure.RawCodec{})))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		s.conns[i] = conn
	}
	return s
}

// BenchmarkBesideEnvoyproxyRatelimit has two descriptors in each request: one limit for all, one for each
// user.
func BenchmarkBesideEnvoyproxyRatelimit(b *testing.B) {
	dir := filepath.Join(b.TempDir(), "config")
	file := "domain: shop\ndescriptors:\n- key: route\n  value: /pay\n  rate_limit: {unit: hour, requests_per_unit: 4000000000}\n  descriptors:\n  - {key: user, rate_limit: {unit: hour, requests_per_unit: 4000000000}}\n"
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte(file), 0o600); err != nil {
		b.Fatal(err)
	}
	requests := makeRequests(b)
	binary := measure.Build(b)
	for b.Loop() {
		peer := testenv.StartPeer(b, dir)
		ours := measure.Start(b, binary, b.TempDir(), "TPS_CONFIG_DIR="+dir)
		ours.AwaitReady(b)
		all := []*service{newService(b, "envoyproxy/ratelimit", peer.Addr, peer.PID(), peer.Redis.PID()), newService(b, "ratelimitd", ours.GRPCAddr, ours.Server.PID())}
		for i := range 2 * *rounds {
			all[i%2].measure(b, requests, *round)
		}
		report(b, all)
	}
}

func makeRequests(b *testing.B) (all [][]byte) {
	b.Helper()
	entry := func(key, value string) *commonv3.RateLimitDescriptor_Entry {
		return &commonv3.RateLimitDescriptor_Entry{Key: key, Value: value}
	}
	for i := range users {
		body, err := proto.Marshal(&ratelimitv3.RateLimitRequest{Domain: "shop", Descriptors: []*commonv3.RateLimitDescriptor{
			{Entries: []*commonv3.RateLimitDescriptor_Entry{entry("route", "/pay")}},
			{Entries: []*commonv3.RateLimitDescriptor_Entry{entry("route", "/pay"), entry("user", fmt.Sprintf("user-%04d", i))}},
		}})
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, body)
	}
	return all
}

func (s *service) cpu(b *testing.B) (sum time.Duration) {
	b.Helper()
	for _, pid := range s.pids {
		t, err := measure.CPUOf(pid)
		if err != nil {
			b.Fatal(err)
		}
		sum += t
	}
	return sum
}

// measure asks for one round, from all callers.
func (s *service) measure(b *testing.B, requests [][]byte, length time.Duration) {
	b.Helper()
	before := s.cpu(b)
	took := make([][]time.Duration, connections*callers)
	group, ctx := errgroup.WithContext(b.Context())
	began := time.Now()
	for i := range took {
		group.Go(func() (err error) {
			took[i], err = ask(ctx, s.conns[i%connections], requests, i, began.Add(length))
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatalf("%s: %v", s.name, err)
	}
	elapsed := time.Since(began)
	var all []time.Duration
	for _, one := range took {
		all = append(all, one...)
	}
	f := figures{
		perSecond: float64(len(all)) / elapsed.Seconds(), p50: measure.Quantile(all, 0.5), p99: measure.Quantile(all, 0.99),
		cpu: (s.cpu(b) - before) / time.Duration(len(all)),
	}
	s.found = append(s.found, f)
	b.Logf("%s: %.0f requests/s, p50 %s, p99 %s, %s of CPU each", s.name, f.perSecond, f.p50, f.p99, f.cpu)
}

// ask asks one request after the other until an instant, and returns how long each took.
func ask(ctx context.Context, conn *grpc.ClientConn, requests [][]byte, first int, until time.Time) (took []time.Duration, err error) {
	const method = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	ok := []byte{1 << 3, byte(ratelimitv3.RateLimitResponse_OK)} // overall_code is the first field
	var answer []byte
	for i := first * 37; ; i++ {
		began := time.Now()
		if began.After(until) {
			return took, nil
		}
		if err := conn.Invoke(ctx, method, requests[i%len(requests)], &answer); err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(answer, ok) {
			return nil, fmt.Errorf("the answer is not OK: %x", answer)
		}
		took = append(took, time.Since(began))
	}
}

func report(b *testing.B, all []*service) {
	b.Helper()
	var body strings.Builder
	fmt.Fprintf(&body, "Two descriptors in each request, a limit for all and one for each of %d users; %d connections with %d callers each, as fast as they are answered; %d rounds of %s by turns, medians.\n"+
		"CPU is that of the service, and of its Redis for envoyproxy/ratelimit. Client and servers share the machine.\n"+
		"The two do not do the same work: counters in Redis are those of all replicas, counters in memory are those of one.\n\n| service | requests/s | p50 | p99 | µs of CPU for each request |\n| --- | --- | --- | --- | --- |\n",
		users, connections, callers, *rounds, *round)
	var cpu [2]float64
	for i, s := range all {
		cpu[i] = median(s.found, func(f figures) float64 { return f.cpu.Seconds() * 1e6 })
		d := func(of func(figures) time.Duration) time.Duration {
			return time.Duration(median(s.found, func(f figures) float64 { return float64(of(f)) })).Round(time.Microsecond)
		}
		fmt.Fprintf(&body, "| %s | %.0f | %s | %s | %.1f |\n", s.name, median(s.found, func(f figures) float64 { return f.perSecond }),
			d(func(f figures) time.Duration { return f.p50 }), d(func(f figures) time.Duration { return f.p99 }), cpu[i])
	}
	b.ReportMetric(cpu[0]/cpu[1], "x-CPU-of-the-other")
	b.ReportMetric(0, "ns/op") // says nothing here
	fmt.Println("\n" + body.String())
	if *out == "" {
		return
	}
	head := measure.Head("ratelimitd in the place of envoyproxy/ratelimit", "go test -tags e2e -run '^$' -bench . -benchtime 1x -timeout 0 ./bench/dropin")
	if err := os.WriteFile(*out, []byte(head+body.String()), 0o600); err != nil {
		b.Fatal(err)
	}
}

func median(found []figures, of func(figures) float64) float64 {
	values := make([]float64, len(found))
	for i, f := range found {
		values[i] = of(f)
	}
	return measure.Quantile(values, 0.5)
}
