package measure

import (
	"fmt"
	"slices"
	"sync"

	"google.golang.org/grpc/mem"
)

// RawCodec is a grpc codec for clients that are to cost little: it sends a []byte as it is, copied
// before Marshal returns, and receives into a *[]byte, whose memory is used again. The zero value is
// ready; it is not to be copied.
type RawCodec struct{ pool dirtyPool }

// Name is that of the protobuf codec, which it stands in for.
func (*RawCodec) Name() string { return "proto" }

// Marshal copies v, which is to be a []byte.
func (c *RawCodec) Marshal(v any) (mem.BufferSlice, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("sending a %T, which is no []byte", v)
	}
	return mem.BufferSlice{mem.Copy(b, &c.pool)}, nil
}

// Unmarshal puts data in place of what *v has; v is to be a *[]byte.
func (*RawCodec) Unmarshal(data mem.BufferSlice, v any) error {
	to, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("receiving into a %T, which is no *[]byte", v)
	}
	*to = slices.Grow((*to)[:0], data.Len())[:data.Len()]
	data.CopyTo(*to)
	return nil
}

// dirtyPool is a pool of buffers of about one size, which are not cleared: grpc's own clears a MiB
// for each message of more than 32 KiB.
type dirtyPool struct{ buffers sync.Pool }

// Get returns a buffer with anything in it.
func (p *dirtyPool) Get(length int) *[]byte {
	b, ok := p.buffers.Get().(*[]byte)
	if !ok || cap(*b) < length {
		fresh := make([]byte, length)
		return &fresh
	}
	*b = (*b)[:length]
	return b
}

// Put takes a buffer back.
func (p *dirtyPool) Put(b *[]byte) { p.buffers.Put(b) }
