package spool

import (
	"encoding/binary"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	hammerWriters = 4
	hammerFrames  = 3000
)

// hammer is what many goroutines do to one log.
type hammer struct {
	l        *life
	mu       sync.Mutex
	accepted int64
}

// append appends numbered frames and counts those that were taken.
func (h *hammer) append(writer uint32) {
	var payload [200]byte
	var accepted int64
	for i := range uint32(hammerFrames) {
		binary.LittleEndian.PutUint32(payload[:], writer)
		binary.LittleEndian.PutUint32(payload[4:], i)
		n := int(i%3 + 1)
		if h.l.Append(payload[:8+i%190], n) {
			accepted += int64(n)
		}
	}
	h.mu.Lock()
	h.accepted += accepted
	h.mu.Unlock()
}

// read reads and commits until the log has ended and is empty, and returns the number of records. The
// frames of each writer have to come in order.
func (h *hammer) read(t *testing.T, name string, ended <-chan struct{}) (read int64) {
	t.Helper()
	next := map[uint32]uint32{}
	r := h.l.Reader(name)
	for {
		c, err := r.Read(50)
		if err != nil {
			t.Error(err)
			return read
		}
		if c.N == 0 {
			select {
			case <-r.Arrived():
				continue
			case <-ended:
			}
			if r.Waiting() == 0 {
				return read
			}
			continue
		}
		for _, p := range c.Payloads {
			writer, i := binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:])
			if i < next[writer] || writer >= hammerWriters {
				t.Errorf("%s reads frame %d of writer %d after %d", name, i, writer, next[writer])
			}
			next[writer] = i + 1
		}
		if err := r.Commit(c.Next()); err != nil {
			t.Error(err)
		}
		read += int64(c.N - c.Skip)
	}
}

// Any number of goroutines append while readers read and segments are dropped at Max: what was taken
// is read by each reader, or counted as lost to it.
func TestHammer(t *testing.T) {
	for name, most := range map[string]int64{"with room": 1 << 30, "at Max": 60_000} {
		t.Run(name, func(t *testing.T) {
			l := open(t, Config{Dir: t.TempDir(), Max: most, SegmentSize: 10_000, SyncEvery: 1, MaxPending: 500, Readers: []string{"a", "b"}})
			h := &hammer{l: l}
			stop := running(t, l)
			ended := make(chan struct{})
			var writers, readers sync.WaitGroup
			reads := make([]int64, 2)
			for i, name := range []string{"a", "b"} {
				readers.Go(func() { reads[i] = h.read(t, name, ended) })
			}
			for writer := range uint32(hammerWriters) {
				writers.Go(func() { h.append(writer) })
			}
			writers.Wait()
			stop()
			close(ended)
			readers.Wait()
			h.check(t, reads)
		})
	}
}

func (h *hammer) check(t *testing.T, reads []int64) {
	t.Helper()
	if got, want := h.accepted+h.l.lost(t, "all", "queue_full"), int64(hammerWriters*hammerFrames*2); got != want {
		t.Errorf("%d records are taken or counted as refused, of %d", got, want)
	}
	var got, want []int64
	for i, name := range []string{"a", "b"} {
		got, want = append(got, reads[i]+h.l.lost(t, name, "spool_full")), append(want, h.accepted)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("records that a and b have read or lost, and those that were taken: %s", diff)
	}
	if len(h.l.open) != 0 || h.l.figure(t, "bytes") != 0 {
		t.Errorf("%d files are open, %d bytes left", len(h.l.open), h.l.figure(t, "bytes"))
	}
}
