package descsync_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/tps-agent/ratelimitd/internal/descsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const node = "envoy-ratelimit"

// config is a resource of one limit.
func config(domain string, n uint32) *ratelimitv3.RateLimitConfig {
	return &ratelimitv3.RateLimitConfig{Name: domain, Domain: domain, Descriptors: []*ratelimitv3.RateLimitDescriptor{
		{Key: "k", RateLimit: &ratelimitv3.RateLimitPolicy{Unit: ratelimitv3.RateLimitUnit_MINUTE, RequestsPerUnit: n}},
	}}
}

// bad is a resource that nobody can use.
func bad(domain string) *ratelimitv3.RateLimitConfig {
	c := config(domain, 1)
	c.Descriptors[0].Key = ""
	return c
}

func followXDS(tb testing.TB, c descsync.XDSConfig, dataDir string) *follower {
	tb.Helper()
	f := newFollower(tb)
	c.Node, c.DataDir, c.Publish = node, dataDir, f.publish
	x, err := descsync.NewXDS(c, f.registry, f.logger())
	do(tb, err)
	f.source = x
	return f
}

// First configuration, update, bad update: the server is told, and what was in force stays.
func TestXDS(t *testing.T) {
	s := testenv.StartXDS(t, "127.0.0.1:0")
	s.Set(t, node, "1", config("a", 1))
	f := followXDS(t, descsync.XDSConfig{Server: s.Addr, Metadata: map[string]string{"team": "web"}}, t.TempDir())
	f.load()
	if f.Loaded() == nil || f.Ready() == nil {
		t.Error("loaded before there was a server")
	}
	f.start()
	f.await("a=1")
	first := s.Request(t)
	if first.GetVersionInfo() != "" || first.GetTypeUrl() != resource.RateLimitConfigType || first.GetNode().GetId() != node || first.GetNode().GetMetadata().AsMap()["team"] != "web" {
		t.Errorf("first request %v", first)
	}
	if ack := s.Request(t); ack.GetVersionInfo() != "1" || ack.GetErrorDetail() != nil || ack.GetResponseNonce() == "" {
		t.Errorf("answer to the first response: %v", ack)
	}
	eventually(t, "ready", func() error { return errors.Join(f.Ready(), f.Loaded()) })

	s.Set(t, node, "2", config("a", 2), config("b", 3))
	f.await("a=2 b=3")
	if ack := s.Request(t); ack.GetVersionInfo() != "2" {
		t.Errorf("answer to the update: %v", ack)
	}

	s.Set(t, node, "3", config("a", 9), bad("b"))
	nack := s.Request(t)
	if detail := nack.GetErrorDetail().GetMessage(); nack.GetVersionInfo() != "2" || !strings.Contains(detail, "b: descriptors[0]: descriptor has empty key") {
		t.Errorf("answer to the bad update: %v", nack)
	}
	f.silent()
	eventually(t, "not ready", not(f.Ready))
	if err := f.Ready(); !strings.Contains(err.Error(), `version "3" was refused`) || f.Loaded() != nil {
		t.Errorf("ready: %v; loaded: %v", err, f.Loaded())
	}

	s.Set(t, node, "4", config("a", 4))
	f.await("a=4")
	eventually(t, "ready", f.Ready)
	s.Set(t, node, "5") // no domain at all
	f.await("")
	if err := testutil.GatherAndCompare(f.registry, strings.NewReader(`
# HELP ratelimitd_xds_connected 1 while the xDS server has a stream and has answered on it.
# TYPE ratelimitd_xds_connected gauge
ratelimitd_xds_connected 1
`), "ratelimitd_xds_connected"); err != nil {
		t.Error(err)
	}
	if got := value(t, f, "ratelimitd_xds_responses_total", "nack"); got < 1 { // go-control-plane sends it again
		t.Errorf("%v refused responses counted", got)
	}
	if got := strings.Count(f.logged(), "level=ERROR"); got != 1 {
		t.Errorf("the refusal is logged %d times:\n%s", got, f.logged())
	}
}

