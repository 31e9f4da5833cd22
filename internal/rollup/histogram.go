package rollup

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"slices"
	"time"
)

// Histogram counts durations in the buckets of [BucketOf]. The zero Histogram is empty. It is not
// safe for concurrent use, and a copy shares the memory of the original: see [Histogram.Clone].
//
// What it keeps is the run of buckets from about the lowest to about the highest occupied one, in as
// few bytes each as the largest count needs: 40 buckets of up to 255 take 48 bytes and the 32 of
// the struct, all that there are of whatever counts 2 KiB. A count that would not fit into 63 bits
// stays at the largest.
type Histogram struct {
	cells []byte // as many bytes as there are cells, times their width; none where it is empty
	low   uint8  // the bucket of the first cell
	width width
}

// width is the binary logarithm of the bytes of a cell.
type width uint8

const (
	width8 width = iota
	width16
	width32
	width64
)

func widthOf(n int64) width {
	switch {
	case n <= math.MaxUint8:
		return width8
	case n <= math.MaxUint16:
		return width16
	case n <= math.MaxUint32:
		return width32
	}
	return width64
}

// Add counts n durations d. n below 1 adds nothing.
func (h *Histogram) Add(d time.Duration, n int64) { h.add(BucketOf(d), n) }

func (h *Histogram) add(bucket uint8, n int64) {
	if n < 1 {
		return
	}
	h.reach(bucket, bucket)
	at := int(bucket - h.low)
	n = addUp(h.cell(at), n)
	if need := widthOf(n); need > h.width {
		low, high, _ := h.ends()
		h.layOut(low, high, need)
	}
	h.put(at, n)
}

// Merge adds what o has counted.
func (h *Histogram) Merge(o *Histogram) {
	low, high, ok := o.ends()
	if !ok {
		return
	}
	h.reach(low, high)
	for bucket, n := range o.All() {
		h.add(bucket, n)
	}
}

// Total returns how many durations were counted.
func (h *Histogram) Total() int64 {
	total := int64(0)
	for _, n := range h.All() {
		total = addUp(total, n)
	}
	return total
}

// Quantile returns the [Value] of the bucket that holds the q-quantile by nearest rank: of n
// durations in ascending order, number ⌈q·n⌉ (as percentile_disc of Postgres has it). q below 0 is
// taken for 0, which is the shortest; above 1, for 1. It returns 0 for an empty histogram.
func (h *Histogram) Quantile(q float64) time.Duration {
	total := h.Total()
	rank := int64(math.MaxInt64)
	if want := math.Ceil(q * float64(total)); want < math.MaxInt64 {
		rank = int64(want)
	}
	rank = min(max(rank, 1), total)
	for bucket, n := range h.All() {
		if rank <= n {
			return Value(bucket)
		}
		rank -= n
	}
	return 0
}

// All yields the occupied buckets and their counts, from the shortest durations to the longest.
func (h *Histogram) All() iter.Seq2[uint8, int64] {
	return func(yield func(uint8, int64) bool) {
		for at := range h.len() {
			if n := h.cell(at); n > 0 && !yield(h.low+uint8(at), n) {
				return
			}
		}
	}
}

// Pairs returns the occupied buckets in ascending order and the count of each, as columns of type
// smallint[] and bigint[] keep them. Both are empty, not nil, for an empty histogram: a column
// that is NOT NULL takes them.
func (h *Histogram) Pairs() (index []int16, count []int64) {
	index, count = []int16{}, []int64{}
	for bucket, n := range h.All() {
		index, count = append(index, int16(bucket)), append(count, n)
	}
	return index, count
}

