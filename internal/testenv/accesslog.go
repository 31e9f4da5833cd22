package testenv

import (
	"fmt"
	"strconv"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// AccessLogMessage is a message of n entries as Envoy sends it, from AccessLogEntry(first) on.
func AccessLogMessage(first, n int) *alspb.StreamAccessLogsMessage {
	logs := &alspb.StreamAccessLogsMessage_HTTPAccessLogEntries{}
	for i := range n {
		logs.LogEntry = append(logs.LogEntry, AccessLogEntry(first+i))
	}
	return &alspb.StreamAccessLogsMessage{LogEntries: &alspb.StreamAccessLogsMessage_HttpLogs{HttpLogs: logs}}
}

// AccessLogEntry is the entry of request number i, some 800 bytes on the wire, with all that Envoy
// logs of one that was allowed: it ended just now, and took 1 to 50 ms. There are 20 gateways
// (gw-0 to gw-19) of 10 endpoints each (/v1/orders/0 to 9). The stream id ends with i, so that
// entries can be told apart.
func AccessLogEntry(i int) *logpb.HTTPAccessLogEntry {
	gateway, endpoint := "gw-"+strconv.Itoa(i%20), "/v1/orders/"+strconv.Itoa(i/20%10)
	took := time.Duration(1+i%50)*time.Millisecond + time.Duration(i%1000)*time.Microsecond
	return &logpb.HTTPAccessLogEntry{
		CommonProperties: accessLogCommon(i, took, gateway, endpoint),
		ProtocolVersion:  logpb.HTTPAccessLogEntry_HTTP2,
		Request: &logpb.HTTPRequestProperties{
			RequestMethod: corepb.RequestMethod_GET, Scheme: "https", Authority: "shop.example.com", Path: endpoint + "?page=2&limit=50",
			UserAgent: "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", ForwardedFor: "203.0.113.7",
			RequestId: fmt.Sprintf("5f0c7a52-91c3-4b1e-8f7a-%012d", i), RequestHeadersBytes: 612,
			RequestHeaders: map[string]string{"x-endpoint": endpoint, "x-tenant": "acme"},
		},
		Response: &logpb.HTTPResponseProperties{
			ResponseCode: wrapperspb.UInt32(200), ResponseHeadersBytes: 187, ResponseBodyBytes: 2048, ResponseCodeDetails: "via_upstream",
			ResponseHeaders: map[string]string{"content-type": "application/json", "x-ratelimit-remaining": "17"},
		},
	}
}

func accessLogCommon(i int, took time.Duration, gateway, endpoint string) *logpb.AccessLogCommon {
	at := func(share int) *durationpb.Duration { return durationpb.New(took * time.Duration(share) / 100) }
	return &logpb.AccessLogCommon{
		DownstreamRemoteAddress: socketAddress("203.0.113.7", 51234), DownstreamLocalAddress: socketAddress("10.0.0.5", 443),
		DownstreamDirectRemoteAddress: socketAddress("203.0.113.7", 51234),
		UpstreamRemoteAddress:         socketAddress("10.0.3.17", 8080), UpstreamLocalAddress: socketAddress("10.0.0.5", 40112),
		StartTime: timestamppb.New(time.Now().Add(-took)), Duration: durationpb.New(took),
		TimeToLastRxByte: at(1), TimeToFirstUpstreamTxByte: at(8), TimeToLastUpstreamTxByte: at(9), TimeToFirstUpstreamRxByte: at(90),
		TimeToLastUpstreamRxByte: at(95), TimeToFirstDownstreamTxByte: at(91), TimeToLastDownstreamTxByte: at(99),
		UpstreamCluster: "orders", RouteName: "orders", UpstreamRequestAttemptCount: 1,
		Metadata: &corepb.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ratelimit": {Fields: map[string]*structpb.Value{
			"domain": structpb.NewStringValue("edge"), "gateway": structpb.NewStringValue(gateway), "endpoint": structpb.NewStringValue(endpoint),
			"limit": structpb.NewStringValue(gateway + endpoint), "waited_ms": structpb.NewNumberValue(0), "throttled": structpb.NewBoolValue(false),
		}}}},
		CustomTags:              map[string]string{"gateway": gateway, "endpoint": endpoint},
		StreamId:                fmt.Sprintf("0e9d1a52-7c44-4f4d-a1b2-%012d", i),
		DownstreamWireBytesSent: 2301, DownstreamWireBytesReceived: 420, UpstreamWireBytesSent: 700, UpstreamWireBytesReceived: 2250,
		AccessLogType: logpb.AccessLogType_DownstreamEnd,
	}
}

func socketAddress(host string, port uint32) *corepb.Address {
	return &corepb.Address{Address: &corepb.Address_SocketAddress{SocketAddress: &corepb.SocketAddress{
		Address: host, PortSpecifier: &corepb.SocketAddress_PortValue{PortValue: port},
	}}}
}