// value is that of the child of a metric whose only label is so.
func value(tb testing.TB, f *follower, name, label string) float64 {
	tb.Helper()
	all, err := f.registry.Gather()
	do(tb, err)
	for _, family := range all {
		for _, m := range family.GetMetric() {
			if family.GetName() == name && m.GetLabel()[0].GetValue() == label {
				return m.GetCounter().GetValue()
			}
		}
	}
	tb.Fatalf("no metric %s{%s}", name, label)
	return 0
}

// A server that is away at the start, goes away and comes back with other resources under an old version.
func TestXDSServerAway(t *testing.T) {
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(testenv.FreePort(t)))
	f := followXDS(t, descsync.XDSConfig{Server: addr}, t.TempDir())
	f.load()
	f.start()
	eventually(t, "the server is missed", f.says("the xDS server is away"))
	if f.Loaded() == nil {
		t.Error("loaded without a server")
	}
	s := testenv.StartXDS(t, addr)
	s.Set(t, node, "1", config("a", 1))
	f.await("a=1")
	eventually(t, "ready", f.Ready)

	s.Stop()
	eventually(t, "the server is missed again", not(f.Ready))
	if f.Loaded() != nil {
		t.Error("what was in force is gone")
	}
	f.silent()
	s = testenv.StartXDS(t, addr)
	s.Set(t, node, "1", config("a", 2))
	f.await("a=2")
	eventually(t, "ready", f.Ready)
}

// What was in force survives the process, for the server that it came from.
func TestXDSKeepsLastGood(t *testing.T) {
	s, dataDir := testenv.StartXDS(t, "127.0.0.1:0"), t.TempDir()
	s.Set(t, node, "1", config("a", 1), config("b", 2))
	first := followXDS(t, descsync.XDSConfig{Server: s.Addr}, dataDir)
	first.load()
	first.start()
	first.await("a=1 b=2")
	first.stop()
	s.Stop()

	second := followXDS(t, descsync.XDSConfig{Server: s.Addr}, dataDir)
	second.load()
	second.await("a=1 b=2")
	if second.Loaded() != nil || second.Ready() == nil {
		t.Errorf("loaded: %v, ready: %v", second.Loaded(), second.Ready())
	}
	other := followXDS(t, descsync.XDSConfig{Server: "127.0.0.1:1"}, dataDir)
	other.load()
	other.silent()
	if other.Loaded() == nil || !strings.Contains(other.logged(), "another xDS server") {
		t.Errorf("loaded: %v; logs %s", other.Loaded(), other.logged())
	}
	do(t, os.WriteFile(filepath.Join(dataDir, "xds.json"), []byte(`{"server":"`+s.Addr+`","version":"1","resources":["/w=="]}`), 0o600))
	damaged := followXDS(t, descsync.XDSConfig{Server: s.Addr}, dataDir)
	damaged.load()
	damaged.silent()
	if damaged.Loaded() == nil || !strings.Contains(damaged.logged(), "cannot be used") {
		t.Errorf("loaded: %v; logs %s", damaged.Loaded(), damaged.logged())
	}
}

// rawXDS answers each first request of a stream with what it is given.
type rawXDS struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer

	responses []*discoveryv3.DiscoveryResponse
	answers   chan *discoveryv3.DiscoveryRequest
}

func (r *rawXDS) StreamAggregatedResources(s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	if _, err := s.Recv(); err != nil {
		return err
	}
	for _, response := range r.responses {
		if err := s.Send(response); err != nil {
			return err
		}
		if response.GetTypeUrl() != resource.RateLimitConfigType {
			continue
		}
		answer, err := s.Recv()
		if err != nil {
			return err
		}
		r.answers <- answer
	}
	<-s.Context().Done()
	return nil
}

