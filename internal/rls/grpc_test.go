package rls_test

import (
	"context"
	"net"
	"testing"
	"testing/synctest"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/tps-agent/ratelimitd/internal/rls"
)

const shouldRateLimit = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

// bytesCodec sends and receives messages as they are. Client and server of these tests each have
// their own codec, as Envoy and ratelimitd have.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

// connect serves f over grpc and returns a client. Within synctest both live in its time.
func connect(t *testing.T, f *server) *grpc.ClientConn {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	s := grpc.NewServer(grpc.ForceServerCodecV2(rls.Codec{}))
	f.service.Register(s)
	healthpb.RegisterHealthServer(s, healthpb.UnimplementedHealthServer{})
	served := make(chan error)
	go func() { served <- s.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///rls", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return conn
}

// overTransport is the surface of a real grpc server and client.
func overTransport(conn *grpc.ClientConn) surface {
	return surface{"transport", func(tb testing.TB, _ *server, ctx context.Context, r *ratelimitv3.RateLimitRequest) answer {
		tb.Helper()
		var out []byte
		if err := conn.Invoke(ctx, shouldRateLimit, encode(r), &out, grpc.ForceCodecV2(bytesCodec{})); err != nil {
			st := status.Convert(err)
			return answer{code: st.Code(), message: st.Message()}
		}
		a := answer{response: &ratelimitv3.RateLimitResponse{}}
		if err := proto.Unmarshal(out, a.response); err != nil {
			tb.Errorf("request %v: answer %x is no RateLimitResponse: %v", r, out, err)
		}
		return a
	}}
}

// overWire tells steps to a server over a real grpc connection.
func overWire(t *testing.T, c conformance) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, c.setup, c.rows...)
		c.tellTo(t, f, overTransport(connect(t, f)))
	})
}

func TestGRPCStockClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, row("pay", "", 2))
		client := ratelimitv3.NewRateLimitServiceClient(connect(t, f))
		for i, want := range []*ratelimitv3.RateLimitResponse{
			ok(left("pay", 2, 1, 1), meta("pay", "pay")),
			over(refused("pay", 2, 1), retryAfter("1"), meta("pay", "pay")),
		} {
			got, err := client.ShouldRateLimit(t.Context(), askHits(uint32(i)+1, gw("pay")))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, protocmp.Transform()); diff != "" {
				t.Errorf("answer %d, -want +got: %s", i, diff)
			}
		}
	})
}

// TestGRPCOtherServices calls a service whose messages are plain protobuf through the codec.
func TestGRPCOtherServices(t *testing.T) {
	conn := connect(t, newServer(t, setup{}))
	_, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "ratelimit"})
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("a call of another service: %v, want Unimplemented by its own handler", err)
	}
}

// TestGRPCInvalidUTF8 sends what a client of Envoy can: no byte of a value may be an error.
func TestGRPCInvalidUTF8(t *testing.T) {
	overWire(t, conformance{rows: rows(row("pay", "", 3, per("user"))), steps: []step{
		at(0, ask(gw("pay", "user", "\xff\xfe", "\xc3", "\xed\xa0\x80")), ok(left("pay{user}", 3, 2, 1), meta("pay", "pay{user}"))),
		at(0, ask(ep("pay", "\x80", "user", "\xff\xfe")), ok(left("pay{user}", 3, 1, 1), metaOf("pay", "\uFFFD", "pay{user}"))),
		at(0, ask(hits(2, ep("pay", "\xf8\x88", "user", "\xff\xfe"))), over(refused("pay{user}", 3, 1), retryAfter("1"), metaOf("pay", "\uFFFD", "pay{user}"))),
		at(0, askIn("\xffshop", gw("\xff")), ok(left("default", 100, 9, 1), metadata("domain", "\uFFFDshop", "gateway", "\uFFFD", "limit", "default"))),
	}})
}

// TestGRPCEveryByte sends each byte as a gateway, an endpoint and a value of a per key.
func TestGRPCEveryByte(t *testing.T) {
	f := newServer(t, setup{}, row("*", "*", 1e9), row("*", "", 1e9, per("user")))
	wire := overTransport(connect(t, f))
	for b := range 256 {
		name := string([]byte{byte(b)})
		got := wire.ask(t, f, t.Context(), ask(ep(name, name, "user", name, name, name)))
		if got.response.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
			t.Errorf("byte %#02x: %v %v %s, want OK", b, got.response, got.code, got.message)
		}
	}
}

func TestGRPCHold(t *testing.T) {
	overWire(t, conformance{rows: rows(tenth), steps: []step{
		spend(0, 1, ask(gw("pay"))),
		held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
		held(0, 200*ms, ask(gw("pay")), ok(turn(200*ms)...)),
	}})
}

func TestGRPCCallerLeaves(t *testing.T) {
	overWire(t, conformance{rows: rows(tenth), steps: []step{
		spend(0, 1, ask(gw("pay"))),
		gone(0, 50*ms, ask(gw("pay"))),
		held(0, 100*ms, ask(gw("pay")), ok(turn(100*ms)...)),
	}})
}

