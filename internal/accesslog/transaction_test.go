package accesslog

import (
	"maps"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// want changes what a plain entry of logged means.
type want func(*traffic.Transaction)

func named(gateway, endpoint string) want {
	return func(t *traffic.Transaction) { t.Gateway, t.Endpoint = gateway, endpoint }
}

func ended(code int32, success bool) want {
	return func(t *traffic.Transaction) { t.StatusCode, t.Success = code, success }
}

func throttled(t *traffic.Transaction) { t.Throttled, t.Success = true, false }

func inDomain(domain string) want { return func(t *traffic.Transaction) { t.Domain = domain } }

func waited(total, hold time.Duration) want {
	return func(t *traffic.Transaction) { t.At, t.Waited, t.Duration = started.Add(total), hold, total-hold }
}

func at(when time.Time) want { return func(t *traffic.Transaction) { t.At = when } }

type meaning struct {
	name  string
	entry []part
	want  []want
}

var payDecision = decided(map[string]any{"domain": "edge", "gateway": "gw-main", "endpoint": "pay", "limit": "gw-main/pay"})

func refusal(more map[string]any) part {
	fields := map[string]any{"domain": "edge", "gateway": "gw-main", "endpoint": "pay", "throttled": true}
	maps.Copy(fields, more)
	return decided(fields)
}

var (
	limited     = flags(&logpb.ResponseFlags{RateLimited: true})
	toPay       = named("gw-main", "pay")
	payTags     = tags("gateway", "gw-main", "endpoint", "pay")
	clientLeft  = flags(&logpb.ResponseFlags{DownstreamConnectionTermination: true})
	clientReset = flags(&logpb.ResponseFlags{DownstreamRemoteReset: true})
)

// seen is the table of what Envoy was seen to log.
var seen = []meaning{
	{"200", []part{payDecision}, []want{toPay, inDomain("edge")}},
	{"an upstream's own 429 is overload", []part{payDecision, answered(429, "via_upstream")}, []want{toPay, inDomain("edge"), ended(429, false)}},
	{"an upstream's 500", []part{payDecision, answered(500, "via_upstream")}, []want{toPay, inDomain("edge"), ended(500, false)}},
	{"limited", []part{refusal(nil), answered(429, "request_rate_limited"), limited, noUpstream}, []want{toPay, inDomain("edge"), ended(429, false), throttled}},
	{"limited gRPC client", []part{refusal(nil), answered(200, "request_rate_limited"), limited, noUpstream}, []want{toPay, inDomain("edge"), ended(200, false), throttled}},
	{"service failed, open", []part{payTags}, []want{toPay}},
	{"service failed, denied", []part{payTags, answered(500, "rate_limiter_error"), flags(&logpb.ResponseFlags{RateLimitServiceError: true}), noUpstream}, []want{toPay, ended(500, false)}},
	{"service failed, denied with 503", []part{payTags, answered(503, "rate_limiter_error"), flags(&logpb.ResponseFlags{RateLimitServiceError: true}), noUpstream}, []want{toPay, ended(503, false)}},
	{"upstream cuts", []part{payDecision, answered(503, "upstream_reset_before_response_started{connection_termination}"), flags(&logpb.ResponseFlags{UpstreamConnectionTermination: true})}, []want{toPay, inDomain("edge"), ended(503, false)}},
	{"upstream refuses", []part{payDecision, answered(503, "upstream_reset_before_response_started{remote_connection_failure}"), flags(&logpb.ResponseFlags{UpstreamConnectionFailure: true})}, []want{toPay, inDomain("edge"), ended(503, false)}},
	{"upstream times out", []part{payDecision, answered(504, "response_timeout"), flags(&logpb.ResponseFlags{UpstreamRequestTimeout: true})}, []want{toPay, inDomain("edge"), ended(504, false)}},
	{"client leaves while held", []part{payTags, notAnswered("downstream_remote_disconnect"), clientLeft, noUpstream}, []want{toPay, ended(0, false)}},
	{"HTTP/2 client leaves while held", []part{payTags, notAnswered("http2.remote_reset"), clientReset, noUpstream}, []want{toPay, ended(0, false)}},
	{"client leaves while the upstream works", []part{payDecision, notAnswered("downstream_remote_disconnect"), clientLeft}, []want{toPay, inDomain("edge"), ended(0, false)}},
	{"HTTP/2 client leaves while the upstream works", []part{payDecision, notAnswered("http2.remote_reset"), clientReset}, []want{toPay, inDomain("edge"), ended(0, false)}},
	{"bad HTTP/1 request", []part{answered(400, "http1.codec_error"), flags(&logpb.ResponseFlags{DownstreamProtocolError: true}), noUpstream, noRoute, func(e *logpb.HTTPAccessLogEntry) {
		e.Request, e.CommonProperties.TimeToLastRxByte = nil, nil
	}}, []want{named("-", ""), ended(400, true)}},
}

var names = []meaning{
	{"the decision goes before tags, cluster and route", []part{payDecision, tags("gateway", "other", "endpoint", "other")}, []want{toPay, inDomain("edge")}},
	{"a decision about the gateway alone takes no other endpoint", []part{decided(map[string]any{"gateway": "gw"}), payTags}, []want{named("gw", "")}},
	{"a decision without a gateway is none", []part{decided(map[string]any{"domain": "edge", "endpoint": "pay"}), tags("gateway", "g", "endpoint", "e")}, []want{named("g", "e"), inDomain("edge")}},
	{"an endpoint that a client calls -", []part{decided(map[string]any{"gateway": "gw", "endpoint": "-"})}, []want{named("gw", "-")}},
	{"names of another kind than text are none", []part{decided(map[string]any{"gateway": 7, "endpoint": true, "domain": nil})}, []want{named("app", "api")}},
	{"tags go before cluster and route", []part{payTags}, []want{toPay}},
	{"the tag of the gateway alone", []part{tags("gateway", "g")}, []want{named("g", "")}},
	{"the tag of the gateway, endpoint not found", []part{tags("gateway", "g", "endpoint", "-")}, []want{named("g", "")}},
	{"the tag of the endpoint alone", []part{tags("endpoint", "e")}, []want{named("app", "e")}},
	{"tags that found nothing", []part{tags("gateway", "-", "endpoint", "-")}, []want{named("app", "api")}},
	{"tags of other names", []part{tags("Gateway", "g", "gatewa", "g", "endpoints", "e")}, []want{named("app", "api")}},
	{"cluster without a route name", []part{upstream("app", "")}, []want{named("app", "")}},
	{"route name without a cluster", []part{upstream("", "api")}, []want{named("-", "api")}},
	{"neither", []part{upstream("", "")}, []want{named("-", "")}},
	{"NUL and other control characters", []part{decided(map[string]any{"gateway": "a\x00b", "endpoint": "\r\nc\u0085\x7f"})}, []want{named("a\ufffdb", "\ufffd\ufffdc\ufffd\ufffd")}},
	{
		"long names end at a rune",
		[]part{decided(map[string]any{"gateway": strings.Repeat("g", 254) + "é", "endpoint": strings.Repeat("€", 86)})},
		[]want{named(strings.Repeat("g", 254), strings.Repeat("€", 85))},
	},
	{
		"names of 255 bytes stay",
		[]part{decided(map[string]any{"gateway": strings.Repeat("g", 255), "endpoint": strings.Repeat("€", 85)})},
		[]want{named(strings.Repeat("g", 255), strings.Repeat("€", 85))},
	},
}

var outcomes = []meaning{
	{"499 is the client's", []part{answered(499, "")}, []want{ended(499, true)}},
	{"599", []part{answered(599, "")}, []want{ended(599, false)}},
	{"a code that is none", []part{answered(math.MaxUint32, "")}, []want{ended(999, false)}},
	{"code 0", []part{answered(0, "")}, []want{ended(0, false)}},
	{"no response at all", []part{func(e *logpb.HTTPAccessLogEntry) { e.Response = nil }}, []want{ended(0, false)}},
	{"grpc-status 0 in the trailers", []part{trailer("grpc-status", "0")}, nil},
	{"grpc-status 13 in the trailers", []part{trailer("grpc-status", "13")}, []want{ended(200, false)}},
	{"grpc-status 14 in the headers of an answer without trailers", []part{responseHeader("grpc-status", "14")}, []want{ended(200, false)}},
	{"trailers go before headers", []part{responseHeader("grpc-status", "2"), trailer("grpc-status", "0")}, nil},
	{"other headers and trailers", []part{responseHeader("x-grpc-status", "2"), trailer("grpc-message", "2")}, nil},
	{"flags that are no fault of the response", []part{flags(&logpb.ResponseFlags{
		DelayInjected: true, ResponseFromCacheFilter: true, DownstreamConnectionTermination: true, DownstreamRemoteReset: true, DownstreamProtocolError: true,
	})}, nil},
	{"a gRPC client is told that the upstream refuses", []part{answered(200, "upstream_reset_before_response_started{remote_connection_failure}"), flags(&logpb.ResponseFlags{UpstreamConnectionFailure: true})}, []want{ended(200, false)}},
	{"a gRPC client is told that there is no route", []part{answered(200, "route_not_found"), flags(&logpb.ResponseFlags{NoRouteFound: true})}, []want{ended(200, false)}},
	{"a gRPC client is told that it is not allowed", []part{answered(200, "rbac_access_denied"), flags(&logpb.ResponseFlags{UnauthorizedDetails: &logpb.ResponseFlags_Unauthorized{}})}, []want{ended(200, false)}},
	{"a redirect that an idle timeout cuts", []part{answered(399, "via_upstream"), flags(&logpb.ResponseFlags{StreamIdleTimeout: true})}, []want{ended(399, false)}},
	{"no route is the client's", []part{answered(404, "route_not_found"), flags(&logpb.ResponseFlags{NoRouteFound: true})}, []want{ended(404, true)}},
	{"a client that is too slow", []part{answered(408, "request_overall_timeout"), flags(&logpb.ResponseFlags{StreamIdleTimeout: true})}, []want{ended(408, true)}},
	{"400 that the upstream cuts", []part{answered(400, "via_upstream"), flags(&logpb.ResponseFlags{UpstreamRemoteReset: true})}, []want{ended(400, false)}},
	{"idle for too long after its code", []part{flags(&logpb.ResponseFlags{StreamIdleTimeout: true})}, []want{ended(200, false)}},
	{"too long for the upstream after its code", []part{flags(&logpb.ResponseFlags{UpstreamMaxStreamDurationReached: true})}, []want{ended(200, false)}},
	{"too long after its code", []part{flags(&logpb.ResponseFlags{DurationTimeout: true})}, []want{ended(200, false)}},
	{"cut by the upstream after its code", []part{flags(&logpb.ResponseFlags{UpstreamConnectionTermination: true})}, []want{ended(200, false)}},
	{"reset by the upstream after its code", []part{flags(&logpb.ResponseFlags{UpstreamRemoteReset: true})}, []want{ended(200, false)}},
	{"broken by the upstream after its code", []part{flags(&logpb.ResponseFlags{UpstreamProtocolError: true})}, []want{ended(200, false)}},
	{"out of time after its code", []part{flags(&logpb.ResponseFlags{UpstreamRequestTimeout: true})}, []want{ended(200, false)}},
	{"reset here after its code", []part{flags(&logpb.ResponseFlags{LocalReset: true})}, []want{ended(200, false)}},
	{"an upgraded connection that was idle for too long", []part{answered(101, ""), flags(&logpb.ResponseFlags{StreamIdleTimeout: true})}, []want{ended(101, true)}},
	{"an upgraded connection that the upstream has cut", []part{answered(101, ""), flags(&logpb.ResponseFlags{UpstreamConnectionTermination: true})}, []want{ended(101, false)}},
	{"throttled by the flag alone", []part{limited}, []want{throttled}},
	{"throttled by the metadata alone", []part{refusal(nil)}, []want{toPay, inDomain("edge"), throttled}},
	{"throttled of another kind than a truth", []part{refusal(map[string]any{"throttled": "true"})}, []want{toPay, inDomain("edge")}},
}

var times = []meaning{
	{"held", []part{decided(map[string]any{"gateway": "gw", "waited_ms": 100.5})}, []want{named("gw", ""), waited(took, 100500*time.Microsecond)}},
	{"held and refused", []part{refusal(map[string]any{"waited_ms": 200}), limited}, []want{toPay, inDomain("edge"), throttled, waited(took, 200*time.Millisecond)}},
	{"held for longer than it took", []part{decided(map[string]any{"gateway": "gw", "waited_ms": 1000})}, []want{named("gw", ""), func(t *traffic.Transaction) { t.Waited, t.Duration = time.Second, 0 }}},
	{"held for less than nothing", []part{decided(map[string]any{"gateway": "gw", "waited_ms": -5})}, []want{named("gw", "")}},
	{"held for no number", []part{decided(map[string]any{"gateway": "gw", "waited_ms": math.NaN()})}, []want{named("gw", "")}},
	{"held for ever", []part{decided(map[string]any{"gateway": "gw", "waited_ms": math.Inf(1)})}, []want{named("gw", ""), func(t *traffic.Transaction) { t.Waited, t.Duration = 30*time.Minute, 0 }}},
	{"waited_ms as text", []part{decided(map[string]any{"gateway": "gw", "waited_ms": "100"})}, []want{named("gw", "")}},
	{"no start", []part{startedAt(nil)}, []want{at(receivedAt)}},
	{"a start before 1970", []part{startedAt(&timestamppb.Timestamp{Seconds: -1})}, []want{at(receivedAt)}},
	{"a start beyond all years", []part{startedAt(&timestamppb.Timestamp{Seconds: math.MaxInt64})}, []want{at(receivedAt)}},
	{"a start with too many nanoseconds", []part{startedAt(&timestamppb.Timestamp{Seconds: started.Unix(), Nanos: 1e9})}, []want{at(receivedAt)}},
	{"a start two years ago", []part{startedAt(timestamppb.New(receivedAt.AddDate(-2, 0, 0)))}, []want{at(receivedAt)}},
	{"a start in two days", []part{startedAt(timestamppb.New(receivedAt.AddDate(0, 0, 2)))}, []want{at(receivedAt)}},
	{"a clock that is an hour ahead", []part{startedAt(timestamppb.New(receivedAt.Add(time.Hour)))}, []want{at(receivedAt.Add(time.Hour + took))}},
	{"no duration", []part{tookFor(nil)}, []want{waited(0, 0)}},
	{"a negative duration", []part{tookFor(&durationpb.Duration{Seconds: -1, Nanos: -1})}, []want{waited(0, 0)}},
	{"a duration with too many nanoseconds", []part{tookFor(&durationpb.Duration{Seconds: 1, Nanos: 1e9})}, []want{waited(0, 0)}},
	{"a duration beyond all years", []part{tookFor(&durationpb.Duration{Seconds: math.MaxInt64, Nanos: 999_999_999})}, []want{at(receivedAt), func(t *traffic.Transaction) { t.Duration = traffic.MaxDuration }}},
}

func TestTransaction(t *testing.T) {
	for group, cases := range map[string][]meaning{"seen": seen, "names": names, "outcomes": outcomes, "times": times} {
		for _, c := range cases {
			t.Run(group+"/"+c.name, func(t *testing.T) {
				want := traffic.Transaction{Gateway: "app", Endpoint: "api", At: started.Add(took), Duration: took, StatusCode: 200, Success: true}
				for _, w := range c.want {
					w(&want)
				}
				e := decodeOne(t, marshal(t, httpLogs(logged(c.entry...))))
				if diff := cmp.Diff(want, transactionOf(e)); diff != "" {
					t.Errorf("entry %v (-want +got):\n%s", logged(c.entry...), diff)
				}
			})
		}
	}
}

// defaultMapping is that of the zero MappingConfig.
var defaultMapping = must(NewMapping(MappingConfig{}))

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// transactionOf is what an entry means by the default mapping, at receivedAt.
func transactionOf(e *entry) traffic.Transaction {
	n := namer{mapping: defaultMapping}
	return n.transaction(e, receivedAt)
}

// decodeOne decodes a message of one good entry.
func decodeOne(tb testing.TB, b []byte) *entry {
	tb.Helper()
	got := decodeAll(b)
	if len(got.entries) != 1 || len(got.faults) != 0 {
		tb.Fatalf("message %x: %d entries, faults %v; want one entry", b, len(got.entries), got.faults)
	}
	return &got.entries[0]
}

func TestOnlyTheEndsOfRequestsCount(t *testing.T) {
	for number, name := range logpb.AccessLogType_name {
		kind := logpb.AccessLogType(number)
		e := decodeOne(t, marshal(t, httpLogs(logged(logType(kind)))))
		want := kind == logpb.AccessLogType_NotSet || kind == logpb.AccessLogType_DownstreamEnd
		if got := e.counted(); got != want {
			t.Errorf("%s counts: %t, want %t", name, got, want)
		}
	}
}

func assertName(tb interface{ Fatalf(string, ...any) }, raw, got string) {
	if len(got) > traffic.MaxName || !utf8.ValidString(got) || strings.ContainsFunc(got, unicode.IsControl) {
		tb.Fatalf("clean(%q) = %q (%d bytes): want at most %d bytes of UTF-8 without control characters", raw, got, len(got), traffic.MaxName)
	}
}

// The memory of a message is used again once it was decoded.
func TestNamesShareNoMemoryWithTheMessage(t *testing.T) {
	b := marshal(t, httpLogs(logged(payDecision)))
	var got traffic.Transaction
	v := visitor{entry: func(e *entry) { got = transactionOf(e) }}
	if err := v.message(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		b[i] = '?'
	}
	if got.Domain != "edge" || got.Gateway != "gw-main" || got.Endpoint != "pay" {
		t.Errorf("names became %q, %q, %q with the bytes of the message", got.Domain, got.Gateway, got.Endpoint)
	}
}
