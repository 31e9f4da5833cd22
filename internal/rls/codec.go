package rls

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Codec is the grpc codec of every service on the port. Messages that decode themselves do so
// straight from the wire, and take what the protobuf library refuses (a string that is not
// valid UTF-8); all others are protobuf messages as usual.
type Codec struct{}

// unmarshaler decodes itself. It must not keep b.
type unmarshaler interface{ UnmarshalWire(b []byte) error }

// reuser has memory for a message that comes in pieces, which its next one may have again.
type reuser interface{ Buffer(size int) []byte }

// marshaler appends itself to b.
type marshaler interface {
	MarshalWire(b []byte) ([]byte, error)
}

// Name is that of the protobuf codec, which Codec stands in for.
func (Codec) Name() string { return proto.Name }

// Marshal encodes v.
func (Codec) Marshal(v any) (mem.BufferSlice, error) {
	m, ok := v.(marshaler)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Marshal(v)
	}
	pool := mem.DefaultBufferPool()
	buf := pool.Get(answerSize)
	b, err := m.MarshalWire((*buf)[:0])
	if err != nil {
		pool.Put(buf)
		return nil, err
	}
	if cap(b) != cap(*buf) { // it has outgrown the pooled one
		pool.Put(buf)
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	*buf = b
	return mem.BufferSlice{mem.NewBuffer(buf, pool)}, nil
}

// answerSize holds the answer to a request of a few descriptors.
const answerSize = 1024

// Unmarshal decodes data into v.
func (Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(unmarshaler)
	if !ok {
		return encoding.GetCodecV2(proto.Name).Unmarshal(data, v)
	}
	if len(data) == 1 {
		return m.UnmarshalWire(data[0].ReadOnlyData())
	}
	if r, ok := v.(reuser); ok {
		whole := r.Buffer(data.Len())
		data.CopyTo(whole)
		return m.UnmarshalWire(whole)
	}
	return m.UnmarshalWire(data.Materialize())
}
