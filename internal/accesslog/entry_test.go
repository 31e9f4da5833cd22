package accesslog

import (
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// receivedAt is when the entries of these tests came, and started when their requests began.
var (
	receivedAt = time.Unix(1_790_000_000, 0)
	started    = receivedAt.Add(-2 * time.Second)
)

const took = 250 * time.Millisecond

// part is something that an entry tells.
type part func(*logpb.HTTPAccessLogEntry)

// logged is the entry of a request that took 250 ms, by route `api` to cluster `app`, which
// answered 200; and what parts say.
func logged(parts ...part) *logpb.HTTPAccessLogEntry {
	e := &logpb.HTTPAccessLogEntry{
		CommonProperties: &logpb.AccessLogCommon{
			StartTime: timestamppb.New(started), Duration: durationpb.New(took),
			TimeToLastRxByte: durationpb.New(time.Millisecond), TimeToLastUpstreamRxByte: durationpb.New(took - time.Millisecond),
			UpstreamCluster: "app", RouteName: "api", AccessLogType: logpb.AccessLogType_DownstreamEnd, StreamId: "0e9d1a52",
		},
		ProtocolVersion: logpb.HTTPAccessLogEntry_HTTP11,
		Request:         &logpb.HTTPRequestProperties{RequestMethod: corepb.RequestMethod_GET, Authority: "app.test", Path: "/v1/pay", RequestHeaders: map[string]string{"x-endpoint": "pay"}},
		Response:        &logpb.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseCodeDetails: "via_upstream"},
	}
	for _, p := range parts {
		p(e)
	}
	return e
}

func answered(code uint32, details string) part {
	return func(e *logpb.HTTPAccessLogEntry) {
		e.Response.ResponseCode, e.Response.ResponseCodeDetails = wrapperspb.UInt32(code), details
	}
}

// notAnswered is a request whose client left before there was a response.
func notAnswered(details string) part {
	return func(e *logpb.HTTPAccessLogEntry) {
		e.Response.ResponseCode, e.Response.ResponseCodeDetails = nil, details
	}
}

func noUpstream(e *logpb.HTTPAccessLogEntry) {
	e.CommonProperties.UpstreamCluster, e.CommonProperties.TimeToLastUpstreamRxByte = "", nil
}

func noRoute(e *logpb.HTTPAccessLogEntry) { e.CommonProperties.RouteName = "" }

func upstream(cluster, route string) part {
	return func(e *logpb.HTTPAccessLogEntry) {
		e.CommonProperties.UpstreamCluster, e.CommonProperties.RouteName = cluster, route
	}
}

func flags(f *logpb.ResponseFlags) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.CommonProperties.ResponseFlags = f }
}

// decided is the dynamic metadata of the rate limit filter.
func decided(fields map[string]any) part {
	return func(e *logpb.HTTPAccessLogEntry) {
		s, err := structpb.NewStruct(fields)
		if err != nil {
			panic(err)
		}
		e.CommonProperties.Metadata = &corepb.Metadata{FilterMetadata: map[string]*structpb.Struct{
			metadataNamespace: s,
			"envoy.lb":        {Fields: map[string]*structpb.Value{"gateway": structpb.NewStringValue("not this")}},
		}}
	}
}

func tags(pairs ...string) part {
	return func(e *logpb.HTTPAccessLogEntry) {
		e.CommonProperties.CustomTags = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			e.CommonProperties.CustomTags[pairs[i]] = pairs[i+1]
		}
	}
}

func responseHeader(key, value string) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.Response.ResponseHeaders = map[string]string{key: value} }
}

func trailer(key, value string) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.Response.ResponseTrailers = map[string]string{key: value} }
}

func startedAt(t *timestamppb.Timestamp) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.CommonProperties.StartTime = t }
}

func tookFor(d *durationpb.Duration) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.CommonProperties.Duration = d }
}

func logType(t logpb.AccessLogType) part {
	return func(e *logpb.HTTPAccessLogEntry) { e.CommonProperties.AccessLogType = t }
}

// httpLogs is a message as Envoy sends it.
func httpLogs(entries ...*logpb.HTTPAccessLogEntry) *alspb.StreamAccessLogsMessage {
	return &alspb.StreamAccessLogsMessage{LogEntries: &alspb.StreamAccessLogsMessage_HttpLogs{
		HttpLogs: &alspb.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries},
	}}
}

func marshal(tb testing.TB, m proto.Message) []byte {
	tb.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
