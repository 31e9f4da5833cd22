package rollup

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// The windows that [Windows.Snapshot] takes.
const (
	MinWindow = time.Second
	MaxWindow = time.Hour
)

// Windows keep the figures of the last hour in memory: of each of the last two minutes' seconds, and
// of each minute. They are safe for concurrent use.
//
//	Add --> series of the key: ring of seconds, ring of minutes   --+
//	    --> load of the gateway: requests by second, and by minute  +--> Snapshot
//
// A transaction counts when it is received, not at its At: Envoy sends its entries in batches, about
// a second late. By their At they would fall into seconds that were shown before, and the newest
// second would always look empty. Only what is told long after it happened, as from a file, counts at
// its At ([Windows.AddTold]). The clock may go back by up to 3 s without loss.
//
// What is not used costs nothing: slots are made when they are needed, and given back within about
// a minute after they have left their ring; what has been idle for an hour keeps no slots at all.
type Windows struct {
	names  *Names
	series sync.Map     // Key to *series
	loads  sync.Map     // Key without endpoint to *load
	minute atomic.Int64 // of the newest sweep
}

// NewWindows returns empty windows. What they keep is bounded by names.
func NewWindows(names *Names) *Windows { return &Windows{names: names} }

// Add counts a transaction that is received now. The key is that of [Names.Bounded].
func (w *Windows) Add(now time.Time, t *traffic.Transaction, key Key) {
	second := secondOf(now)
	w.add(second, second, t, key)
}

// LateAfter is how long after its At a transaction may come and still count as one of now.
const LateAfter = 10 * time.Second

// AddTold is [Windows.Add] for one that somebody tells of, maybe long after it happened: what comes later
// than LateAfter counts at its At, and in no window where that is more than MaxWindow ago. The PeakTPS of
// what comes more than two minutes late, and not in order, may be too low.
func (w *Windows) AddTold(now time.Time, t *traffic.Transaction, key Key) {
	late := now.Sub(t.At)
	switch {
	case late <= LateAfter:
		w.Add(now, t, key)
		return
	case late > MaxWindow:
		return
	}
	w.add(secondOf(now), secondOf(t.At), t, key)
}

// add counts what is received now in a second of the last hour.
func (w *Windows) add(now, second uint32, t *traffic.Transaction, key Key) {
	s := w.find(key)
	s.add(now, second, t)
	s.load.add(now, second)
	if minute := int64(now / 60); minute > w.minute.Load() {
		w.sweep(minute)
	}
}

// secondOf is the second since 1970, within the 32 bits that a slot keeps of it: up to 2106.
func secondOf(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), math.MaxUint32))
}

func (w *Windows) find(key Key) *series {
	if found, ok := w.series.Load(key); ok {
		return found.(*series)
	}
	key = w.names.Bounded(key.Domain, key.Gateway, key.Endpoint) // the same, if the caller did so
	l, _ := w.loads.LoadOrStore(key.gateway(), &load{})
	s, _ := w.series.LoadOrStore(key, &series{load: l.(*load)})
	return s.(*series)
}

// sweep gives back what is idle. It runs in the first Add of a minute, and takes about 25 ns a key.
func (w *Windows) sweep(minute int64) {
	if before := w.minute.Load(); minute <= before || !w.minute.CompareAndSwap(before, minute) {
		return
	}
	second := uint32(minute * 60) //nolint:gosec // made of 32 bits
	w.series.Range(func(_, s any) bool {
		s.(*series).sweep(second)
		return true
	})
	w.loads.Range(func(_, l any) bool {
		l.(*load).sweep(second)
		return true
	})
}
