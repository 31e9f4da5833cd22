package rls

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/wire"
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
	unit     uint32 // envoy.type.v3.RateLimitUnit
}

// UnmarshalWire decodes b, which it does not keep. Bytes that are no message are no error
// here: the handler answers them with InvalidArgument, where the transport would make them an
// Internal error.
func (r *Request) UnmarshalWire(b []byte) error {
	r.buf = append(r.buf[:0], b...)
	r.Domain, r.FromFiles, r.ChargeEach, r.hits, r.decodingIs = "", false, false, 0, nil
	r.Descriptors, r.fields, r.entries = r.Descriptors[:0], r.fields[:0], r.entries[:0]
	if err := wire.Fields(r.buf, r.field); err != nil {
		r.decodingIs = fmt.Errorf("the bytes are no envoy.service.ratelimit.v3.RateLimitRequest: %w", err)
	}
	for i := range r.fields {
		f := &r.fields[i]
		r.Descriptors = append(r.Descriptors, buckets.Descriptor{Entries: r.entries[f.firstEntry:f.lastEntry:f.lastEntry]})
	}
	return nil
}

func (r *Request) field(num protowire.Number, v wire.Value) error {
	switch num {
	case 1:
		setString(&r.Domain, v)
	case 2:
		if b, ok := v.Bytes(); ok {
			return r.descriptor(b)
		}
	case 3:
		setUint32(&r.hits, v)
	}
	return nil
}

func (r *Request) descriptor(b []byte) error {
	r.fields = append(r.fields, descriptorFields{firstEntry: len(r.entries)})
	f := &r.fields[len(r.fields)-1]
	err := wire.Fields(b, func(num protowire.Number, v wire.Value) error { return r.descriptorField(f, num, v) })
	f.lastEntry = len(r.entries)
	return err
}

func (r *Request) descriptorField(f *descriptorFields, num protowire.Number, v wire.Value) error {
	if num == 4 {
		if n, ok := v.Varint(); ok {
			f.negative = n != 0
		}
		return nil
	}
	b, ok := v.Bytes()
	if !ok {
		return nil
	}
	switch num {
	case 1:
		r.entries = append(r.entries, buckets.Entry{})
		e := &r.entries[len(r.entries)-1]
		return wire.Fields(b, func(num protowire.Number, v wire.Value) error { return entryField(e, num, v) })
	case 2:
		f.hasLimit = true
		return wire.Fields(b, f.limitField)
	case 3:
		f.hasHits = true
		return wire.Fields(b, f.hitsField)
	}
	return nil
}

func entryField(e *buckets.Entry, num protowire.Number, v wire.Value) error {
	switch num {
	case 1:
		setString(&e.Key, v)
	case 2:
		setString(&e.Value, v)
	}
	return nil
}

func (f *descriptorFields) limitField(num protowire.Number, v wire.Value) error {
	switch num {
	case 1:
		setUint32(&f.limit, v)
	case 2:
		setUint32(&f.unit, v)
	}
	return nil
}

func (f *descriptorFields) hitsField(num protowire.Number, v wire.Value) error {
	if n, ok := v.Varint(); ok && num == 1 {
		f.hits = n
	}
	return nil
}

func setString(to *string, v wire.Value) {
	if s, ok := v.String(); ok {
		*to = s
	}
}

// setUint32 keeps the low 32 bits, as protobuf does.
func setUint32(to *uint32, v wire.Value) {
	if n, ok := v.Varint(); ok {
		*to = uint32(n) //nolint:gosec // cut on purpose
	}
}
