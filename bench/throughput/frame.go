package main

import (
	"encoding/binary"

	ratelimitv3common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"
)

// What every request asks for: two levels, both with a row that never refuses, so that each
// answer is an OK of the same size.
const (
	domain   = "edge"
	gateway  = "gw-main"
	endpoint = "pay"
)

// requestMessage is what Envoy sends with envoy/envoy.yaml.
func requestMessage() *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{
		Domain: domain,
		Descriptors: []*ratelimitv3common.RateLimitDescriptor{{Entries: []*ratelimitv3common.RateLimitDescriptor_Entry{
			{Key: "gateway", Value: gateway}, {Key: "endpoint", Value: endpoint},
		}}},
	}
}

func requestBytes() []byte {
	b, err := proto.Marshal(requestMessage())
	if err != nil {
		panic(err) // a constant
	}
	return b
}

// grpcFrame is a message as gRPC has it in the body of a request: a flag for compression, the
// length in four bytes, the message (gRPC over HTTP/2, "Length-Prefixed-Message").
func grpcFrame(message []byte) []byte {
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) //nolint:gosec // some dozen bytes
	return append(frame, message...)
}
