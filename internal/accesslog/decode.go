package accesslog

import (
	"math"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/wire"
)

// Where Envoy keeps what the rate limit service said of a request, and of a connection.
const (
	metadataNamespace    = "envoy.filters.http.ratelimit"
	tcpMetadataNamespace = "envoy.filters.network.ratelimit"
)

// visitor takes what is in messages. It is for one goroutine at a time.
type visitor struct {
	entry   func(*entry) // valid during the call only
	bad     func(error)  // an entry, or the rest of a list of entries, that cannot be read
	request bool         // also read what the request was: method, authority and path

	current entry
}

// The fields that are read, by what Envoy's .proto files call them. Of fields of one message, and
// of keys of one map, the last counts; messages that come twice are merged, as protobuf has it.
const (
	messageHTTPLogs  = 2<<3 | wire.Bytes
	messageTCPLogs   = 3<<3 | wire.Bytes
	logsEntry        = 1<<3 | wire.Bytes
	entryCommon      = 1<<3 | wire.Bytes
	entryRequest     = 3<<3 | wire.Bytes
	entryResponse    = 4<<3 | wire.Bytes
	commonStartTime  = 5<<3 | wire.Bytes
	commonCluster    = 15<<3 | wire.Bytes
	commonFlags      = 16<<3 | wire.Bytes
	commonMetadata   = 17<<3 | wire.Bytes
	commonRouteName  = 19<<3 | wire.Bytes
	commonCustomTags = 22<<3 | wire.Bytes
	commonDuration   = 23<<3 | wire.Bytes
	commonUnderway   = 27<<3 | wire.Varint // intermediate_log_entry
	commonLogType    = 33<<3 | wire.Varint
	requestMethod    = 1<<3 | wire.Varint
	requestAuthority = 3<<3 | wire.Bytes
	requestPath      = 5<<3 | wire.Bytes
	responseCode     = 1<<3 | wire.Bytes
	responseHeaders  = 4<<3 | wire.Bytes
	responseTrailers = 5<<3 | wire.Bytes
	wrappedUint      = 1<<3 | wire.Varint
	timeSeconds      = 1<<3 | wire.Varint
	timeNanos        = 2<<3 | wire.Varint
	metadataFilters  = 1<<3 | wire.Bytes
	pairKey          = 1<<3 | wire.Bytes
	pairValue        = 2<<3 | wire.Bytes
	structFields     = 1<<3 | wire.Bytes
	valueNull        = 1<<3 | wire.Varint
	valueNumber      = 2<<3 | wire.Fixed64
	valueString      = 3<<3 | wire.Bytes
	valueBool        = 4<<3 | wire.Varint
	valueStruct      = 5<<3 | wire.Bytes
	valueList        = 6<<3 | wire.Bytes
)

// message decodes a StreamAccessLogsMessage and shows its entries in order. An error says why the
// rest of the message cannot be read.
func (v *visitor) message(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case messageHTTPLogs:
			v.list(c.Bytes, false)
		case messageTCPLogs:
			v.list(c.Bytes, true)
		}
	}
	return c.Err()
}

// list shows each log_entry of an HTTPAccessLogEntries or TCPAccessLogEntries.
func (v *visitor) list(b []byte, tcp bool) {
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag != logsEntry {
			continue
		}
		v.current = entry{tcp: tcp}
		if err := v.current.decode(c.Bytes, v.request); err != nil {
			v.bad(err)
			continue
		}
		v.entry(&v.current)
	}
	if c.Err() != nil {
		v.bad(c.Err())
	}
}

func (e *entry) decode(b []byte, request bool) (err error) {
	c := wire.Walk(b)
	for err == nil && c.Next() {
		switch {
		case c.Tag == entryCommon:
			err = e.decodeCommon(c.Bytes)
		case e.tcp:
		case c.Tag == entryRequest && request:
			err = e.decodeRequest(c.Bytes)
		case c.Tag == entryResponse:
			err = e.decodeResponse(c.Bytes)
		}
	}
	return firstOf(err, c.Err())
}

func firstOf(err, next error) error {
	if err != nil {
		return err
	}
	return next
}

func (e *entry) decodeCommon(b []byte) (err error) {
	c := wire.Walk(b)
	for err == nil && c.Next() {
		switch c.Tag {
		case commonStartTime:
			err = e.start.decode(c.Bytes)
		case commonCluster:
			e.cluster = c.Text()
		case commonFlags:
			err = e.flags.decode(c.Bytes)
		case commonMetadata:
			err = e.decodeMetadata(c.Bytes)
		case commonRouteName:
			e.route = c.Text()
		case commonCustomTags:
			err = e.decodeTag(c.Bytes)
		case commonDuration:
			err = e.took.decode(c.Bytes)
		case commonUnderway:
			e.underway = c.Uint != 0
		case commonLogType:
			e.logType = int32(c.Uint) //nolint:gosec // protobuf keeps the low 32 bits
		}
	}
	return firstOf(err, c.Err())
}

