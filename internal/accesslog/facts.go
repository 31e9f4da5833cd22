package accesslog

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
	"github.com/tps-agent/ratelimitd/internal/validjson"
)

// facts is what a record has told. Its strings alias the record.
type facts struct {
	vocabulary *vocabulary
	claims     [factCount]claim
	named      uint32 // a bit for each fact that a name stood for, whether it told something or not
}

// claim is what one name has told.
type claim struct {
	scalar
	word

	name string // as it was written, without those of the objects around it
	at   int    // where the value stands in the record
}

// tell takes the value of a name that fold has made a path of. What says nothing leaves what
// another name has told.
func (f *facts) tell(path []byte, name string, s scalar, at int) {
	w, known := f.vocabulary.of(path)
	if !known {
		return
	}
	f.named |= 1 << w.fact
	if s.empty() {
		return
	}
	if w.fact == factObject {
		f.tellText(s.text, path, at)
		return
	}
	t := &f.claims[w.fact]
	if t.kind == nothing || w.rank <= t.rank {
		*t = claim{scalar: s, word: w, name: name, at: at}
	}
}

// tellText takes an object that was written into a text, as Envoy does where a text is wanted.
func (f *facts) tellText(text string, path []byte, at int) {
	if b := []byte(text); isObject(b) && json.Valid(b) {
		o := jsonObject{facts: f, whole: b, inText: true, at: at}
		o.tell(validjson.SkipSpace(b, 0), path, 0)
	}
}

// ofRequest tells whether the record is of a request or connection at all: other logs may come the
// same way.
func (f *facts) ofRequest() bool {
	for _, fact := range [...]fact{factStatus, factDuration, factFlags, factSuccess} {
		if f.claims[fact].kind != nothing {
			return true
		}
	}
	return false
}

// errNoOutcome says that nobody can know how a request ended.
var errNoOutcome = errors.New("has a duration, but no response code, response flags or success by a name that is known")

// outcomeNamed is nil where the record has a name for how the request ended.
func (f *facts) outcomeNamed() error {
	const outcome = 1<<factStatus | 1<<factFlags | 1<<factSuccess | 1<<factGRPCStatus | 1<<factLogType | 1<<factThrottled
	if f.named&outcome == 0 {
		return errNoOutcome
	}
	return nil
}

// valueError says which value cannot be meant.
type valueError struct {
	traffic.FieldError

	at int
}

// entry makes an entry of what was told. The error is a *valueError, for the first value that cannot
// be meant.
func (f *facts) entry(e *entry) error {
	*e = entry{}
	r := reader{facts: f}
	r.names(e)
	r.outcome(e)
	r.times(e)
	r.logType(e)
	if r.err != nil {
		return r.err
	}
	return nil
}

// reader reads values. It keeps the first fault.
type reader struct {
	*facts

	err *valueError
}

func (r *reader) fail(t *claim, reason string) {
	if r.err == nil {
		r.err = &valueError{traffic.FieldError{Field: cut(t.name), Value: t.String(), Reason: reason}, t.at}
	}
}

func (r *reader) names(e *entry) {
	e.cluster, e.route = r.text(factCluster), r.text(factRoute)
	e.method, e.authority, e.path = r.text(factMethod), r.text(factAuthority), r.text(factPath)
	e.tagGateway, e.tagEndpoint = r.text(factTagGateway), r.text(factTagEndpoint)
	e.decision.domain, e.decision.gateway, e.decision.endpoint = r.text(factDomain), r.text(factGateway), r.text(factEndpoint)
}

// text is empty where the value is none: names of another kind are none.
func (r *reader) text(f fact) string {
	t := &r.claims[f]
	if t.kind != aText {
		return ""
	}
	return t.text
}

func (r *reader) outcome(e *entry) {
	e.status, e.flags = r.status(), r.flags()
	e.grpcTrailer = r.grpcStatus()
	e.decision.throttled = r.truth(factThrottled)
	e.passed, e.row = r.truth(factSuccess), r.claims[factSuccess].kind != nothing
}

func (r *reader) status() uint32 {
	n, ok := r.number(factStatus)
	if ok && n < 0 {
		r.fail(&r.claims[factStatus], "is below 0")
	}
	return uint32(min(max(n, 0), math.MaxUint16))
}

// number is 0 where nothing was told.
func (r *reader) number(f fact) (n float64, ok bool) {
	t := &r.claims[f]
	if t.kind == nothing {
		return 0, false
	}
	if n, ok = t.asNumber(); !ok {
		r.fail(t, "is not a number")
	}
	return n, ok
}

