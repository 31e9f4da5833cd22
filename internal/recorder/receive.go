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
	// mostReceiving is how many batches are stored at once before the next one is told to come later.
	mostReceiving = 4
	// mostSources is how many sources are remembered where there is no sink that does so.
	mostSources = 10_000
)

// ErrBusy says that there is no room for more transactions at this moment.
var ErrBusy = errors.New("there is no room for more transactions at this moment")

// keyed is what Receive needs.
type keyed struct {
	turns chan struct{} // has an element for each batch that is being stored

	mu   sync.Mutex
	next *lru.Cache[traffic.Source, int64] // offsets that were counted; used where there are no sinks
}

func newKeyed() *keyed {
	next, err := lru.New[traffic.Source, int64](mostSources)
	if err != nil { // only for a size below 1
		panic(err)
	}
	return &keyed{turns: make(chan struct{}, mostReceiving), next: next}
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
	select {
	case r.keyed.turns <- struct{}{}:
		defer func() { <-r.keyed.turns }()
	default:
		return 0, ErrBusy
	}
	if len(r.feeds) == 0 {
		fresh = r.keyed.pass(&b)
	}
	for _, f := range r.feeds {
		stored, err := f.writeTo(ctx, f.Received, b)
		if err != nil {
			r.metrics.writeErrors.WithLabelValues(f.Name).Inc()
			return 0, fmt.Errorf("storing a batch in the sink %s: %w", f.Name, err)
		}
		r.metrics.written.WithLabelValues(f.Name).Add(float64(stored.fresh - stored.refused))
		fresh = max(fresh, stored.fresh) // a sink may have had it before another one failed
	}
	r.metrics.repeated.Add(float64(len(b.Transactions) - fresh))
	r.count(b.Transactions[len(b.Transactions)-fresh:])
	return fresh, nil
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
