package buckets

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

const (
	hammerGates    = 4
	hammerRate     = 2000 // the higher of the two rates that every row has in turn
	hammerBurst    = 20
	hammerWorkers  = 16
	hammerRequests = 120 // each worker's
)

// hammer is many callers at once, over several gates, while tables are swapped and callers go
// away.
type hammer struct {
	*world
	admitted [hammerGates]atomic.Int64 // hits
	held     atomic.Int64
	canceled atomic.Int64
}

// hammerRows alternates rates and flags that leave the burst as it is.
func hammerRows(round int) []limits.Limit {
	rate := int64(hammerRate / (1 + round%2))
	var all []limits.Limit
	for i := range hammerGates {
		gw := fmt.Sprint("gw", i)
		all = append(all, waiting(20, rate, hammerBurst, gw), waiting(20, rate, hammerBurst, gw, "ep"), waiting(20, rate, hammerBurst, gw, "", "user"))
	}
	other := row(10, 10, "free")
	other.Enabled = round%3 == 0
	if round%5 > 0 {
		all = append(all, waiting(20, 100, 3, "free", "*"))
	}
	return append(all, other)
}

func (h *hammer) worker(ctx context.Context, random *rand.Rand) error {
	var d Decision
	for range hammerRequests {
		r, touched := hammerRequest(random)
		err := h.do(ctx, random, r, &d)
		if errors.Is(err, context.Canceled) {
			h.canceled.Add(1)
			continue
		}
		if err != nil {
			return err
		}
		h.count(r, touched, &d)
		d.Release()
	}
	return nil
}

// do is a caller that goes away now and then.
func (h *hammer) do(ctx context.Context, random *rand.Rand, r *Request, d *Decision) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if random.IntN(4) == 0 {
		defer time.AfterFunc(time.Duration(random.Int64N(10*ms)), cancel).Stop()
	}
	return h.engine.Do(ctx, r, -1, d)
}

func (h *hammer) count(r *Request, touched []int, d *Decision) {
	if d.Held {
		h.held.Add(1)
	}
	if d.Code != OK {
		return
	}
	for i, gate := range touched {
		h.admitted[gate].Add(int64(r.Descriptors[i].Hits))
	}
}

// hammerRequest names one gate, or several in any order; touched are their numbers.
func hammerRequest(random *rand.Rand) (r *Request, touched []int) {
	r = &Request{Domain: "d"}
	touched = random.Perm(hammerGates)[:1+max(0, random.IntN(5)-2)]
	for _, gate := range touched {
		hits := uint64(1 + random.IntN(3))
		r.Descriptors = append(r.Descriptors, descriptor(hits, fmt.Sprint("gw", gate), []string{"", "ep", "any"}[random.IntN(3)],
			Entry{"user", strconv.Itoa(random.IntN(3))}))
	}
	if random.IntN(3) == 0 {
		r.Descriptors = append(r.Descriptors, descriptor(1, "free", strconv.Itoa(random.IntN(100))), descriptor(1, fmt.Sprint("new", random.IntN(100)), ""))
	}
	return r, touched
}

// churn swaps tables and sweeps until the workers have ended, and returns how often.
func (h *hammer) churn(ended <-chan struct{}) (rounds int) {
	ticker := time.NewTicker(2 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ended:
			return rounds
		case <-ticker.C:
			rounds++
			h.put(h.clock.NowNS(), hammerRows(rounds)...)
			h.engine.Sweep()
		}
	}
}

// TestHammer: whatever happens at once, no limit lets more pass than its burst and its rate,
// and nothing is left behind.
func TestHammer(t *testing.T) {
	h := &hammer{world: newWorld(t, Config{DefaultMaxTPS: 100, MaxBuckets: 50}, hammerRows(0)...)}
	startNS := h.clock.NowNS()
	rounds := h.run(t)
	elapsedNS := h.clock.NowNS() - startNS
	most := hammerBurst + elapsedNS*hammerRate/sec + 1
	for gate := range h.admitted {
		if got := h.admitted[gate].Load(); got > most || got == 0 {
			t.Errorf("gw%d: %d hits in %d ns, want at least 1, at most %d", gate, got, elapsedNS, most)
		}
	}
	if rounds == 0 || h.held.Load() == 0 || h.canceled.Load() == 0 {
		t.Errorf("%d swaps, %d held, %d canceled, want some of each", rounds, h.held.Load(), h.canceled.Load())
	}
	h.checkNothingQueued()
}

func (h *hammer) run(t *testing.T) (rounds int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var workers sync.WaitGroup
	for i := range hammerWorkers {
		workers.Go(func() {
			if err := h.worker(ctx, rand.New(rand.NewPCG(uint64(i), 0))); err != nil {
				t.Errorf("worker %d: %v", i, err)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		workers.Wait()
		close(ended)
	}()
	return h.churn(ended)
}

// checkNothingQueued looks into every gate for what waiters have left behind.
func (w *world) checkNothingQueued() {
	w.tb.Helper()
	if s := w.engine.Stats(); s.Waiters != 0 {
		w.tb.Errorf("stats %+v, want no waiters", s)
	}
	for i := range w.engine.shards {
		for _, g := range w.engine.shards[i].appendTo(nil) {
			if g.waiting != 0 || len(g.ready) != 0 || len(g.blocked) != 0 || len(g.byKey) != 0 || g.stuck.first != nil {
				w.tb.Errorf("gate %+v: %d waiting, %d lanes ready, %d buckets waited for, want none", g.name, g.waiting, len(g.ready), len(g.blocked))
			}
			g.checkNothingPinned(w.tb)
			checkKeyed(w.tb, g)
		}
	}
	if n := len(w.engine.queues); n != 0 {
		w.tb.Errorf("%d gates are listed as having waiters, want 0", n)
	}
}

func (g *gate) checkNothingPinned(tb testing.TB) {
	tb.Helper()
	all := []*bucket{&g.own}
	for _, b := range g.endpoints {
		all = append(all, b)
	}
	for _, b := range g.others {
		all = append(all, b)
	}
	for _, b := range all {
		if b.queued != 0 || b.pins != 0 || b.reserved() {
			tb.Errorf("gate %+v, bucket %q: %d hits queued, %d pins, want 0", g.name, b.key, b.queued, b.pins)
		}
	}
}