func (r *reader) flags() responseFlags {
	t := &r.claims[factFlags]
	if t.kind == nothing {
		return 0
	}
	if t.kind != aText {
		r.fail(t, "is not a text")
		return 0
	}
	var all responseFlags
	for name := range strings.SplitSeq(t.text, ",") {
		bit, known := r.vocabulary.flags[strings.TrimSpace(name)]
		if !known {
			bit = flagUnknown // extensions of Envoy have flags of their own
		}
		all |= bit
	}
	return all
}

// grpcStatus is "0" for OK, whatever it is called.
func (r *reader) grpcStatus() string {
	t := &r.claims[factGRPCStatus]
	n, isNumber := t.asNumber()
	switch {
	case t.kind == nothing:
		return ""
	case isNumber && n == 0, t.kind == aText && strings.EqualFold(t.text, "ok"):
		return "0"
	}
	return "other"
}

func (r *reader) truth(f fact) bool {
	t := &r.claims[f]
	n, isNumber := t.asNumber()
	switch {
	case t.kind == nothing:
		return false
	case t.kind == aTruth:
		return t.truth
	case isNumber && (n == 0 || n == 1):
		return n == 1
	case strings.EqualFold(t.text, "true"), strings.EqualFold(t.text, "false"):
		return strings.EqualFold(t.text, "true")
	}
	r.fail(t, "is not true or false")
	return false
}

func (r *reader) times(e *entry) {
	e.took = split(r.duration(factDuration, traffic.MaxDuration))
	e.decision.waitedMS = float64(r.duration(factWaited, traffic.MaxWaited)) / float64(time.Millisecond)
	e.end, e.start = r.time(factEnd), r.time(factStart)
	stamp := r.time(factTimestamp)
	switch {
	case stamp == secondsAndNanos{}:
	case e.row:
		e.end = stamp
	case e.start == secondsAndNanos{}:
		e.start = stamp
	}
}

func split(d time.Duration) secondsAndNanos {
	return secondsAndNanos{int64(d / time.Second), int32(d % time.Second)}
}

// duration is most for a longer one, and 0 for a negative one, as in entries of ALS.
func (r *reader) duration(f fact, most time.Duration) time.Duration {
	t := &r.claims[f]
	if t.kind == nothing {
		return 0
	}
	n, ok := t.asNumber()
	if !ok {
		d, err := time.ParseDuration(t.text)
		if err != nil || t.kind != aText {
			r.fail(t, "is not a number or a duration")
		}
		return min(max(d, 0), most)
	}
	return time.Duration(math.Round(min(max(n*float64(t.unit), 0), float64(most))))
}

// time is zero where nothing was told.
func (r *reader) time(f fact) secondsAndNanos {
	t := &r.claims[f]
	if t.kind == nothing {
		return secondsAndNanos{}
	}
	at, ok := t.asTime()
	out := secondsAndNanos{at.Unix(), int32(at.Nanosecond())} //nolint:gosec // below 1e9
	if _, within := out.time(); !ok || !within {
		r.fail(t, "is not a time after 1970, as RFC 3339 has it or in seconds, milliseconds, microseconds or nanoseconds")
		return secondsAndNanos{}
	}
	return out
}

// logType is told by a number, or by the name that Envoy has for it. Those that are not counted
// need no telling apart.
func (r *reader) logType(e *entry) {
	t := &r.claims[factLogType]
	n, isNumber := t.asNumber()
	const tcpConnectionEnd, downstreamEnd, udpSessionEnd, other = 3, 6, 13, -1
	switch {
	case isNumber:
		e.logType = int32(min(max(n, other), math.MaxInt16))
	case t.text == "TcpConnectionEnd":
		e.logType = tcpConnectionEnd
	case t.text == "DownstreamEnd":
		e.logType = downstreamEnd
	case t.text == "UdpSessionEnd":
		e.logType = udpSessionEnd
	case t.text != "" && t.text != "NotSet":
		e.logType = other
	}
	e.tcp = e.logType == tcpConnectionEnd || e.logType == udpSessionEnd || e.logType == 0 && r.ofConnection(e)
}

// ofConnection: what has neither a code nor a method, a path or a route was no request.
func (r *reader) ofConnection(e *entry) bool {
	return e.status == 0 && e.grpcTrailer == "" && e.method == "" && e.path == "" && e.route == ""
}
