package accesslog

import (
	"bytes"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// fact is something that a record in JSON or OTLP can tell of a request.
type fact int

const (
	factStart     fact = iota // when it began
	factTimestamp             // when it ended in a row of ours, else when it began
	factEnd
	factDuration // with what it was held; without, in a row of ours
	factStatus
	factFlags
	factGRPCStatus
	factLogType
	factCluster
	factRoute
	factMethod
	factAuthority
	factPath
	factTagGateway
	factTagEndpoint
	factDomain
	factGateway // of the decision, as the next one
	factEndpoint
	factThrottled
	factWaited
	factSuccess
	factObject // holds others, perhaps as JSON in a text
	factCount  = int(factObject)
)

// word is what a name means.
type word struct {
	fact fact
	rank int           // from 1; of several names that tell a fact, the one of the lowest rank counts
	unit time.Duration // of a duration
}

// vocabulary has the words by their names as fold writes them, and response flags by both of the
// names that Envoy has for them.
type vocabulary struct {
	words map[string]word
	flags map[string]responseFlags
}

func newVocabulary() vocabulary {
	v := vocabulary{words: map[string]word{}, flags: map[string]responseFlags{}}
	ranks := map[fact]int{}
	add := func(f fact, unit time.Duration, name string) {
		folded, _ := fold(nil, name)
		if _, known := v.words[string(folded)]; !known {
			ranks[f]++
			v.words[string(folded)] = word{f, ranks[f], unit}
		}
	}
	for _, prefix := range [...]string{metadataNamespace, tcpMetadataNamespace, "ratelimit", "ratelimit_metadata", "decision", "metadata", "dynamic_metadata"} {
		add(factObject, 0, prefix)
		for f, name := range map[fact]string{factDomain: "domain", factGateway: "gateway", factEndpoint: "endpoint", factThrottled: "throttled", factWaited: "waited_ms"} {
			add(f, time.Millisecond, prefix+"."+name)
		}
	}
	for _, t := range factNames() {
		for _, name := range t.names {
			add(t.fact, 0, name)
		}
	}
	for _, name := range [...]string{"duration", "request_duration", "total_duration", "latency"} {
		eachUnit(name, func(name string, unit time.Duration) { add(factDuration, unit, name) })
	}
	add(factDuration, time.Second, "http.server.request.duration")
	eachUnit("waited", func(name string, unit time.Duration) { add(factWaited, unit, name) })
	for _, f := range envoyFlags() {
		v.flags[f.short], v.flags[f.long] = f.bit, f.bit
	}
	return v
}

// namesOf are the names of a fact, in the order in which they count.
type namesOf struct {
	fact  fact
	names []string
}

func factNames() []namesOf {
	return []namesOf{
		{factObject, []string{"filter_metadata", "metadata.filter_metadata", "custom_tags", "tags"}},
		{factStart, []string{"start_time", "request_start_time", "time", "ts"}},
		{factTimestamp, []string{"timestamp"}},
		{factEnd, []string{"end_time"}},
		{factStatus, []string{"response_code", "status_code", "http.response.status_code", "http.status_code", "response_status", "status"}},
		{factFlags, []string{"response_flags", "response_flags_long"}},
		{factGRPCStatus, []string{"grpc_status", "grpc_status_number", "grpc_status_code", "rpc.grpc.status_code", "rpc.response.status_code"}},
		{factLogType, []string{"access_log_type"}},
		{factCluster, []string{"upstream_cluster", "upstream_cluster_name", "upstream_cluster_raw"}},
		{factRoute, []string{"route_name", "http.route", "route"}},
		{factMethod, []string{"method", "request_method", "http.request.method", "http.method", "req_method"}},
		{factAuthority, []string{"authority", "request_authority", "req_authority", "host", "http.host", "server.address", "url.domain"}},
		{factPath, []string{
			"path", "request_path", "req_path", "url.path", "http.target", "x-envoy-original-path", "x-envoy-origin-path", "original_path",
			"request_uri", "uri", "url", "url.original", "url.full", "http.url",
		}},
		{factTagGateway, []string{"gateway", "custom_tags.gateway", "tags.gateway"}},
		{factTagEndpoint, []string{"endpoint", "custom_tags.endpoint", "tags.endpoint"}},
		{factDomain, []string{"domain"}},
		{factThrottled, []string{"throttled", "rate_limited"}},
		{factSuccess, []string{"success"}},
	}
}

func eachUnit(name string, do func(name string, unit time.Duration)) {
	do(name, time.Millisecond)
	for _, u := range []struct {
		unit   time.Duration
		suffix []string
	}{
		{time.Millisecond, []string{"ms", "millis", "milliseconds"}},
		{time.Microsecond, []string{"us", "micros", "microseconds"}},
		{time.Nanosecond, []string{"ns", "nanos", "nanoseconds"}},
		{time.Second, []string{"s", "sec", "seconds"}},
	} {
		for _, suffix := range u.suffix {
			do(name+"_"+suffix, u.unit)
		}
	}
}

// of returns what the name means that fold has made of a path. What stands before the name of a
// filter makes no difference.
func (v *vocabulary) of(path []byte) (word, bool) {
	if filter := bytes.Index(path, []byte("envoyfilters")); filter > 0 {
		path = path[filter:]
	}
	w, ok := v.words[string(path)]
	return w, ok
}

// mostPath is longer than every name there is a word for.
const mostPath = 128

// fold appends a name to the names of the objects that it stands in: in lower case, without what
// separates words. So http.response.status_code, {"http": {"response": {"status_code"}}} and
// httpResponseStatusCode are one. False says that it is too long for a name that is known.
func fold(path []byte, name string) (_ []byte, ok bool) {
	for _, c := range []byte(name) {
		switch {
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case c == '_' || c == '-' || c == '.' || c == ':' || c == '@':
			continue
		}
		if len(path) == mostPath {
			return path, false
		}
		path = append(path, c)
	}
	return path, true
}

// flagUnknown is a flag that Envoy has no field for, or that is not known here. No field has number 0.
const flagUnknown = responseFlags(1)

// flagNames are the names of a response flag in %RESPONSE_FLAGS% and %RESPONSE_FLAGS_LONG%.
type flagNames struct {
	short, long string
	bit         responseFlags
}

// envoyFlags are those that Envoy has (source/common/stream_info/utility.h of 1.40), each with the number of its
// field in ResponseFlags.
func envoyFlags() []flagNames {
	bit := func(num protowire.Number) responseFlags { return 1 << num }
	return []flagNames{
		{"LH", "FailedLocalHealthCheck", bit(1)},
		{"UH", "NoHealthyUpstream", bit(2)},
		{"UT", "UpstreamRequestTimeout", bit(3)},
		{"LR", "LocalReset", bit(4)},
		{"UR", "UpstreamRemoteReset", bit(5)},
		{"UF", "UpstreamConnectionFailure", bit(6)},
		{"UC", "UpstreamConnectionTermination", bit(7)},
		{"UO", "UpstreamOverflow", bit(8)},
		{"NR", "NoRouteFound", bit(9)},
		{"DI", "DelayInjected", bit(10)},
		{"FI", "FaultInjected", bit(11)},
		{"RL", "RateLimited", bit(12)},
		{"UAEX", "UnauthorizedExternalService", bit(13)},
		{"RLSE", "RateLimitServiceError", bit(14)},
		{"DC", "DownstreamConnectionTermination", bit(15)},
		{"URX", "UpstreamRetryLimitExceeded", bit(16)},
		{"SI", "StreamIdleTimeout", bit(17)},
		{"IH", "InvalidEnvoyRequestHeaders", bit(18)},
		{"DPE", "DownstreamProtocolError", bit(19)},
		{"UMSDR", "UpstreamMaxStreamDurationReached", bit(20)},
		{"RFCF", "ResponseFromCacheFilter", bit(21)},
		{"NFCF", "NoFilterConfigFound", bit(22)},
		{"DT", "DurationTimeout", bit(23)},
		{"UPE", "UpstreamProtocolError", bit(24)},
		{"NC", "NoClusterFound", bit(25)},
		{"OM", "OverloadManagerTerminated", bit(26)},
		{"DF", "DnsResolutionFailed", bit(27)},
		{"DR", "DownstreamRemoteReset", bit(28)},
		{"DO", "DropOverload", flagUnknown},
		{"UDO", "UnconditionalDropOverload", flagUnknown},
	}
}
