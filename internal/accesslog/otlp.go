package accesslog

import (
	"context"
	"fmt"
	"math"
	"time"

	"google.golang.org/grpc"

	"github.com/tps-agent/ratelimitd/internal/wire"
)

// The fields of opentelemetry.proto.{collector.logs,logs,resource,common}.v1 that are read.
const (
	exportResourceLogs   = 1<<3 | wire.Bytes
	resourceLogsResource = 1<<3 | wire.Bytes
	resourceLogsScopes   = 2<<3 | wire.Bytes
	resourceAttributes   = 1<<3 | wire.Bytes
	scopeRecords         = 2<<3 | wire.Bytes
	recordTime           = 1<<3 | wire.Fixed64
	recordBody           = 5<<3 | wire.Bytes
	recordAttributes     = 6<<3 | wire.Bytes
	recordObservedTime   = 11<<3 | wire.Fixed64
	anyText              = 1<<3 | wire.Bytes
	anyTruth             = 2<<3 | wire.Varint
	anyWhole             = 3<<3 | wire.Varint
	anyFloat             = 4<<3 | wire.Fixed64
	anyArray             = 5<<3 | wire.Bytes
	anyList              = 6<<3 | wire.Bytes
	anyBytes             = 7<<3 | wire.Bytes
	anyTextIndex         = 8<<3 | wire.Varint
	listValues           = 1<<3 | wire.Bytes
)

// export is an ExportLogsServiceRequest on its way in. It is used again for others.
type export struct {
	taker

	resource facts // of the records that are read
	record   facts
	path     []byte
	entry    entry
}

func newExport(s *Service) *export {
	return &export{taker: newTaker(s), path: make([]byte, 0, mostPath)}
}

// exportLogs answers Export. Records that cannot be read are counted here, and the answer says that all
// went well: Envoy would take a partial success for the loss of the whole batch (envoyproxy/envoy#34072).
func exportLogs(srv any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) { //nolint:revive // grpc-go's order of arguments
	s := srv.(*Service)
	x := s.exports.Get().(*export)
	defer s.exports.Put(x)
	if err := decode(x); err != nil {
		return nil, err
	}
	return empty{}, nil
}

// UnmarshalWire records every record of the request that is an entry of an access log. It never fails.
func (x *export) UnmarshalWire(b []byte) error {
	x.read(b, time.Now())
	return nil
}

func (x *export) read(b []byte, receivedAt time.Time) {
	x.receivedAt = receivedAt
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == exportResourceLogs {
			x.bad(x.resourceLogs(c.Bytes))
		}
	}
	x.bad(c.Err())
	x.flush()
}

func (x *export) bad(err error) {
	if err != nil {
		x.service.Malformed(err)
	}
}

// resourceLogs reads the resource first, wherever it stands.
func (x *export) resourceLogs(b []byte) error {
	x.resource = facts{vocabulary: &x.service.cfg.Mapping.vocabulary}
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == resourceLogsResource {
			x.bad(x.tellAttributes(&x.resource, c.Bytes, resourceAttributes))
		}
	}
	c = wire.Walk(b)
	for c.Next() {
		if c.Tag == resourceLogsScopes {
			x.bad(x.scopeLogs(c.Bytes))
		}
	}
	return c.Err()
}

func (x *export) scopeLogs(b []byte) error {
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == scopeRecords {
			x.bad(x.logRecord(c.Bytes))
		}
	}
	return c.Err()
}

// logRecord takes a record: its attributes go before its body, and that before the resource.
func (x *export) logRecord(b []byte) error {
	x.record = x.resource
	at, err := x.tellBody(b)
	if err != nil {
		return err
	}
	if err := x.tellAttributes(&x.record, b, recordAttributes); err != nil {
		return err
	}
	if !x.record.ofRequest() {
		x.service.ignored.Inc()
		return nil
	}
	if err := x.record.entry(&x.entry); err != nil {
		return fmt.Errorf("a log record: %w", err)
	}
	at.fill(&x.entry)
	x.take(&x.entry)
	return nil
}

// recordTimes are those of a record itself, in nanoseconds since 1970; 0 = none.
type recordTimes struct{ time, observed uint64 }

// fill stands in where attributes and body tell no time. Envoy gives a record the time at which the
// request began.
func (r recordTimes) fill(e *entry) {
	switch none := (secondsAndNanos{}); {
	case e.start != none || e.end != none:
	case r.time != 0:
		e.start = sinceEpochNS(r.time)
	case r.observed != 0:
		e.end = sinceEpochNS(r.observed)
	}
}

func sinceEpochNS(ns uint64) secondsAndNanos {
	const second = uint64(time.Second)
	return secondsAndNanos{int64(ns / second), int32(ns % second)} //nolint:gosec // both are small enough
}

// tellBody reads the body of a record, and its times.
func (x *export) tellBody(b []byte) (at recordTimes, err error) {
	var body parts
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case recordTime:
			at.time = c.Uint
		case recordObservedTime:
			at.observed = c.Uint
		case recordBody:
			body.add(c.Bytes)
		}
	}
	if c.Err() != nil {
		return at, c.Err()
	}
	return at, x.tellObject(body.all)
}

// tellObject tells what the body says: that is an AnyValue with names in it, or JSON as a text.
func (x *export) tellObject(body []byte) error {
	v, err := decodeAny(body)
	switch {
	case err != nil:
		return err
	case v.list.n > 0:
		return x.tellList(&x.record, v.list.all, x.path, 0)
	}
	x.record.tellText(v.text, x.path, -1)
	return nil
}

// tellAttributes tells the fields of b with a tag, each of which is a KeyValue.
func (x *export) tellAttributes(f *facts, b []byte, attributes wire.Tag) error {
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == attributes {
			if err := x.tellPair(f, c.Bytes, x.path, 0); err != nil {
				return err
			}
		}
	}
	return c.Err()
}

func (x *export) tellPair(f *facts, b, path []byte, depth int) error {
	name, value, err := messagePair(b)
	if err != nil {
		return err
	}
	v, err := decodeAny(value)
	if err != nil {
		return err
	}
	path, short := fold(path, name)
	switch {
	case !short:
	case v.list.n > 0 && depth < mostNested:
		return x.tellList(f, v.list.all, path, depth+1)
	default:
		f.tell(path, name, v.scalar, -1)
	}
	return nil
}

func (x *export) tellList(f *facts, b, path []byte, depth int) error {
	c := wire.Walk(b)
	for c.Next() {
		if c.Tag == listValues {
			if err := x.tellPair(f, c.Bytes, path, depth); err != nil {
				return err
			}
		}
	}
	return c.Err()
}

// anyValue is an AnyValue: of its kinds, the one that came last.
type anyValue struct {
	scalar
	list parts // of a KeyValueList
}

func decodeAny(b []byte) (v anyValue, err error) {
	c := wire.Walk(b)
	for c.Next() {
		switch c.Tag {
		case anyText:
			v = anyValue{scalar: textScalar(c.Text())}
		case anyTruth:
			v = anyValue{scalar: truthScalar(c.Uint != 0)}
		case anyWhole:
			v = anyValue{scalar: wholeScalar(int64(c.Uint))} //nolint:gosec // two's complement, as protobuf has it
		case anyFloat:
			v = anyValue{scalar: floatScalar(math.Float64frombits(c.Uint))}
		case anyList:
			v.scalar = scalar{}
			v.list.add(c.Bytes)
		case anyArray, anyBytes, anyTextIndex:
			v = anyValue{}
		}
	}
	return v, c.Err()
}
