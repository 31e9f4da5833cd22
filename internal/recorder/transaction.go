package recorder

import (
	"net/http"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Transaction is one finished request, or one finished TCP connection.
type Transaction struct {
	Domain     string        // of the decision; empty where none is known
	Gateway    string        // "-" where the entry tells none
	Endpoint   string        // empty = none
	At         time.Time     // when it ended
	Duration   time.Duration // less Waited
	Waited     time.Duration // held by a limit
	StatusCode int32         // 0 = no response, or no HTTP
	Success    bool
	Throttled  bool // refused by a limit
}

// noGateway is the gateway of an entry that tells none.
const noGateway = "-"

// maxName is the longest name that is stored, in bytes.
const maxName = 255

// maxHold is the longest that a request can have been held; more is not believed.
const maxHold = 30 * time.Minute

// transaction says what an entry means. receivedAt stands in where the entry has no time.
func (e *entry) transaction(receivedAt time.Time) Transaction {
	t := Transaction{Domain: clean(e.decision.domain), StatusCode: int32(min(e.status, 999))}
	t.Gateway, t.Endpoint = e.names()
	took := e.took.duration(longest)
	t.Waited = e.decision.waited()
	t.Duration = max(took-t.Waited, 0)
	t.At = e.endedAt(took, receivedAt)
	t.Throttled = e.flags&flagRateLimited != 0 || e.decision.throttled
	t.Success = e.succeeded() && !t.Throttled
	return t
}

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
	case e.tcp:
		return e.flags&^(flagsOfNoFault|flagOfDuration) == 0
	case e.status == http.StatusSwitchingProtocols:
		return e.flags&^(flagsOfNoFault|flagsOfUpgrade) == 0
	case e.status < 400:
		return e.status != 0 && e.flags&^(flagsOfNoFault|flagsOfClient) == 0 && e.grpcOK()
	}
	return e.status < 500 && e.status != 429 && e.flags&flagsOfCut == 0 && e.grpcOK()
}

// names come from the decision, else from the custom tags of Envoy's configuration, else from
// the cluster and the route. Names of the decision are not mixed with others: it tells exactly
// what was limited, and without an endpoint that was the gateway.
func (e *entry) names() (gateway, endpoint string) {
	switch {
	case e.decision.gateway != "":
		return clean(e.decision.gateway), clean(e.decision.endpoint)
	case told(e.tagGateway):
		gateway, endpoint = e.tagGateway, ""
	case e.cluster != "":
		gateway, endpoint = e.cluster, e.route
	default:
		gateway, endpoint = noGateway, e.route
	}
	if told(e.tagEndpoint) {
		endpoint = e.tagEndpoint
	}
	return clean(gateway), clean(endpoint)
}

// told is false for a tag that found nothing: it is absent, or "-", the default_value that the
// files of envoy/ give.
func told(tag string) bool { return tag != "" && tag != noGateway }

func (d *decision) waited() time.Duration {
	ms := d.waitedMS
	if !(ms > 0) { // NaN too
		return 0
	}
	return time.Duration(min(ms, float64(maxHold/time.Millisecond)) * float64(time.Millisecond))
}

// grpcOK is false for a logged grpc-status other than 0.
func (e *entry) grpcOK() bool {
	status := e.grpcTrailer
	if status == "" {
		status = e.grpcHeader
	}
	return status == "" || status == "0"
}

// Entries that ended at a time nobody can believe are given the time at which they came.
const (
	longest = 366 * 24 * time.Hour // a duration beyond it is taken for this
	oldest  = 366 * 24 * time.Hour
	newest  = 24 * time.Hour // ahead of the clock of this host
)

func (e *entry) endedAt(took time.Duration, receivedAt time.Time) time.Time {
	start, ok := e.start.time()
	at := start.Add(took)
	if !ok || at.Before(receivedAt.Add(-oldest)) || at.After(receivedAt.Add(newest)) {
		return receivedAt
	}
	return at
}

// clean makes a name fit to be stored and shown: at most maxName bytes of valid UTF-8 without
// control characters, for which U+FFFD stands. The result shares no memory with s.
func clean(s string) string {
	if len(s) > maxName {
		cut := maxName
		for back := 0; back < utf8.UTFMax && cut > 0 && !utf8.RuneStart(s[cut]); back++ {
			cut--
		}
		s = s[:cut]
	}
	if utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) {
		return strings.Clone(s)
	}
	replaced := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return utf8.RuneError
		}
		return r
	}, s)
	for len(replaced) > maxName { // U+FFFD is longer than what it stands for
		_, size := utf8.DecodeLastRuneInString(replaced)
		replaced = replaced[:len(replaced)-size]
	}
	return replaced
}