func (t *secondsAndNanos) decode(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case timeSeconds:
			t.seconds = int64(c.Uint) //nolint:gosec // two's complement, as protobuf has it
		case timeNanos:
			t.nanos = int32(c.Uint) //nolint:gosec // protobuf keeps the low 32 bits
		}
	}
	return c.Err()
}

func (f *responseFlags) decode(b []byte) error {
	const unauthorizedDetails, most = 13, 63 // the first is a message, set where it is there
	c := wire.Walk(b)
	for c.Next() {
		num, isVarint := c.Tag.Number(), c.Tag&7 == wire.Varint
		switch {
		case num > most:
		case isVarint && num != unauthorizedDetails && c.Uint == 0:
			*f &^= flag(num)
		case isVarint && num != unauthorizedDetails, c.Tag == unauthorizedDetails<<3|wire.Bytes:
			*f |= flag(num)
		}
	}
	return c.Err()
}

func flag(num protowire.Number) responseFlags { return 1 << num }

func (e *entry) decodeRequest(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case requestMethod:
			e.method = methodOf(int32(c.Uint)) //nolint:gosec // protobuf keeps the low 32 bits
		case requestAuthority:
			e.authority = c.Text()
		case requestPath:
			e.path = c.Text()
		}
	}
	return c.Err()
}

// methodOf names an envoy.config.core.v3.RequestMethod; empty for one that is not there.
func methodOf(number int32) string {
	names := [...]string{"", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
	if number < 0 || int(number) >= len(names) {
		return ""
	}
	return names[number]
}

func (e *entry) decodeResponse(b []byte) (err error) {
	c := wire.Walk(b)
	for err == nil && c.Next() {
		switch c.Tag {
		case responseCode:
			err = e.decodeStatus(c.Bytes)
		case responseHeaders:
			err = grpcStatus(c.Bytes, &e.grpcHeader)
		case responseTrailers:
			err = grpcStatus(c.Bytes, &e.grpcTrailer)
		}
	}
	return firstOf(err, c.Err())
}

func (e *entry) decodeStatus(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == wrappedUint {
			e.status = uint32(c.Uint) //nolint:gosec // protobuf keeps the low 32 bits
		}
	}
	return c.Err()
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
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case pairKey:
			key = c.Text()
		case pairValue:
			value = c.Text()
		}
	}
	return key, value, c.Err()
}

// messagePair reads an entry of a map<string, message>.
func messagePair(b []byte) (key string, value []byte, err error) {
	var parts parts
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case pairKey:
			key = c.Text()
		case pairValue:
			parts.add(c.Bytes)
		}
	}
	return key, parts.all, c.Err()
}

// parts are those of a message that may come in several: it is the same as its parts one after the
// other.
type parts struct {
	all []byte
	n   int
}

func (p *parts) add(b []byte) {
	if p.n++; p.n == 1 {
		p.all = b
		return
	}
	p.all = append(slices.Clip(p.all), b...)
}

func (e *entry) decodeMetadata(b []byte) (err error) {
	wanted := metadataNamespace
	if e.tcp {
		wanted = tcpMetadataNamespace
	}
	c := wire.Walk(b)
	for err == nil && c.Next() {
		if c.Tag != metadataFilters {
			continue
		}
		var namespace string
		var fields []byte
		if namespace, fields, err = messagePair(c.Bytes); err == nil && namespace == wanted {
			e.decision = decision{} // of a key that comes twice in a map, the last counts
			err = e.decision.decode(fields)
		}
	}
	return firstOf(err, c.Err())
}

// decode reads the Struct that package rls sends as dynamic metadata.
func (d *decision) decode(b []byte) (err error) {
	c := wire.Walk(b)
	for err == nil && c.Next() {
		if c.Tag == structFields {
			err = d.decodeField(c.Bytes)
		}
	}
	return firstOf(err, c.Err())
}

func (d *decision) decodeField(b []byte) error {
	name, value, err := messagePair(b)
	if err != nil {
		return err
	}
	var s structValue
	if err := s.decode(value); err != nil {
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

func (s *structValue) decode(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case valueNumber:
			*s = structValue{number: math.Float64frombits(c.Uint)}
		case valueString:
			*s = structValue{text: c.Text()}
		case valueBool:
			*s = structValue{truth: c.Uint != 0}
		case valueNull, valueStruct, valueList:
			*s = structValue{}
		}
	}
	return c.Err()
}
