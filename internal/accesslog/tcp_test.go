package accesslog

import (
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// tcpPart is something that an entry of TCP tells.
type tcpPart func(*logpb.TCPAccessLogEntry)

// connected is the entry of a connection of 250 ms to cluster `db`; and what parts say.
func connected(parts ...tcpPart) *logpb.TCPAccessLogEntry {
	e := &logpb.TCPAccessLogEntry{
		CommonProperties: &logpb.AccessLogCommon{
			StartTime: timestamppb.New(started), Duration: durationpb.New(took),
			UpstreamCluster: "db", AccessLogType: logpb.AccessLogType_TcpConnectionEnd, StreamId: "0e9d1a52",
		},
		ConnectionProperties: &logpb.ConnectionProperties{ReceivedBytes: 200, SentBytes: 503},
	}
	for _, p := range parts {
		p(e)
	}
	return e
}

func tcpFlags(f *logpb.ResponseFlags) tcpPart {
	return func(e *logpb.TCPAccessLogEntry) { e.CommonProperties.ResponseFlags = f }
}

func tcpType(t logpb.AccessLogType) tcpPart {
	return func(e *logpb.TCPAccessLogEntry) { e.CommonProperties.AccessLogType = t }
}

func tcpTags(key, value string) tcpPart {
	return func(e *logpb.TCPAccessLogEntry) { e.CommonProperties.CustomTags = map[string]string{key: value} }
}

func noCluster(e *logpb.TCPAccessLogEntry) { e.CommonProperties.UpstreamCluster = "" }

// tcpDecided is the dynamic metadata of a rate limit filter.
func tcpDecided(namespace string, fields map[string]any) tcpPart {
	return func(e *logpb.TCPAccessLogEntry) {
		s, err := structpb.NewStruct(fields)
		if err != nil {
			panic(err)
		}
		e.CommonProperties.Metadata = &corepb.Metadata{FilterMetadata: map[string]*structpb.Struct{namespace: s}}
	}
}

func tcpLogs(entries ...*logpb.TCPAccessLogEntry) *alspb.StreamAccessLogsMessage {
	return &alspb.StreamAccessLogsMessage{LogEntries: &alspb.StreamAccessLogsMessage_TcpLogs{
		TcpLogs: &alspb.StreamAccessLogsMessage_TCPAccessLogEntries{LogEntry: entries},
	}}
}

var (
	tcpFault = ended(0, false)
	payment  = map[string]any{"domain": "edge", "gateway": "gw-main", "endpoint": "pay", "waited_ms": 50}
)

// connections says what entries of TCP mean.
var connections = []struct {
	name  string
	entry []tcpPart
	want  []want
}{
	{"a connection that ended well", nil, nil},
	{"of an Envoy that sends no type", []tcpPart{tcpType(logpb.AccessLogType_NotSet)}, nil},
	{"a UDP session", []tcpPart{tcpType(logpb.AccessLogType_UdpSessionEnd)}, nil},
	{"flags without any", []tcpPart{tcpFlags(&logpb.ResponseFlags{})}, nil},
	{"delayed on purpose", []tcpPart{tcpFlags(&logpb.ResponseFlags{DelayInjected: true})}, nil},
	{"ended after as long as it may last", []tcpPart{tcpFlags(&logpb.ResponseFlags{DurationTimeout: true})}, nil},
	{"ended after as long as it may last, by a fault", []tcpPart{tcpFlags(&logpb.ResponseFlags{DurationTimeout: true, LocalReset: true})}, []want{tcpFault}},
	{"the upstream refuses", []tcpPart{tcpFlags(&logpb.ResponseFlags{UpstreamConnectionFailure: true})}, []want{tcpFault}},
	{"no upstream is healthy", []tcpPart{tcpFlags(&logpb.ResponseFlags{NoHealthyUpstream: true})}, []want{tcpFault}},
	{"too many connections", []tcpPart{tcpFlags(&logpb.ResponseFlags{UpstreamOverflow: true})}, []want{tcpFault}},
	{"no cluster", []tcpPart{noCluster, tcpFlags(&logpb.ResponseFlags{NoClusterFound: true})}, []want{tcpFault, named("-", "")}},
	{"not allowed", []tcpPart{tcpFlags(&logpb.ResponseFlags{UnauthorizedDetails: &logpb.ResponseFlags_Unauthorized{}})}, []want{tcpFault}},
	{"the last flag there is", []tcpPart{tcpFlags(&logpb.ResponseFlags{DownstreamRemoteReset: true})}, []want{tcpFault}},
	{"refused by the limit", []tcpPart{noCluster, tcpFlags(&logpb.ResponseFlags{RateLimited: true}), tcpTags("gateway", "gw-main")}, []want{named("gw-main", ""), tcpFault, throttled}},
	{"with a decision", []tcpPart{tcpDecided("envoy.filters.network.ratelimit", payment)}, []want{toPay, inDomain("edge"), waited(took, 50*time.Millisecond)}},
	{"with the decision of a request", []tcpPart{tcpDecided("envoy.filters.http.ratelimit", payment)}, nil},
	{"tagged", []tcpPart{tcpTags("endpoint", "reports")}, []want{named("db", "reports")}},
}

func TestConnections(t *testing.T) {
	for _, c := range connections {
		t.Run(c.name, func(t *testing.T) {
			want := traffic.Transaction{Gateway: "db", At: started.Add(took), Duration: took, Success: true}
			for _, w := range c.want {
				w(&want)
			}
			b := marshal(t, tcpLogs(connected(c.entry...)))
			assertLikeStock(t, b, decodeAll(b))
			e := decodeOne(t, b)
			if diff := cmp.Diff(want, transactionOf(e)); diff != "" || !e.counted() {
				t.Errorf("entry %v: counted %t, want true (-want +got):\n%s", connected(c.entry...), e.counted(), diff)
			}
		})
	}
}

func TestOnlyTheEndsOfConnectionsCount(t *testing.T) {
	for number, name := range logpb.AccessLogType_name {
		kind := logpb.AccessLogType(number)
		e := decodeOne(t, marshal(t, tcpLogs(connected(tcpType(kind)))))
		want := kind == logpb.AccessLogType_NotSet || kind == logpb.AccessLogType_TcpConnectionEnd || kind == logpb.AccessLogType_UdpSessionEnd
		if got := e.counted(); got != want {
			t.Errorf("%s counts: %t, want %t", name, got, want)
		}
	}
}
