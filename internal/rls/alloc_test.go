//go:build !race

package rls

import (
	"context"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// TestAlloc counts the allocations of a request between its bytes and those of the answer.
//
//	from decoding to encoding: none
//	as grpc calls it: one, the slice of buffers in which grpc-go takes the answer
//
// What grpc-go and net/http allocate around it is theirs.
func TestAlloc(t *testing.T) {
	for name, c := range map[string]struct {
		maxTPS int64
		hits   uint32
	}{"admitted": {limits.MaxMaxTPS, 0}, "refused": {1, 1000}, "never": {0, 1}} {
		t.Run(name, func(t *testing.T) {
			s, request := twoLevelServer(t, c.maxTPS, c.hits)
			answer := make([]byte, 0, answerSize)
			got := testing.AllocsPerRun(1000, func() {
				c := s.calls.Get().(*call)
				if err := c.UnmarshalWire(request); err != nil {
					t.Error(err)
				}
				if err := s.decide(t.Context(), c, -1); err != nil {
					t.Error(err)
				}
				answer, _ = c.MarshalWire(answer[:0])
			})
			if got != 0 || len(answer) == 0 {
				t.Errorf("%v allocations from decoding to an answer of %d bytes, want 0", got, len(answer))
			}
			if got := allocsOverCodec(t, s, request); got != 1 {
				t.Errorf("%v allocations as grpc calls it, want 1", got)
			}
		})
	}
}

// TestAllocFiles is TestAlloc for a domain of descriptor files.
func TestAllocFiles(t *testing.T) {
	s, requests := treeServer(t, 10)
	answer, i := make([]byte, 0, answerSize), 0
	decide := func() {
		c := s.calls.Get().(*call)
		if err := c.UnmarshalWire(requests[i%len(requests)]); err != nil {
			t.Error(err)
		}
		if err := s.decide(t.Context(), c, -1); err != nil {
			t.Error(err)
		}
		answer, _ = c.MarshalWire(answer[:0])
		i++
	}
	for range requests {
		decide() // counters and series are there then
	}
	if got := testing.AllocsPerRun(1000, decide); got != 0 || len(answer) == 0 {
		t.Errorf("%v allocations from decoding to an answer of %d bytes, want 0", got, len(answer))
	}
}

// allocsOverCodec runs a request through the handler and the codec.
func allocsOverCodec(t *testing.T, s *Service, request []byte) float64 {
	t.Helper()
	var codec Codec
	in := mem.BufferSlice{mem.SliceBuffer(request)}
	decode := func(v any) error { return codec.Unmarshal(in, v) }
	ctx := context.WithoutCancel(t.Context())
	return testing.AllocsPerRun(1000, func() {
		c, err := shouldRateLimit(s, ctx, decode, nil)
		if err != nil {
			t.Fatal(err)
		}
		out, err := codec.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		out.Free()
	})
}
