package recorder

import (
	"math"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/wire"
)

// Where Envoy keeps what the rate limit service said of a request, and of a connection.
const (
	metadataNamespace    = "envoy.filters.http.ratelimit"
	tcpMetadataNamespace = "envoy.filters.network.ratelimit"
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

func flag(num protowire.Number) responseFlags { return 1 << num }

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

// visitor takes what is in a message.
type visitor struct {
	entry func(*entry) // valid during the call only
	bad   func(error)  // an entry, or the rest of a list of entries, that cannot be read
}

// eachEntry decodes a StreamAccessLogsMessage and shows v its entries in order. An error says why
// the rest of the message cannot be read.
func eachEntry(b []byte, v visitor) error {
	return wire.Fields(b, func(num protowire.Number, list wire.Value) error {
		const httpLogs, tcpLogs = 2, 3
		if logs, ok := list.Bytes(); ok && (num == httpLogs || num == tcpLogs) {
			v.list(logs, num == tcpLogs)
		}
		return nil
	})
}

// list shows each log_entry of an HTTPAccessLogEntries or TCPAccessLogEntries.
func (v *visitor) list(b []byte, tcp bool) {
	var e entry
	err := wire.Fields(b, func(num protowire.Number, field wire.Value) error {
		b, ok := field.Bytes()
		if !ok || num != 1 {
			return nil
		}
		e = entry{tcp: tcp}
		if err := e.decode(b); err != nil {
			v.bad(err)
			return nil
		}
		v.entry(&e)
		return nil
	})
	if err != nil {
		v.bad(err)
	}
}

func (e *entry) decode(b []byte) error {
	return wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		b, ok := v.Bytes()
		switch {
		case !ok:
		case num == 1:
			return wire.Fields(b, e.commonField)
		case num == 4 && !e.tcp:
			return wire.Fields(b, e.responseField)
		}
		return nil
	})
}

func (e *entry) commonField(num protowire.Number, v wire.Value) error {
	n, isVarint := v.Varint()
	switch {
	case isVarint && num == 27:
		e.underway = n != 0
	case isVarint && num == 33:
		e.logType = int32(n) //nolint:gosec // protobuf keeps the low 32 bits
	}
	b, ok := v.Bytes()
	if !ok {
		return nil
	}
	switch num {
	case 5:
		return wire.Fields(b, e.start.field)
	case 15:
		e.cluster, _ = v.String()
	case 16:
		return wire.Fields(b, e.flagField)
	case 17:
		return wire.Fields(b, e.metadataField)
	case 19:
		e.route, _ = v.String()
	case 22:
		return e.decodeTag(b)
	case 23:
		return wire.Fields(b, e.took.field)
	}
	return nil
}

// secondsAndNanos is a google.protobuf.Timestamp or Duration as it was sent.
type secondsAndNanos struct {
	seconds int64
	nanos   int32
}

func (t *secondsAndNanos) field(num protowire.Number, v wire.Value) error {
	n, ok := v.Varint()
	switch {
	case !ok:
	case num == 1:
		t.seconds = int64(n) //nolint:gosec // two's complement, as protobuf has it
	case num == 2:
		t.nanos = int32(n) //nolint:gosec // protobuf keeps the low 32 bits
	}
	return nil
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

func (e *entry) flagField(num protowire.Number, v wire.Value) error {
	const unauthorizedDetails, most = 13, 63 // the first is a message, set where it is there
	n, isVarint := v.Varint()
	_, isMessage := v.Bytes()
	switch {
	case num > most:
	case isVarint && num != unauthorizedDetails && n == 0:
		e.flags &^= flag(num)
	case isVarint && num != unauthorizedDetails, isMessage && num == unauthorizedDetails:
		e.flags |= flag(num)
	}
	return nil
}

func (e *entry) responseField(num protowire.Number, v wire.Value) error {
	b, ok := v.Bytes()
	switch {
	case !ok:
	case num == 1:
		return wire.Fields(b, func(num protowire.Number, v wire.Value) error {
			if n, ok := v.Varint(); ok && num == 1 {
				e.status = uint32(n) //nolint:gosec // protobuf keeps the low 32 bits
			}
			return nil
		})
	case num == 4:
		return grpcStatus(b, &e.grpcHeader)
	case num == 5:
		return grpcStatus(b, &e.grpcTrailer)
	}
	return nil
}

func grpcStatus(b []byte, to *string) error {
	key, value, err := stringPair(b)
	if err == nil && key == "grpc-status" {
		*to = value
	}
	return err
}

func (e *entry) decodeTag(b []byte) error {
	key, value, err := stringPair(b)
	if err != nil {
		return err
	}
	switch key {
	case "gateway":
		e.tagGateway = value
	case "endpoint":
		e.tagEndpoint = value
	}
	return nil
}

// stringPair reads an entry of a map<string, string>.
func stringPair(b []byte) (key, value string, err error) {
	err = wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		s, ok := v.String()
		switch {
		case !ok:
		case num == 1:
			key = s
		case num == 2:
			value = s
		}
		return nil
	})
	return key, value, err
}

// messagePair reads an entry of a map<string, message>. A message that comes in parts is the
// same as its parts one after the other.
func messagePair(b []byte) (key string, value []byte, err error) {
	parts := 0
	err = wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		part, ok := v.Bytes()
		switch {
		case !ok:
		case num == 1:
			key, _ = v.String()
		case num == 2 && parts == 0:
			value, parts = part, 1
		case num == 2:
			value, parts = append(slices.Clip(value), part...), parts+1
		}
		return nil
	})
	return key, value, err
}

func (e *entry) metadataField(num protowire.Number, v wire.Value) error {
	b, ok := v.Bytes()
	if !ok || num != 1 {
		return nil
	}
	wanted := metadataNamespace
	if e.tcp {
		wanted = tcpMetadataNamespace
	}
	namespace, fields, err := messagePair(b)
	if err != nil || namespace != wanted {
		return err
	}
	e.decision = decision{} // of a key that comes twice in a map, the last counts
	return wire.Fields(fields, func(num protowire.Number, v wire.Value) error {
		if b, ok := v.Bytes(); ok && num == 1 {
			return e.decision.decodeField(b)
		}
		return nil
	})
}

// decodeField reads one field of the Struct that package rls sends as dynamic metadata.
func (d *decision) decodeField(b []byte) error {
	name, value, err := messagePair(b)
	if err != nil {
		return err
	}
	var s structValue
	if err := wire.Fields(value, s.field); err != nil {
		return err
	}
	switch name {
	case "domain":
		d.domain = s.text
	case "gateway":
		d.gateway = s.text
	case "endpoint":
		d.endpoint = s.text
	case "throttled":
		d.throttled = s.truth
	case "waited_ms":
		d.waitedMS = s.number
	}
	return nil
}

// structValue is a google.protobuf.Value: of its kinds, the one that came last.
type structValue struct {
	number float64
	text   string
	truth  bool
}

func (s *structValue) field(num protowire.Number, v wire.Value) error {
	bits, isDouble := v.Fixed64()
	text, isBytes := v.String()
	n, isVarint := v.Varint()
	switch {
	case num == 2 && isDouble:
		*s = structValue{number: math.Float64frombits(bits)}
	case num == 3 && isBytes:
		*s = structValue{text: text}
	case num == 4 && isVarint:
		*s = structValue{truth: n != 0}
	case (num == 1 && isVarint) || ((num == 5 || num == 6) && isBytes): // null, struct, list
		*s = structValue{}
	}
	return nil
}
