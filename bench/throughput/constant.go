package main

import (
	"context"
	"fmt"
	"io"
	"net"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// The servers that ratelimitd is compared with.
const (
	bareServer = "bare"
	rawServer  = "raw"
)

const (
	serviceName = "envoy.service.ratelimit.v3.RateLimitService"
	methodName  = "ShouldRateLimit"
	methodPath  = "/" + serviceName + "/" + methodName
)

// serveConstant answers every request with the message that comes on in, until ctx ends. It
// prints its address as the first line.
func serveConstant(ctx context.Context, name string, in io.Reader, out io.Writer) error {
	answer, err := io.ReadAll(in)
	if err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	s, err := constantServer(name, answer)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(out, l.Addr())
	defer context.AfterFunc(ctx, s.Stop)()
	return s.Serve(l)
}

func constantServer(name string, answer []byte) (*grpc.Server, error) {
	switch name {
	case bareServer:
		b := &bare{}
		if err := proto.Unmarshal(answer, &b.answer); err != nil {
			return nil, fmt.Errorf("reading the answer: %w", err)
		}
		s := grpc.NewServer()
		ratelimitv3.RegisterRateLimitServiceServer(s, b)
		return s, nil
	case rawServer:
		s := grpc.NewServer(grpc.ForceServerCodecV2(bytesCodec{}))
		s.RegisterService(&grpc.ServiceDesc{
			ServiceName: serviceName, HandlerType: (*any)(nil),
			Methods: []grpc.MethodDesc{{MethodName: methodName, Handler: rawHandler}},
		}, answer)
		return s, nil
	}
	return nil, fmt.Errorf("there is no server %q", name)
}

// bare is the service as anybody would write it first: generated code, stock codec.
type bare struct {
	ratelimitv3.UnimplementedRateLimitServiceServer
	answer ratelimitv3.RateLimitResponse
}

// ShouldRateLimit answers the constant.
func (b *bare) ShouldRateLimit(context.Context, *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, error) {
	return &b.answer, nil
}

func rawHandler(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc-go's order of arguments
	var request []byte
	if err := decode(&request); err != nil {
		return nil, err
	}
	return srv, nil
}

// bytesCodec passes messages on as bytes.
type bytesCodec struct{}

// Name is that of the protobuf codec, which it stands in for.
func (bytesCodec) Name() string { return "proto" }

// Marshal returns v, which is a []byte.
func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

// Unmarshal looks at nothing: the answer does not depend on it.
func (bytesCodec) Unmarshal(mem.BufferSlice, any) error { return nil }
