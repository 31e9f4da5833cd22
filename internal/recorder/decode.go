package recorder

import (
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/wire"
)

// metadataNamespace is where Envoy keeps what the rate limit service said of a request.
const metadataNamespace = "envoy.filters.http.ratelimit"

// entry is what is taken from one HTTPAccessLogEntry. Its strings alias the message.
type entry struct {
	logType     int32
	start       time.Time
	hasStart    bool
	duration    time.Duration
	cluster     string
	route       string
	rateLimited bool
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

// counted tells whether the entry is the end of a request. Older Envoys send no type.
func (e *entry) counted() bool {
	const notSet, downstreamEnd = 0, 6
	return e.logType == notSet || e.logType == downstreamEnd
}

// eachEntry decodes a StreamAccessLogsMessage and calls http with each entry that can be read;
// bad with each that cannot, and tcp with the number of TCP entries. An error says why the rest
// of the message cannot be read. The entry is valid during the call only.
func eachEntry(b []byte, http func(*entry), bad func(error), tcp func(int)) error {
	var e entry
	return wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		logs, ok := v.Bytes()
		switch {
		case !ok:
		case num == 2:
			return wire.Fields(logs, func(num protowire.Number, v wire.Value) error {
				if b, ok := v.Bytes(); ok && num == 1 {
					e = entry{}
					if err := e.decode(b); err != nil {
						bad(err)
					} else {
						http(&e)
					}
				}
				return nil
			})
		case num == 3:
			n := 0
			err := wire.Fields(logs, func(num protowire.Number, v wire.Value) error {
				if _, ok := v.Bytes(); ok && num == 1 {
					n++
				}
				return nil
			})
			tcp(n)
			return err
		}
		return nil
	})
}

func (e *entry) decode(b []byte) error {
	return wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		b, ok := v.Bytes()
		switch {
		case !ok:
		case num == 1:
			return wire.Fields(b, e.commonField)
		case num == 4:
			return wire.Fields(b, e.responseField)
		}
		return nil
	})
}

func (e *entry) commonField(num protowire.Number, v wire.Value) error {
	if n, ok := v.Varint(); ok && num == 33 {
		e.logType = int32(n) //nolint:gosec // protobuf keeps the low 32 bits
	}
	b, ok := v.Bytes()
	if !ok {
		return nil
	}
	switch num {
	case 5:
		return e.decodeStart(b)
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
		return e.decodeDuration(b)
	}
	return nil
}

// secondsAndNanos reads a Timestamp or a Duration over what came before of it.
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
		t.nanos = int32(n) //nolint:gosec // as above
	}
	return nil
}

func (e *entry) decodeStart(b []byte) error {
	var t secondsAndNanos
	if e.hasStart {
		t = secondsAndNanos{e.start.Unix(), int32(e.start.Nanosecond())} //nolint:gosec // below 1e9
	}
	if err := wire.Fields(b, t.field); err != nil {
		return err
	}
	const year10000 = 253402300800
	if t.seconds <= 0 || t.seconds >= year10000 || t.nanos < 0 || t.nanos >= 1e9 {
		e.hasStart = false // no Timestamp that Envoy can have meant
		return nil
	}
	e.start, e.hasStart = time.Unix(t.seconds, int64(t.nanos)), true
	return nil
}

// decodeDuration takes a duration as it is; one that is negative or beyond 292 years is 0.
func (e *entry) decodeDuration(b []byte) error {
	t := secondsAndNanos{int64(e.duration / time.Second), int32(e.duration % time.Second)} //nolint:gosec // below 1e9
	if err := wire.Fields(b, t.field); err != nil {
		return err
	}
	const most = int64(math.MaxInt64/time.Second) - 1
	if t.seconds < 0 || t.seconds > most || t.nanos < 0 || t.nanos >= 1e9 {
		e.duration = 0
		return nil
	}
	e.duration = time.Duration(t.seconds)*time.Second + time.Duration(t.nanos)
	return nil
}

func (e *entry) flagField(num protowire.Number, v wire.Value) error {
	if n, ok := v.Varint(); ok && num == 12 {
		e.rateLimited = n != 0
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
			value, parts = append(value[:len(value):len(value)], part...), parts+1
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
	namespace, fields, err := messagePair(b)
	if err != nil || namespace != metadataNamespace {
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
