package rollup

import "encoding/binary"

// sums add up many histograms faster than [Histogram.Merge] does.
type sums [NumBuckets]int64

func (s *sums) add(h *Histogram) {
	switch h.width {
	case width8:
		to := s[h.low:]
		for i, n := range h.cells {
			to[i] = addUp(to[i], int64(n))
		}
	case width16:
		to := s[h.low:]
		for i := range len(h.cells) / 2 {
			to[i] = addUp(to[i], int64(binary.NativeEndian.Uint16(h.cells[2*i:])))
		}
	default:
		for bucket, n := range h.All() {
			s[bucket] = addUp(s[bucket], n)
		}
	}
}

// histogram returns the sums in as little memory as they need.
func (s *sums) histogram() (h Histogram) {
	low, high, most := NumBuckets, 0, int64(0)
	for bucket, n := range s {
		if n > 0 {
			low, high, most = min(low, bucket), bucket, max(most, n)
		}
	}
	if most == 0 {
		return h
	}
	h.layOut(uint8(low), uint8(high), widthOf(most)) //nolint:gosec // at most last
	for i, n := range s[low : high+1] {
		h.put(i, n)
	}
	return h
}
