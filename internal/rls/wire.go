package rls

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// Request is an envoy.service.ratelimit.v3.RateLimitRequest as it came over the wire. It is
// made for use again: decoding keeps its memory. Strings in it alias its own copy of the
// message, and are valid until the next UnmarshalWire.
type Request struct {
	buckets.Request

	buf        []byte
	hits       uint32
	fields     []descriptorFields // beside Descriptors
	entries    []buckets.Entry    // of all descriptors, one after the other
	decodingIs error
}

// descriptorFields is what a RateLimitDescriptor says besides its entries.
type descriptorFields struct {
	firstEntry, lastEntry int

	hits     uint64
	hasHits  bool
	negative bool

	hasLimit bool
	limit    uint32
	unit     int32
}

// UnmarshalWire decodes b, which it does not keep. Bytes that are no message are no error
// here: the handler answers them with InvalidArgument, where the transport would make them an
// Internal error.
func (r *Request) UnmarshalWire(b []byte) error {
	r.buf = append(r.buf[:0], b...)
	r.Domain, r.hits = "", 0
	r.Descriptors, r.fields, r.entries = r.Descriptors[:0], r.fields[:0], r.entries[:0]
	r.decodingIs = eachField(r.buf, r.field)
	for i := range r.fields {
		f := &r.fields[i]
		r.Descriptors = append(r.Descriptors, buckets.Descriptor{Entries: r.entries[f.firstEntry:f.lastEntry:f.lastEntry]})
	}
	return nil
}

func (r *Request) field(num protowire.Number, v value) error {
	switch {
	case num == 1 && v.isBytes():
		r.Domain = v.string()
	case num == 2 && v.isBytes():
		r.fields = append(r.fields, descriptorFields{firstEntry: len(r.entries)})
		f := &r.fields[len(r.fields)-1]
		err := eachField(v.bytes, func(num protowire.Number, v value) error { return r.descriptorField(f, num, v) })
		f.lastEntry = len(r.entries)
		return err
	case num == 3 && v.isVarint():
		r.hits = uint32(v.varint) //nolint:gosec // protobuf keeps the low 32 bits
	}
	return nil
}

func (r *Request) descriptorField(f *descriptorFields, num protowire.Number, v value) error {
	switch {
	case num == 1 && v.isBytes():
		r.entries = append(r.entries, buckets.Entry{})
		e := &r.entries[len(r.entries)-1]
		return eachField(v.bytes, func(num protowire.Number, v value) error { return entryField(e, num, v) })
	case num == 2 && v.isBytes():
		f.hasLimit = true
		return eachField(v.bytes, f.limitField)
	case num == 3 && v.isBytes():
		f.hasHits = true
		return eachField(v.bytes, f.hitsField)
	case num == 4 && v.isVarint():
		f.negative = v.varint != 0
	}
	return nil
}

func entryField(e *buckets.Entry, num protowire.Number, v value) error {
	switch {
	case num == 1 && v.isBytes():
		e.Key = v.string()
	case num == 2 && v.isBytes():
		e.Value = v.string()
	}
	return nil
}

func (f *descriptorFields) limitField(num protowire.Number, v value) error {
	switch {
	case num == 1 && v.isVarint():
		f.limit = uint32(v.varint) //nolint:gosec // protobuf keeps the low 32 bits
	case num == 2 && v.isVarint():
		f.unit = int32(v.varint) //nolint:gosec // protobuf keeps the low 32 bits
	}
	return nil
}

func (f *descriptorFields) hitsField(num protowire.Number, v value) error {
	if num == 1 && v.isVarint() {
		f.hits = v.varint
	}
	return nil
}

// value is one field as it stands on the wire. A field of another type than the schema's is
// an unknown one to protobuf, and is passed over.
type value struct {
	kind   protowire.Type
	varint uint64
	bytes  []byte
}

func (v *value) isBytes() bool  { return v.kind == protowire.BytesType }
func (v *value) isVarint() bool { return v.kind == protowire.VarintType }
func (v *value) string() string { return alias(v.bytes) }

// eachField calls f for every field of a message, in order.
func eachField(b []byte, f func(protowire.Number, value) error) error {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(protowire.ParseError(n))
		}
		b = b[n:]
		v := value{kind: kind}
		switch kind {
		case protowire.VarintType:
			v.varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			v.bytes, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, kind, b)
		}
		if n < 0 {
			return malformed(protowire.ParseError(n))
		}
		b = b[n:]
		if err := f(num, v); err != nil {
			return err
		}
	}
	return nil
}

func malformed(err error) error {
	return fmt.Errorf("decoding the message as envoy.service.ratelimit.v3.RateLimitRequest: %w", err)
}
