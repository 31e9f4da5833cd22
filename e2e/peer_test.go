//go:build e2e

package e2e_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// guesser makes files and requests that both services have to understand alike: what is a deviation on
// purpose (docs/descriptors.md) does not come in them, and nothing that newer versions of
// envoyproxy/ratelimit understand otherwise than the one that is installed: quota_mode, a star within a
// value.
type guesser struct {
	*rand.Rand

	names int
}

func (g *guesser) pick(from ...string) string { return from[g.IntN(len(from))] }

func (g *guesser) chance(percent int) bool { return g.IntN(100) < percent }

// file is a domain of random rules. All windows are years, so that none ends meanwhile.
func (g *guesser) file(domain string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "domain: %s\ndescriptors:\n", domain)
	g.level(&b, "", 0)
	return b.String()
}

func (g *guesser) level(b *strings.Builder, indent string, depth int) {
	seen := map[string]bool{}
	for range 3 + g.IntN(5) {
		key, value := g.key(), g.pick("", "v1", "v2", "v3", "v*", "x*", "x1*", "*")
		if seen[key+value] {
			continue
		}
		seen[key+value] = true
		fmt.Fprintf(b, "%s- key: %s\n", indent, key)
		indent := indent + "  "
		if value != "" {
			fmt.Fprintf(b, "%svalue: %q\n", indent, value)
		}
		for _, flag := range []string{"shadow_mode", "detailed_metric", "value_to_metric"} {
			if g.chance(10) {
				fmt.Fprintf(b, "%s%s: true\n", indent, flag)
			}
		}
		if strings.HasSuffix(value, "*") && g.chance(40) {
			fmt.Fprintf(b, "%sshare_threshold: true\n", indent)
		}
		if g.chance(75) {
			fmt.Fprintf(b, "%srate_limit: %s\n", indent, g.policy())
		}
		if depth < 2 && g.chance(40) {
			fmt.Fprintf(b, "%sdescriptors:\n", indent)
			g.level(b, indent, depth+1)
		}
	}
}

func (g *guesser) key() string { return g.pick("a", "b", "c") }

func (g *guesser) policy() string {
	name := ""
	if g.chance(40) {
		g.names++
		name = fmt.Sprintf(", name: n%d", g.names)
	}
	if g.names > 1 && g.chance(20) {
		name += fmt.Sprintf(", replaces: [{name: n%d}]", 1+g.IntN(g.names-1))
	}
	if g.chance(10) {
		return "{unlimited: true" + name + "}"
	}
	return fmt.Sprintf("{unit: year, requests_per_unit: %d%s}", g.IntN(12), name)
}

// request asks for up to four descriptors of the domains.
func (g *guesser) request(domains ...string) *ratelimitv3.RateLimitRequest {
	r := &ratelimitv3.RateLimitRequest{Domain: g.pick(domains...)}
	if g.chance(20) {
		r.HitsAddend = uint32(g.IntN(4))
	}
	for range 1 + g.IntN(4) {
		d := &commonv3.RateLimitDescriptor{}
		for range 1 + g.IntN(3) {
			d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: g.key(), Value: g.pick("", "v1", "v2", "v3", "v9", "w2", "x1y", "other")})
		}
		if g.chance(10) {
			d.HitsAddend = wrapperspb.UInt64(uint64(g.IntN(4)))
		}
		if g.chance(5) && r.GetDomain() != unknown { // there rows decide, which know such limits too
			d.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: uint32(g.IntN(6)), Unit: typev3.RateLimitUnit_YEAR}
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	return r
}

// unknown is a domain that no file names.
const unknown = "unknown"

func rlsClient(tb testing.TB, addr string) ratelimitv3.RateLimitServiceClient {
	tb.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return ratelimitv3.NewRateLimitServiceClient(conn)
}

// withoutReset has no times until the reset: the two are not asked within one second. A test of ours
// alone knows them. It has no word of the quota mode that newer versions do not know any more, either.
func withoutReset(r *ratelimitv3.RateLimitResponse) *ratelimitv3.RateLimitResponse {
	for _, s := range r.GetStatuses() {
		s.DurationUntilReset = nil
	}
	fields := r.GetDynamicMetadata().GetFields()
	delete(fields, "quotaModeEnabled")
	for _, d := range fields["descriptors"].GetListValue().GetValues() {
		if limit := d.GetStructValue().GetFields()["limit"]; limit != nil { // the protobuf library puts one space or two
			d.GetStructValue().Fields["limit"] = structpb.NewStringValue(strings.Join(strings.Fields(limit.GetStringValue()), " "))
		}
	}
	for _, h := range r.GetResponseHeadersToAdd() {
		if h.GetKey() == "RateLimit-Reset" {
			h.Value = ""
		}
	}
	return r
}

// envoyproxy/ratelimit and ratelimitd give the same answers over the same files.
func TestAnswersLikeEnvoyproxyRatelimit(t *testing.T) {
	for name, env := range map[string][]string{
		"as they are": {"LIMIT_RESPONSE_HEADERS_ENABLED=true"},
		"metadata":    {"RESPONSE_DYNAMIC_METADATA=true"},
		"shadow mode": {"LIMIT_RESPONSE_HEADERS_ENABLED=true", "SHADOW_MODE=true"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.InOneWindow(t, testenv.Year)
			const seed, files, requests = 20261126, 12, 2500
			g := &guesser{Rand: rand.New(rand.NewPCG(seed, uint64(len(name))))}
			dir := filepath.Join(t.TempDir(), "config")
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			domains := []string{unknown}
			for i := range files {
				domains = append(domains, fmt.Sprintf("d%d", i))
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("d%d.yaml", i)), []byte(g.file(domains[i+1])), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			theirs := rlsClient(t, testenv.StartPeer(t, dir, env...).Addr)
			d := newDaemon(t, append([]string{"RUNTIME_ROOT=" + filepath.Dir(dir)}, env...)...)
			d.start(t)
			ours := rlsClient(t, d.grpcAddr)
			over := 0
			for range requests {
				r := g.request(domains...)
				want, err := theirs.ShouldRateLimit(t.Context(), r)
				if err != nil {
					t.Fatalf("envoyproxy/ratelimit: %v: %v", r, err)
				}
				got, err := ours.ShouldRateLimit(t.Context(), r)
				if err != nil {
					t.Fatalf("%v: %v", r, err)
				}
				if r.GetDomain() == unknown { // whose metadata is that of rows here
					want.DynamicMetadata = nil
				}
				if diff := cmp.Diff(withoutReset(want), withoutReset(got), protocmp.Transform()); diff != "" {
					body, _ := os.ReadFile(filepath.Join(dir, r.GetDomain()+".yaml"))
					t.Fatalf("request %v\ngot  %v\nwant %v\n-want +got: %s\n%s", r, got, want, diff, body)
				}
				if got.GetOverallCode() == ratelimitv3.RateLimitResponse_OVER_LIMIT {
					over++
				}
			}
			if name != "shadow mode" && (over < requests/20 || over > requests*19/20) {
				t.Errorf("%d of %d requests are over: that tells little", over, requests)
			}
		})
	}
}
