package wire

import (
	"fmt"
	"unsafe"

	"google.golang.org/protobuf/encoding/protowire"
)

// Tag is what stands before a field on the wire: number<<3 | wire type. A schema is a set of tags:
// a field of another wire type than the schema says has another tag, and is an unknown one.
type Tag uint32

// The wire types of the fields whose values a Cursor shows.
const (
	Varint  = 0
	Fixed64 = 1
	Bytes   = 2
)

// Number is the number of the field.
func (t Tag) Number() protowire.Number { return protowire.Number(t >> 3) }

// Cursor walks a message field by field:
//
//	c := wire.Walk(b)
//	for c.Next() {
//		switch c.Tag {
//		case 5<<3 | wire.Bytes: // c.Bytes
//		}
//	}
//	return c.Err()
//
// Tag, and Uint or Bytes as its wire type says, are those of the field that Next went to; before
// that, and when it has said that there is no more, they mean nothing. Messages inside are the bytes
// that they are, and are not looked into.
type Cursor struct {
	Tag   Tag
	Uint  uint64 // of a Varint or a Fixed64
	Bytes []byte // of Bytes: a string, bytes or a message; it aliases the message

	rest []byte
	err  error
}

// Walk returns a Cursor before the first field of b.
func Walk(b []byte) Cursor { return Cursor{rest: b} }

// Next goes to the next field, and tells whether there is one. Most fields have a tag and a length, or
// a number, of at most two bytes each, and are read here.
func (c *Cursor) Next() bool {
	b, at := c.rest, 2
	if len(b) < 5 { // what is read below is there
		return len(b) > 0 && c.any()
	}
	tag, n := Tag(b[0]), uint64(b[1])
	if tag >= 0x80 {
		tag, n, at = tag&0x7f|Tag(b[1])<<7, uint64(b[2]), 3
	}
	if n >= 0x80 {
		n, at = n&0x7f|uint64(b[at])<<7, at+1
	}
	if tag < 1<<3 || tag >= 0x80<<7 || n >= 0x80<<7 { // no field, or one with longer numbers
		return c.any()
	}
	switch tag & 7 {
	case Varint:
		c.Tag, c.Uint, c.rest = tag, n, b[at:]
		return true
	case Bytes:
		if end := at + int(n); end <= len(b) {
			c.Tag, c.Bytes, c.rest = tag, b[at:end], b[end:]
			return true
		}
	}
	return c.any()
}

// Err says why the rest of the message cannot be read; nil where Next came to its end.
func (c *Cursor) Err() error { return c.err }

// Text is Bytes as a string, which aliases the message: it must not be used after the message's
// memory was.
func (c *Cursor) Text() string {
	return unsafe.String(unsafe.SliceData(c.Bytes), len(c.Bytes)) //nolint:gosec // spares a copy of each string; the comment says how long it is valid
}

// any is Next for whatever field there is.
func (c *Cursor) any() bool {
	num, kind, n := protowire.ConsumeTag(c.rest)
	if n < 0 {
		return c.fail(protowire.ParseError(n))
	}
	if num > protowire.MaxValidNumber { // ConsumeTag takes more
		return c.fail(fmt.Errorf("field number %d: is beyond %d", num, protowire.MaxValidNumber))
	}
	b := c.rest[n:]
	c.Tag = Tag(num)<<3 | Tag(kind) //nolint:gosec // a positive number of 29 bits, and one of 3
	switch kind {
	case protowire.VarintType:
		c.Uint, n = protowire.ConsumeVarint(b)
	case protowire.Fixed64Type:
		c.Uint, n = protowire.ConsumeFixed64(b)
	case protowire.BytesType:
		c.Bytes, n = protowire.ConsumeBytes(b)
	default:
		n = protowire.ConsumeFieldValue(num, kind, b)
	}
	if n < 0 {
		return c.fail(protowire.ParseError(n))
	}
	c.rest = b[n:]
	return true
}

func (c *Cursor) fail(err error) bool {
	c.rest, c.err = nil, err
	return false
}
