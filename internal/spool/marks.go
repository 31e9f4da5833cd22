package spool

import "time"

const (
	maxMarks  = 128
	markEvery = 10 * time.Millisecond
)

// marks remember about when records were written. Its memory is bounded: the longer the time that
// it spans, the coarser it is.
type marks struct {
	all   []mark
	every time.Duration // between two marks; 0 = markEvery
}

// mark says that the record of this index was the first one that was written at this time.
type mark struct {
	index int64
	at    time.Time
}

// add notes that records from this index on are written now.
func (m *marks) add(index int64, now time.Time) {
	m.every = max(m.every, markEvery)
	if n := len(m.all); n > 0 && now.Sub(m.all[n-1].at) < m.every {
		return
	}
	if len(m.all) == maxMarks {
		m.thin()
	}
	m.all = append(m.all, mark{index, now})
}

// thin keeps every second mark, the first one included, and lets later ones be as far apart.
func (m *marks) thin() {
	m.every = max(2*m.every, m.all[len(m.all)-1].at.Sub(m.all[0].at)*2/maxMarks)
	for i := range len(m.all) / 2 {
		m.all[i] = m.all[2*i]
	}
	m.all = m.all[:len(m.all)/2]
}

// forget drops what is of no use for records of this index or later.
func (m *marks) forget(index int64) {
	drop := 0
	for drop+1 < len(m.all) && m.all[drop+1].index <= index {
		drop++
	}
	m.all = m.all[:copy(m.all, m.all[drop:])]
	if len(m.all) < 2 {
		m.every = markEvery
	}
}

// of returns about when the record of this index was written, rather too early than too late, and
// before where no mark is as old.
func (m *marks) of(index int64, before time.Time) time.Time {
	at := before
	for _, mark := range m.all {
		if mark.index > index {
			break
		}
		at = mark.at
	}
	return at
}