// Whatever a server sends, it gets an answer, and nothing is in force that is not good.
func TestXDSOddResponses(t *testing.T) {
	many := make([]*ratelimitv3.RateLimitDescriptor, 500)
	for i := range many {
		many[i] = &ratelimitv3.RateLimitDescriptor{Key: strings.Repeat("é", 40), Value: strconv.Itoa(i), RateLimit: &ratelimitv3.RateLimitPolicy{}}
	}
	rateLimit := resource.RateLimitConfigType
	responses := []*discoveryv3.DiscoveryResponse{
		{TypeUrl: resource.ClusterType, VersionInfo: "1"}, // nobody has asked for it, and nobody answers
		{TypeUrl: rateLimit, VersionInfo: "2", Nonce: "n2", Resources: []*anypb.Any{{TypeUrl: resource.ClusterType}}},
		{TypeUrl: rateLimit, VersionInfo: "3", Nonce: "n3", Resources: []*anypb.Any{{TypeUrl: rateLimit, Value: []byte("\xff")}}},
		{TypeUrl: rateLimit, VersionInfo: "4", Nonce: "n4", Resources: []*anypb.Any{anyOf(t, &ratelimitv3.RateLimitConfig{Name: "a", Domain: "a", Descriptors: many})}},
		{TypeUrl: rateLimit, VersionInfo: "9", Nonce: "n9", Resources: []*anypb.Any{anyOf(t, config("a", 9))}},
	}
	raw := &rawXDS{responses: responses, answers: make(chan *discoveryv3.DiscoveryRequest, 100)}
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, raw)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	do(t, err)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	f := followXDS(t, descsync.XDSConfig{Server: listener.Addr().String()}, t.TempDir())
	f.load()
	f.start()
	f.await("a=9")
	for _, want := range []string{`resource 0 is a "type.googleapis.com/envoy.config.cluster.v3.Cluster"`, "resource 0 is no RateLimitConfig", "invalid rate limit unit", ""} {
		answer := <-raw.answers
		detail := answer.GetErrorDetail().GetMessage()
		if !strings.Contains(detail, want) || (want == "") != (detail == "") || len(detail) > 5000 {
			t.Errorf("answer with %d bytes of detail %.200q, want %q", len(detail), detail, want)
		}
	}
	f.silent()
}

func anyOf(tb testing.TB, m proto.Message) *anypb.Any {
	tb.Helper()
	a, err := anypb.New(m)
	do(tb, err)
	return a
}

// A server that wants to see a certificate, and whose own is of an authority that is not the system's.
// The files may come later than the process.
func TestXDSOverTLS(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	serverCA, clientCA := testenv.NewAuthority(t, "servers"), testenv.NewAuthority(t, "clients")
	cert, key := serverCA.Pair(t, "127.0.0.1", time.Hour)
	pair, err := tls.X509KeyPair(cert, key)
	do(t, err)
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(clientCA.PEM)
	refused := make(chan struct{}, 1000)
	s := testenv.StartXDS(t, "127.0.0.1:0", grpc.Creds(credentials.NewTLS(&tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS12,
		VerifyConnection: func(c tls.ConnectionState) error {
			_, err := c.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: clients, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
			if err != nil {
				refused <- struct{}{}
			}
			return err
		},
	})))
	s.Set(t, node, "1", config("a", 1))
	f := followXDS(t, descsync.XDSConfig{Server: s.Addr, TLS: true, CA: path("ca"), Cert: path("cert"), Key: path("key")}, t.TempDir())
	f.load()
	f.start()
	eventually(t, "the authority is missed", f.says("reading the authority"))
	write(t, string(serverCA.PEM), dir, "ca")
	eventually(t, "the certificate is missed", f.says("reading the client certificate"))
	stranger, strangerKey := serverCA.Pair(t, "stranger", time.Hour)
	write(t, string(strangerKey), dir, "key")
	write(t, string(stranger), dir, "cert")
	select {
	case <-refused:
	case <-time.After(patience):
		t.Fatalf("the server was never shown the stranger's certificate; logs: %s", f.logged())
	}
	f.silent()
	cert, key = clientCA.Pair(t, "ratelimitd", time.Hour)
	write(t, string(key), dir, "key")
	write(t, string(cert), dir, "cert")
	f.await("a=1")
}
