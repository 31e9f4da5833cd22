package rollup

import (
	"cmp"
	"slices"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// The lengths of slots, in seconds.
const (
	secondsPerMinute = 60
	secondsPerHour   = 3600
)

// Slot is the counts of one key in one second, minute or hour.
type Slot struct {
	Unix int64 // when it begins, in seconds since 1970
	Key
}

// Row is a slot with what a batch adds to it.
type Row struct {
	Slot
	Counts
	// Peak is the largest number of requests of a second: of a row of seconds what the batch has, of
	// minutes and hours what Groups.Raise was told. What is stored becomes the larger of it and Peak.
	Peak int64
}

// Groups are the counts of a batch by slot, at the times at which its transactions ended. Each list
// is sorted by time and key, so that those who write several rows lock them in one order.
//
// The peak of a minute cannot be told from a batch, because a second may come in parts: 3 requests
// now and 4 later make a peak of 7. So whoever stores a batch does it in this order, in one
// transaction:
//
//  1. adds Seconds to the stored seconds, and reads how many requests each has now;
//  2. calls Raise with that, for each of them;
//  3. adds Minutes and Hours to the stored ones, each with the larger of both peaks.
//
// A stored second only grows, and Raise sees it each time: so the largest that was seen is the
// largest there is. It is that of one key and one server. The peak of several together is at most
// the sum of theirs, and exactly the largest sum of their seconds, as long as those are kept.
type Groups struct {
	Seconds, Minutes, Hours []Row

	minutes, hours map[Slot]int // index of the row
}

// Group counts a batch by second, minute and hour (of UTC) and by key, bounded by names.
func Group(ts []traffic.Transaction, names *Names) *Groups {
	g := &Groups{}
	seconds := newGrouper()
	for i := range ts {
		t := &ts[i]
		slot := Slot{t.At.Unix(), names.Bounded(t.Domain, t.Gateway, t.Endpoint)}
		seconds.row(slot).Add(t)
	}
	g.Seconds = seconds.rows
	slices.SortFunc(g.Seconds, compareRows)
	g.Minutes, g.minutes = coarser(g.Seconds, secondsPerMinute)
	g.Hours, g.hours = coarser(g.Minutes, secondsPerHour)
	for i := range g.Seconds {
		g.Seconds[i].Peak = g.Seconds[i].Requests
	}
	return g
}

// Raise says that a second of the batch has that many requests in all, with what was stored before.
func (g *Groups) Raise(second Slot, requests int64) {
	raise(g.Minutes, g.minutes, second.begin(secondsPerMinute), requests)
	raise(g.Hours, g.hours, second.begin(secondsPerHour), requests)
}

func raise(rows []Row, index map[Slot]int, slot Slot, requests int64) {
	if i, ok := index[slot]; ok {
		rows[i].Peak = max(rows[i].Peak, requests)
	}
}

// begin is the slot of that many seconds that holds s.
func (s Slot) begin(seconds int64) Slot {
	rest := s.Unix % seconds
	if rest < 0 {
		rest += seconds // before 1970
	}
	return Slot{s.Unix - rest, s.Key}
}

// Compare orders slots by time and key.
func (s Slot) Compare(o Slot) int {
	if c := cmp.Compare(s.Unix, o.Unix); c != 0 {
		return c
	}
	return s.Key.Compare(o.Key)
}

func compareRows(a, b Row) int { return a.Compare(b.Slot) }

// coarser merges sorted rows into sorted rows of slots of that many seconds.
func coarser(rows []Row, seconds int64) ([]Row, map[Slot]int) {
	m := newGrouper()
	for i := range rows {
		m.row(rows[i].begin(seconds)).Merge(&rows[i].Counts)
	}
	slices.SortFunc(m.rows, compareRows)
	for i := range m.rows {
		m.index[m.rows[i].Slot] = i
	}
	return m.rows, m.index
}

// grouper finds the row of a slot, or makes it.
type grouper struct {
	rows  []Row
	index map[Slot]int
}

func newGrouper() *grouper { return &grouper{index: make(map[Slot]int)} }

func (g *grouper) row(slot Slot) *Row {
	i, ok := g.index[slot]
	if !ok {
		i = len(g.rows)
		g.index[slot] = i
		g.rows = append(g.rows, Row{Slot: slot})
	}
	return &g.rows[i]
}
