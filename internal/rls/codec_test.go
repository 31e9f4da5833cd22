package rls

import (
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// TestCodecSlices decodes a message that the transport delivers in several slices.
func TestCodecSlices(t *testing.T) {
	s, request := twoLevelServer(t, 1, 1)
	var whole Request
	if err := whole.UnmarshalWire(request); err != nil {
		t.Fatal(err)
	}
	for cut := range request {
		c := s.calls.Get().(*call)
		data := mem.BufferSlice{mem.SliceBuffer(request[:cut]), mem.SliceBuffer(nil), mem.SliceBuffer(request[cut:])}
		if err := (Codec{}).Unmarshal(data, c); err != nil {
			t.Fatal(err)
		}
		if c.request.decodingIs != nil || c.request.Domain != whole.Domain || len(c.request.Descriptors) != len(whole.Descriptors) {
			t.Errorf("request %x cut at %d: domain %q, %d descriptors (%v), want %q, %d", request, cut, c.request.Domain, len(c.request.Descriptors), c.request.decodingIs, whole.Domain, len(whole.Descriptors))
		}
	}
}

// TestCodecAnswerSizes encodes answers on both sides of what the pooled buffer holds, each of
// which must be whole also after its buffer was given back and used again.
func TestCodecAnswerSizes(t *testing.T) {
	s, _ := twoLevelServer(t, 1, 1)
	for _, n := range []int{1, 100, 2000, 100_000} {
		var out [2]mem.BufferSlice
		for i := range out {
			c := s.calls.Get().(*call)
			request := []byte("\x0a\x04shop")
			for range n {
				request = append(request, "\x12\x00"...)
			}
			if err := c.UnmarshalWire(request); err != nil {
				t.Fatal(err)
			}
			if err := s.decide(t.Context(), c, -1); err != nil {
				t.Fatal(err)
			}
			var err error
			if out[i], err = (Codec{}).Marshal(c); err != nil {
				t.Fatal(err)
			}
		}
		for i := range out {
			var got ratelimitv3.RateLimitResponse
			if err := proto.Unmarshal(out[i].Materialize(), &got); err != nil || len(got.Statuses) != n || got.OverallCode != ratelimitv3.RateLimitResponse_OK {
				t.Errorf("answer %d to %d descriptors: %d statuses, code %v (%v), want OK and one each", i, n, len(got.Statuses), got.OverallCode, err)
			}
			out[i].Free()
		}
	}
}
