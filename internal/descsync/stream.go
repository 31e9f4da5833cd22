package descsync

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tps-agent/ratelimitd/internal/certs"
)

// typeURL is that of the resources.
const typeURL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

// Bounds of what is sent and received.
const (
	maxResponse = 64 << 20
	maxDetail   = 4096 // bytes of the reason of a NACK
)

// connect opens a connection of its own for each stream, so that files of TLS are read anew.
func (x *XDS) connect() (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if x.cfg.TLS {
		c, err := certs.Client(x.cfg.CA, x.cfg.Cert, x.cfg.Key)
		if err != nil {
			return nil, err
		}
		c.ServerName = x.cfg.ServerName
		creds = credentials.NewTLS(c)
	}
	return grpc.NewClient(x.cfg.Server, grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		// A server takes no offence at a ping in five minutes, by the default of grpc-go.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 5*time.Minute + 10*time.Second, Timeout: 20 * time.Second}))
}

// stream asks for all resources, and puts in force what comes, until the stream ends.
func (x *XDS) stream(ctx context.Context) error {
	conn, err := x.connect()
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // it only frees what the process had
	ctx, cancel := context.WithCancel(metadata.NewOutgoingContext(ctx, metadata.New(x.cfg.Headers)))
	defer cancel()
	s, err := discoveryv3.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return err
	}
	// No version: what a server that was started anew calls by the same one may be something else.
	if err := s.Send(&discoveryv3.DiscoveryRequest{Node: x.node(), TypeUrl: typeURL}); err != nil {
		return closed(err, s)
	}
	for {
		response, err := s.Recv()
		if err != nil {
			return err
		}
		if response.GetTypeUrl() != typeURL { // nobody has asked for it
			continue
		}
		x.connected.Set(1)
		if err := s.Send(x.take(ctx, response)); err != nil {
			return closed(err, s)
		}
	}
}

// closed is why a stream takes no more: Send says only that it does not.
func closed(err error, s discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesClient) error {
	if _, reason := s.Recv(); reason != nil {
		return reason
	}
	return err
}

func (x *XDS) node() *corev3.Node {
	n := &corev3.Node{Id: x.cfg.Node, UserAgentName: "ratelimitd"}
	if len(x.cfg.Metadata) > 0 {
		n.Metadata = &structpb.Struct{Fields: make(map[string]*structpb.Value, len(x.cfg.Metadata))}
		for key, value := range x.cfg.Metadata {
			n.Metadata.Fields[key] = structpb.NewStringValue(value)
		}
	}
	return n
}

// take puts a response in force, or says in the answer why not.
func (x *XDS) take(ctx context.Context, r *discoveryv3.DiscoveryResponse) *discoveryv3.DiscoveryRequest {
	answer := &discoveryv3.DiscoveryRequest{Node: x.node(), TypeUrl: typeURL, ResponseNonce: r.GetNonce()}
	if err := x.adopt(ctx, r); err != nil {
		x.responses.WithLabelValues("nack").Inc()
		x.refuse(ctx, r.GetVersionInfo(), err)
		answer.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: detail(err)}
	} else {
		x.responses.WithLabelValues("ack").Inc()
		x.refused = "" // the same fault is news from now on
		x.fault.Store(nil)
	}
	answer.VersionInfo = x.version
	return answer
}

// refuse says why a response is not in force, the same once. A server may send it again at once when it
// learns of that, or the next bad one: so the answer waits where one was refused just before.
func (x *XDS) refuse(ctx context.Context, version string, err error) {
	if err.Error() != x.refused {
		x.refused = err.Error()
		x.metrics.errors.Inc()
		x.log.ErrorContext(ctx, "a response of the xDS server was refused", slog.String("version", version), slog.Any("error", err))
	}
	x.failed(fmt.Errorf("version %q was refused, what was in force stays: %w", version, err))
	since := time.Since(x.refusedAt)
	if since < refusedPause {
		select {
		case <-ctx.Done():
		case <-time.After(refusedPause - since):
		}
	}
	x.refusedAt = time.Now()
}

// refusedPause is the least time between the answers to two responses that were refused.
const refusedPause = time.Second

func detail(err error) string {
	text := err.Error()
	if len(text) > maxDetail {
		text = text[:maxDetail] + "…"
	}
	return strings.ToValidUTF8(text, "")
}

func (x *XDS) adopt(ctx context.Context, r *discoveryv3.DiscoveryResponse) error {
	began := time.Now()
	bodies := make([][]byte, len(r.GetResources()))
	for i, resource := range r.GetResources() {
		if resource.GetTypeUrl() != typeURL {
			return fmt.Errorf("resource %d is a %q", i, resource.GetTypeUrl())
		}
		bodies[i] = resource.GetValue()
	}
	if x.loaded.Load() && slices.EqualFunc(bodies, x.bodies, bytes.Equal) { // as a server says it that comes back
		x.version = r.GetVersionInfo()
		return nil
	}
	set, err := decode(bodies)
	if err != nil {
		return err
	}
	x.publish(set, r.GetVersionInfo(), bodies)
	x.kept.Put(savedResources{Server: x.cfg.Server, Version: r.GetVersionInfo(), Resources: bodies})
	x.log.InfoContext(ctx, "resources of the xDS server are in force", slog.Int("domains", set.Len()), slog.Int("limits", set.Rules()),
		slog.String("version", r.GetVersionInfo()), slog.Duration("took", time.Since(began)))
	return nil
}
