package accesslog

import (
	"net/http"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// entry is what is taken from one HTTPAccessLogEntry or TCPAccessLogEntry. Its strings alias the
// message.
type entry struct {
	tcp         bool
	logType     int32
	underway    bool            // says that the request goes on
	start       secondsAndNanos // since 1970; zero = not told
	took        secondsAndNanos // with what the request was held
	cluster     string
	route       string
	flags       responseFlags
	status      uint32 // 0 = no response
	grpcHeader  string
	grpcTrailer string
	tagGateway  string
	tagEndpoint string
	decision    decision

	method    string // empty = not told, or not asked for; so are the next two
	authority string
	path      string // as the client sent it, often with a query

	// What only logs in JSON and OTLP can tell.
	end    secondsAndNanos // since 1970; zero = not told
	row    bool            // it is a row of ours: took is less the hold, and succeeded is what it says
	passed bool            // what a row says of its success
}

// decision is what the rate limit service said of the request.
type decision struct {
	domain    string
	gateway   string
	endpoint  string
	throttled bool
	waitedMS  float64
}

// responseFlags is a bit for each field of envoy.data.accesslog.v3.ResponseFlags that is set, at
// the number of the field. What is numbered beyond 63 is not kept.
type responseFlags uint64

// secondsAndNanos is a google.protobuf.Timestamp or Duration as it was sent.
type secondsAndNanos struct {
	seconds int64
	nanos   int32
}

// counted tells whether the entry is the end of a request, of a TCP connection or of a UDP
// session. Older Envoys send no type, the flag only.
func (e *entry) counted() bool {
	const notSet, tcpConnectionEnd, downstreamEnd, udpSessionEnd = 0, 3, 6, 13
	switch {
	case e.underway:
		return false
	case e.tcp:
		return e.logType == notSet || e.logType == tcpConnectionEnd || e.logType == udpSessionEnd
	}
	return e.logType == notSet || e.logType == downstreamEnd
}

// time is false for what Envoy cannot have meant: nothing, before 1970, after 9999.
func (t secondsAndNanos) time() (time.Time, bool) {
	const year10000 = 253402300800
	if t.seconds <= 0 || t.seconds >= year10000 || t.nanos < 0 || t.nanos >= 1e9 {
		return time.Time{}, false
	}
	return time.Unix(t.seconds, int64(t.nanos)), true
}

// duration is 0 for one that is negative or malformed, and most for a longer one.
func (t secondsAndNanos) duration(most time.Duration) time.Duration {
	switch {
	case t.seconds < 0 || t.nanos < 0 || t.nanos >= 1e9:
		return 0
	case t.seconds >= int64(most/time.Second):
		return most
	}
	return time.Duration(t.seconds)*time.Second + time.Duration(t.nanos)
}

// transaction says what an entry means. receivedAt stands in where the entry has no time.
func (n *namer) transaction(e *entry, receivedAt time.Time) traffic.Transaction {
	gateway, endpoint := n.mapping.names(e)
	t := traffic.Transaction{
		Domain: n.name(e.decision.domain), Gateway: n.name(gateway), Endpoint: n.name(endpoint),
		At: e.endedAt(receivedAt), Waited: e.waited(), StatusCode: int32(min(e.status, 999)),
		Throttled: e.throttled(),
	}
	t.Duration = e.took.duration(traffic.MaxDuration)
	if !e.row {
		t.Duration = max(t.Duration-t.Waited, 0)
	}
	t.Success = !t.Throttled && e.succeeded()
	return t
}

func (e *entry) throttled() bool { return e.flags&flagRateLimited != 0 || e.decision.throttled }

// The response flags that Envoy sets where something ended otherwise than it should.
const (
	flagRateLimited = responseFlags(1) << 12
	// flagsOfNoFault tell of what was done on purpose: delay_injected, response_from_cache_filter.
	flagsOfNoFault = responseFlags(1)<<10 | 1<<21
	// flagsOfClient tell what the client's side did after its response had begun, for which nobody
	// else can be blamed: downstream_connection_termination, downstream_protocol_error,
	// downstream_remote_reset.
	flagsOfClient = responseFlags(1)<<15 | 1<<19 | 1<<28
	// flagOfDuration, duration_timeout, is the end of a TCP connection that has lasted as long as
	// the configuration lets it (max_downstream_connection_duration); of a request it is a cut.
	flagOfDuration = responseFlags(1) << 23
	// flagsOfUpgrade are ways in which a connection that was upgraded (WebSocket) ends as the
	// configuration wants it: stream_idle_timeout, upstream_max_stream_duration_reached.
	flagsOfUpgrade = flagsOfClient | flagOfDuration | 1<<17 | 1<<20
	// flagsOfCut tell that the upstream's side broke a response off, which may be long after its
	// code was sent: upstream_request_timeout, local_reset, upstream_remote_reset,
	// upstream_connection_termination, upstream_protocol_error.
	flagsOfCut = responseFlags(1)<<3 | 1<<4 | 1<<5 | 1<<7 | 1<<24
)

// succeeded: TCP has no code, so that every flag of a fault counts. So it does beside a code below
// 400, which says little then: Envoy itself answers a gRPC client with 200, whatever went wrong,
// and it may end a response after its code. A code from 400 on says more than the flags, but for
// a response that was broken off.
func (e *entry) succeeded() bool {
	switch {
	case e.row:
		return e.passed
	case e.tcp:
		return e.flags&^(flagsOfNoFault|flagOfDuration) == 0
	case e.status == http.StatusSwitchingProtocols:
		return e.flags&^(flagsOfNoFault|flagsOfUpgrade) == 0
	case e.status < 400:
		return e.status != 0 && e.flags&^(flagsOfNoFault|flagsOfClient) == 0 && e.grpcOK()
	}
	return e.status < 500 && e.status != 429 && e.flags&flagsOfCut == 0 && e.grpcOK()
}

func (e *entry) waited() time.Duration {
	ms := e.decision.waitedMS
	if !(ms > 0) { // NaN too
		return 0
	}
	return time.Duration(min(ms, float64(traffic.MaxWaited/time.Millisecond)) * float64(time.Millisecond))
}

// grpcOK is false for a logged grpc-status other than 0.
func (e *entry) grpcOK() bool {
	status := e.grpcTrailer
	if status == "" {
		status = e.grpcHeader
	}
	return status == "" || status == "0"
}

// endedAt: an entry that ended at a time nobody can believe is given the time at which it came.
func (e *entry) endedAt(receivedAt time.Time) time.Time {
	at, told := e.toldEnd()
	if !told || !traffic.Believable(at, receivedAt) {
		return receivedAt
	}
	return at
}

func (e *entry) toldEnd() (at time.Time, told bool) {
	if at, told = e.end.time(); told {
		return at, true
	}
	start, told := e.start.time()
	return start.Add(e.took.duration(traffic.MaxDuration)), told
}