// TestGRPCDeadline has deadlines just below and at what a turn after 100 ms needs. One that
// passes while the request is held becomes a refusal before it, never an error.
func TestGRPCDeadline(t *testing.T) {
	overWire(t, conformance{rows: rows(tenth), steps: []step{
		spend(0, 1, ask(ep("pay", "a"))),
		within(104*ms, at(0, ask(ep("pay", "a")), over(refused("pay", 10, 1), retryAfter("1"), metaOf("pay", "a", "pay")))),
		within(105*ms, held(0, 100*ms, ask(ep("pay", "a")), ok(turnOf("a", 100*ms)...))),
		within(150*ms, held(0, 145*ms, ask(ep("pay", "b")), over(refused("pay", 10, 1), retryAfter("1"), metaOf("pay", "b", "pay"), waited(145*ms)))),
	}})
}

func TestGRPCErrors(t *testing.T) {
	overWire(t, conformance{setup: setup{noLimits: true}, steps: []step{
		fails(0, ask(gw("pay")), codes.Unavailable, "no limits have been loaded yet"),
		fails(0, askIn("", gw("pay")), codes.InvalidArgument, "domain is empty"),
		fails(0, ask(), codes.InvalidArgument, "descriptors is empty"),
		fails(0, ask(hits(1e9+1, gw("pay"))), codes.InvalidArgument, "descriptors[0].hits_addend 1000000001"),
		fails(0, ask(gw("pay"), bring(1, 9, gw("pay"))), codes.InvalidArgument, "descriptors[1].limit.unit 9"),
		change(0),
		at(0, ask(gw("pay")), ok(left("default", 100, 9, 1), meta("pay", "default"))),
	}})
}

func TestGRPCNoMessage(t *testing.T) {
	conn := connect(t, newServer(t, setup{}))
	for _, raw := range []string{"", "\xff", "\x0a\x09shop", "\x12\x03\x0a\x01\xff", "\x07"} {
		var out []byte
		err := conn.Invoke(t.Context(), shouldRateLimit, []byte(raw), &out, grpc.ForceCodecV2(bytesCodec{}))
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("bytes %x: %x %v, want InvalidArgument", raw, out, err)
		}
	}
}

// TestGRPCMetrics counts what a real client did.
func TestGRPCMetrics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, tenth)
		c := conformance{steps: []step{
			spend(0, 1, ask(ep("pay", "a"))),
			held(0, 100*ms, ask(ep("pay", "a")), ok(turnOf("a", 100*ms)...)),
			within(10*ms, at(0, ask(ep("pay", "a")), over(refused("pay", 10, 1), retryAfter("1"), metaOf("pay", "a", "pay")))),
			gone(110*ms, 120*ms, ask(ep("pay", "b"))),
			fails(200*ms, ask(), codes.InvalidArgument, "descriptors"),
		}}
		c.tellTo(t, f, overTransport(connect(t, f)))
		synctest.Wait()
		want := map[string]float64{
			"code=ok,domain=shop,endpoint=a,gateway=pay":         2,
			"code=over_limit,domain=shop,endpoint=a,gateway=pay": 1,
		}
		if diff := cmp.Diff(want, f.series(t, "ratelimitd_decisions_total")); diff != "" {
			t.Errorf("decisions, -want +got: %s", diff)
		}
		want = map[string]float64{"code=InvalidArgument": 1, "code=Unavailable": 0, "code=Canceled": 1, "code=DeadlineExceeded": 0}
		if diff := cmp.Diff(want, f.series(t, "ratelimitd_request_errors_total")); diff != "" {
			t.Errorf("errors, -want +got: %s", diff)
		}
		for family, want := range map[string]float64{"ratelimitd_hold_duration_seconds": 1, "ratelimitd_waiters": 0, "ratelimitd_decision_duration_seconds": 3} {
			if got := f.series(t, family)[""]; got != want {
				t.Errorf("%s is %v, want %v", family, got, want)
			}
		}
	})
}

// TestGRPCConcurrent asks from many callers at once: a limit lets through what it has, and no
// answer is another's.
func TestGRPCConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, row("*", "", 20, burst(20)))
		wire := overTransport(connect(t, f))
		const callers, each = 8, 10
		admitted := make(chan string, 2*callers*each)
		for caller := range callers {
			gateway := []string{"pay", "web"}[caller%2]
			go func() {
				for range each {
					a := wire.ask(t, f, t.Context(), ask(gw(gateway)))
					if got := a.response.GetDynamicMetadata().GetFields()["gateway"].GetStringValue(); got != gateway {
						t.Errorf("asked for %s, answered %s: %v %v", gateway, got, a.response, a.message)
					}
					if a.response.GetOverallCode() == ratelimitv3.RateLimitResponse_OK {
						admitted <- gateway
					}
				}
			}()
		}
		synctest.Wait()
		close(admitted)
		got := map[string]int{}
		for gateway := range admitted {
			got[gateway]++
		}
		if diff := cmp.Diff(map[string]int{"pay": 20, "web": 20}, got); diff != "" {
			t.Errorf("admitted, -want +got: %s", diff)
		}
	})
}
