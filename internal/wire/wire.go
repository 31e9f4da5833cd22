// Package wire walks protobuf messages field by field, without knowing their schema.
//
// Messages from outside are decoded by hand where the protobuf library is too strict: it
// refuses a whole message for one string that is not valid UTF-8, and clients of Envoy choose
// the bytes of such strings. But for that, what the library accepts is accepted here and read
// alike, and what it refuses is refused; a field of another wire type than the schema says is
// an unknown one, and passed over.
//
// Nothing here allocates but an error, and no input makes it panic.
package wire

import (
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// Value is the content of one field as it stands on the wire.
type Value struct {
	kind  protowire.Type
	num   uint64
	bytes []byte
}

// Varint returns the number of a varint field.
func (v *Value) Varint() (uint64, bool) { return v.num, v.kind == protowire.VarintType }

// Fixed64 returns the bits of a fixed64 or double field.
func (v *Value) Fixed64() (uint64, bool) { return v.num, v.kind == protowire.Fixed64Type }

// Bytes returns the content of a string, bytes or message field. It aliases the message.
func (v *Value) Bytes() ([]byte, bool) { return v.bytes, v.kind == protowire.BytesType }

// String is Bytes as a string, which aliases the message: it must not be used after the
// message's memory was.
func (v *Value) String() (string, bool) {
	return unsafe.String(unsafe.SliceData(v.bytes), len(v.bytes)), v.kind == protowire.BytesType //nolint:gosec // spares a copy of each string; the comment says how long it is valid
}

// Fields calls f for each field of a message, in order, until one fails. The error is f's, or
// says why b is no message. [Cursor] does the same at less cost.
func Fields(b []byte, f func(num protowire.Number, v Value) error) error {
	c := Walk(b)
	for c.Next() {
		if err := f(c.Tag.Number(), c.value()); err != nil {
			return err
		}
	}
	return c.Err()
}

func (c *Cursor) value() Value {
	v := Value{kind: protowire.Type(c.Tag & 7)}
	switch c.Tag & 7 {
	case Varint, Fixed64:
		v.num = c.Uint
	case Bytes:
		v.bytes = c.Bytes
	}
	return v
}
