package recorder

import (
	"context"
	"errors"
	"fmt"
	"sync"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const (
	mostStoring   = 4  // batches that are stored at once
	mostReceiving = 16 // batches that are stored or wait for that; the next one is told to come later
	// mostSources is how many sources are remembered where there is no sink that does so.
	mostSources = 10_000
)

// ErrBusy says that there is no room for more transactions at this moment.
var ErrBusy = errors.New("there is no room for more transactions at this moment")

// keyed is what Receive needs.
type keyed struct {
	room  chan struct{} // has an element for each batch that is stored or waits for its turn
	turns chan struct{} // and one for each that is being stored

	mu   sync.Mutex
	next *lru.Cache[traffic.Source, int64] // offsets that were counted; used where there are no sinks
}

func newKeyed() *keyed {
	next, err := lru.New[traffic.Source, int64](mostSources)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &keyed{room: make(chan struct{}, mostReceiving), turns: make(chan struct{}, mostStoring), next: next}
}

// Receive takes a batch that somebody else numbers, and returns once every sink has it; without
// sinks it is remembered in memory which sources were seen. fresh is how many were new: the last ones
// of the batch. After an error the same batch, or one that overlaps it, may be sent again: nothing is
// counted or stored twice. A batch without a server is of this one. Errors are ErrBusy and those of the
// sinks.
func (r *Recorder) Receive(ctx context.Context, b traffic.Batch) (fresh int, err error) {
	if b.Server == "" {
		b.Server = r.cfg.ServerID
	}
	leave, err := r.keyed.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	if len(r.feeds) == 0 {
		fresh = r.keyed.pass(&b)
	}
	for _, f := range r.feeds {
		stored, err := f.write(ctx, f.Received, b)
		r.metrics.written.WithLabelValues(f.Name).Add(float64(stored.fresh - stored.refused))
		if err != nil {
			r.metrics.writeErrors.WithLabelValues(f.Name).Inc()
			return 0, fmt.Errorf("storing a batch in the sink %s: %w", f.Name, err)
		}
		fresh = max(fresh, stored.fresh) // a sink may have had it before another one failed
	}
	r.metrics.repeated.Add(float64(len(b.Transactions) - fresh))
	r.count(b.Transactions[len(b.Transactions)-fresh:], r.windows.AddTold)
	return fresh, nil
}

// enter waits for the turn of a batch; leave is to be called after it.
func (k *keyed) enter(ctx context.Context) (leave func(), err error) {
	select {
	case k.room <- struct{}{}:
	default:
		return nil, ErrBusy
	}
	select {
	case k.turns <- struct{}{}:
		return func() { <-k.turns; <-k.room }, nil
	case <-ctx.Done():
		<-k.room
		return nil, fmt.Errorf("waiting for the turn of a batch: %w", ctx.Err())
	}
}

// pass returns how many transactions of the batch have not been there before.
func (k *keyed) pass(b *traffic.Batch) (fresh int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	next, _ := k.next.Get(b.Source)
	left := b.From(next)
	k.next.Add(b.Source, max(next, b.Next()))
	return len(left.Transactions)
}
