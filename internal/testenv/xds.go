package testenv

import (
	"context"
	"net"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	serverv3 "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/grpc"
)

// XDS is the xDS server of go-control-plane, as Envoy Gateway runs it, in the process of the test.
type XDS struct {
	Addr string // host:port

	cache    cachev3.SnapshotCache
	requests chan *discoveryv3.DiscoveryRequest
	stop     func()
}

// StartXDS serves on addr, where port 0 is a free one, until the test ends or it is stopped.
func StartXDS(tb testing.TB, addr string, options ...grpc.ServerOption) *XDS {
	tb.Helper()
	s := &XDS{cache: cachev3.NewSnapshotCache(true, cachev3.IDHash{}, nil), requests: make(chan *discoveryv3.DiscoveryRequest, 1000)}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	s.Addr = listener.Addr().String()
	server := grpc.NewServer(options...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, serverv3.NewServer(tb.Context(), s.cache, serverv3.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discoveryv3.DiscoveryRequest) error {
			s.requests <- r
			return nil
		},
	}))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = server.Serve(listener) // ends with Stop
	}()
	s.stop = func() {
		server.Stop()
		<-ended
	}
	tb.Cleanup(s.stop)
	return s
}

// Set makes resources what a node gets, under a version.
func (s *XDS) Set(tb testing.TB, node, version string, resources ...*ratelimitv3.RateLimitConfig) {
	tb.Helper()
	all := make([]types.Resource, len(resources))
	for i, r := range resources {
		all[i] = r
	}
	snapshot, err := cachev3.NewSnapshot(version, map[resource.Type][]types.Resource{resource.RateLimitConfigType: all})
	if err == nil {
		err = s.cache.SetSnapshot(context.Background(), node, snapshot)
	}
	if err != nil {
		tb.Fatal(err)
	}
}

// Request waits for the next request.
func (s *XDS) Request(tb testing.TB) *discoveryv3.DiscoveryRequest {
	tb.Helper()
	select {
	case r := <-s.requests:
		return r
	case <-time.After(20 * time.Second):
		tb.Fatal("no request")
		return nil
	}
}

// Stop ends all streams and closes the port.
func (s *XDS) Stop() { s.stop() }