// FromPairs makes a histogram of what [Histogram.Pairs] returned. It refuses lists of different
// lengths, buckets that do not exist or do not ascend, and counts below 0.
func FromPairs(index []int16, count []int64) (Histogram, error) {
	if len(index) != len(count) {
		return Histogram{}, fmt.Errorf("making a histogram of %d buckets and %d counts: not as many", len(index), len(count))
	}
	previous := int16(-1)
	for i, bucket := range index {
		switch {
		case bucket <= previous || bucket > last:
			return Histogram{}, fmt.Errorf("making a histogram: bucket %d comes after %d, must ascend within 0 to %d", bucket, previous, last)
		case count[i] < 0:
			return Histogram{}, fmt.Errorf("making a histogram: bucket %d has the count %d, must not be below 0", bucket, count[i])
		}
		previous = bucket
	}
	h := Histogram{}
	for i, bucket := range index {
		h.add(uint8(bucket), count[i]) //nolint:gosec // checked above
	}
	return h, nil
}

// Clone returns a copy that shares no memory with h.
func (h *Histogram) Clone() Histogram {
	c := *h
	c.cells = append([]byte(nil), h.cells...)
	return c
}

// Equal tells whether both have counted the same. (go-cmp calls it.)
func (h Histogram) Equal(o Histogram) bool {
	for bucket := range NumBuckets {
		if h.count(uint8(bucket)) != o.count(uint8(bucket)) {
			return false
		}
	}
	return true
}

// reset empties the histogram and keeps its memory for what comes.
func (h *Histogram) reset() { *h = Histogram{cells: h.cells[:0]} }

// len is the number of cells.
func (h *Histogram) len() int { return len(h.cells) >> h.width }

// ends returns the first and the last bucket that has a cell; ok is false where there is none.
func (h *Histogram) ends() (low, high uint8, ok bool) {
	n := h.len()
	return h.low, h.low + uint8(max(n-1, 0)), n > 0 //nolint:gosec // at most last
}

// count returns 0 for a bucket without a cell.
func (h *Histogram) count(bucket uint8) int64 {
	at := int(bucket) - int(h.low)
	if at < 0 || at >= h.len() {
		return 0
	}
	return h.cell(at)
}

func (h *Histogram) cell(at int) int64 {
	switch cell := h.cells[at<<h.width:]; h.width {
	case width8:
		return int64(cell[0])
	case width16:
		return int64(binary.NativeEndian.Uint16(cell))
	case width32:
		return int64(binary.NativeEndian.Uint32(cell))
	default:
		return int64(binary.NativeEndian.Uint64(cell)) //nolint:gosec // there is no more than math.MaxInt64
	}
}

// put writes the count of a cell, which must fit.
func (h *Histogram) put(at int, n int64) {
	switch cell := h.cells[at<<h.width:]; h.width {
	case width8:
		cell[0] = uint8(n) //nolint:gosec // fits, here and below
	case width16:
		binary.NativeEndian.PutUint16(cell, uint16(n)) //nolint:gosec // fits
	case width32:
		binary.NativeEndian.PutUint32(cell, uint32(n)) //nolint:gosec // fits
	default:
		binary.NativeEndian.PutUint64(cell, uint64(n)) //nolint:gosec // fits
	}
}

// reach makes sure that all buckets from low to high have cells. New ones come in whole groups of
// 8, so that what comes next is likely to have one.
func (h *Histogram) reach(low, high uint8) {
	if int(low) >= int(h.low) && int(high) < int(h.low)+h.len() {
		return
	}
	if l, u, ok := h.ends(); ok {
		low, high = min(low, l), max(high, u)
	}
	h.layOut(low&^7, high|7, h.width)
}

// layOut moves the counts to cells of that width for the buckets from low to high. It allocates
// where the memory at hand is too small.
func (h *Histogram) layOut(low, high uint8, width width) {
	old, need := *h, (int(high)-int(low)+1)<<width
	switch {
	case need > cap(h.cells):
		h.cells = slices.Grow([]byte(nil), need) // what the allocator has for it, which may be more
	case len(h.cells) > 0:
		var aside [NumBuckets * 8]byte
		old.cells = aside[:copy(aside[:], h.cells)]
	}
	h.cells = h.cells[:need]
	clear(h.cells)
	h.low, h.width = low, width
	for bucket, n := range old.All() {
		h.put(int(bucket-low), n)
	}
}

// addUp adds two numbers that are not negative, and stays at the largest.
func addUp(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
