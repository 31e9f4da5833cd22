package recorder

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tps-agent/ratelimitd/internal/spool"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const (
	maxBatch   = 10_000 // transactions that are written at once, at most
	leastBatch = 100    // where a sink is too slow for more
	// mostRefused is how many rows, one after the other, a sink may refuse: then it is not the rows
	// that are at fault, but the table, and they wait until somebody mends it.
	mostRefused = 100
)

// Sink stores transactions for good.
type Sink interface {
	// Write stores a batch, all of it or nothing, but for the transactions at its beginning that it has
	// already, and returns how many were new. A *traffic.RefusedError says that the batch itself is at
	// fault and will never be taken; after any other error the batch is written again. It returns soon
	// after ctx has ended.
	Write(ctx context.Context, b traffic.Batch) (fresh int, err error)
}

// NamedSink is a sink, and what it is called in metrics and in the log.
type NamedSink struct {
	Name     string
	Sink     Sink
	Received Sink                        // the same for what comes by Receive, over connections of its own; nil = Sink
	Maintain func(context.Context) error // called at the start, every hour, and sooner after an error; may be nil
}

// feed brings what is in the log to one sink.
type feed struct {
	*Recorder
	NamedSink
	reader *spool.Reader // nil where there is no log

	decoder traffic.Decoder
	read    []traffic.Transaction
	most    int // transactions of a write: fewer after one that took too long

	refused atomic.Int64 // rows in a row

	mu       sync.Mutex
	loggedAt map[string]time.Time // by message
}

func newFeed(s NamedSink, r *Recorder) *feed {
	if s.Received == nil {
		s.Received = s.Sink
	}
	f := &feed{Recorder: r, NamedSink: s, most: maxBatch, loggedAt: make(map[string]time.Time)}
	if r.spool != nil {
		f.reader = r.spool.Reader(s.Name)
	}
	return f
}

// run writes when a batch is full or its oldest is due, until ctx ends; then what still waits, as
// long as writes succeed and work has not ended. Writes have work as their context.
func (f *feed) run(ctx, work context.Context) {
	p := &pauses{stop: ctx.Done(), next: firstPause}
	due := time.NewTimer(f.cfg.FlushInterval)
	defer due.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.reader.Arrived():
			if f.reader.Waiting() >= int64(f.cfg.BatchSize) {
				f.drain(work, p)
			}
		case <-due.C:
			if f.dueIn() <= 0 {
				f.drain(work, p)
			}
			due.Reset(max(f.dueIn(), time.Millisecond))
		}
	}
	f.finish(work, p)
}

// dueIn is how long the oldest may still wait; of an empty log it is all of the interval.
func (f *feed) dueIn() time.Duration {
	if f.reader.Waiting() == 0 {
		return f.cfg.FlushInterval
	}
	return f.cfg.FlushInterval - time.Since(f.reader.Since())
}

// drain writes all that waits when it is called, and tries until it is written or ctx ends.
func (f *feed) drain(ctx context.Context, p *pauses) {
	for left := f.reader.Waiting(); left > 0 && ctx.Err() == nil; {
		n, err := f.step(ctx, p)
		switch {
		case err != nil && !p.wait(ctx):
			return
		case err == nil && n == 0:
			return
		}
		left -= int64(n)
	}
}

// finish writes what is left at the stop, until a write fails: the log keeps the rest.
func (f *feed) finish(ctx context.Context, p *pauses) {
	for ctx.Err() == nil && (f.reader.Waiting() > 0 || f.spool.Pending() > 0) {
		n, err := f.step(ctx, p)
		if err != nil {
			break
		}
		if n > 0 {
			continue
		}
		select { // what is in memory is about to be in the log
		case <-ctx.Done():
		case <-f.reader.Arrived():
		}
	}
	if left := f.reader.Waiting(); left > 0 {
		f.log.InfoContext(ctx, "transactions stay in the log and are written after the next start", slog.String("sink", f.Name), slog.Int64("waiting", left))
	}
}

// step writes the next batch of the log and commits its place. n is how far that got, 0 where
// nothing waits.
func (f *feed) step(ctx context.Context, p *pauses) (n int, err error) {
	chunk, err := f.reader.Read(f.most)
	if err != nil || chunk.N == 0 {
		return 0, err
	}
	for b := range f.batches(ctx, &chunk) {
		stored, err := f.write(ctx, f.Sink, b)
		f.metrics.written.WithLabelValues(f.Name).Add(float64(stored.n - stored.refused))
		f.commit(ctx, spool.Position{Run: b.Run, Offset: b.First + int64(stored.n)})
		if err != nil {
			f.failed(ctx, err)
			return 0, err
		}
	}
	f.most = min(2*f.most, maxBatch)
	f.commit(ctx, chunk.Next())
	if p.end() {
		f.log.InfoContext(ctx, "transactions are written again", slog.String("sink", f.Name), slog.Int64("waiting", f.reader.Waiting()))
	}
	return chunk.N - chunk.Skip, nil
}

// failed counts a write that failed. One that took too long is smaller the next time.
func (f *feed) failed(ctx context.Context, err error) {
	f.metrics.writeErrors.WithLabelValues(f.Name).Inc()
	f.logRarely(ctx, "transactions could not be written; they wait", err)
	if errors.Is(err, context.DeadlineExceeded) {
		f.most = max(f.most/2, leastBatch)
	}
}

func (f *feed) commit(ctx context.Context, p spool.Position) {
	if err := f.reader.Commit(p); err != nil {
		f.logRarely(ctx, "the place in the log could not be written; after a restart some transactions are sent again, and passed over", err)
	}
}

// batches are the transactions of a chunk that the sink has not got yet, in pieces of at most
// maxBatch. They are valid until the next step. What comes after something that cannot be read is
// lost, and counted.
func (f *feed) batches(ctx context.Context, c *spool.Chunk) iter.Seq[traffic.Batch] {
	b := traffic.Batch{Source: traffic.Source{Server: f.cfg.ServerID, Run: c.Run}, First: c.First, Transactions: f.read[:0]}
	for _, payload := range c.Payloads {
		var err error
		if b.Transactions, err = f.decoder.Append(b.Transactions, payload); err != nil {
			f.metrics.dropped.WithLabelValues(dropUnreadable).Add(float64(max(c.N-len(b.Transactions), 0)))
			f.logRarely(ctx, "transactions in the log cannot be read and are lost", err)
			break
		}
	}
	f.read = b.Transactions
	return pieces(b.From(c.First + int64(c.Skip)))
}

func pieces(b traffic.Batch) iter.Seq[traffic.Batch] {
	return func(yield func(traffic.Batch) bool) {
		for part := range slices.Chunk(b.Transactions, maxBatch) {
			if !yield(traffic.Batch{Source: b.Source, First: b.First, Transactions: part}) {
				return
			}
			b.First += int64(len(part))
		}
	}
}

// stored is what became of a batch.
type stored struct {
	n       int // so many of it, the first ones, are done with
	fresh   int // of these were not there before: the last ones
	refused int // of these will never be taken
}

// write stores a batch in the sink, over one or the other of its connections. What is refused is
// written in halves, until only the rows at fault are left over; these are dropped and counted. One of
// them costs two more writes for each time that the batch can be halved. With an error a part of the
// batch may be done with.
func (f *feed) write(ctx context.Context, sink Sink, b traffic.Batch) (stored, error) {
	fresh, err := sink.Write(ctx, b)
	_, refused := errors.AsType[*traffic.RefusedError](err)
	switch {
	case err == nil:
		f.refused.Store(0)
		return stored{n: len(b.Transactions), fresh: fresh}, nil
	case !refused:
		return stored{}, err
	case len(b.Transactions) == 1 && f.refused.Add(1) > mostRefused:
		return stored{}, fmt.Errorf("more than %d transactions in a row were refused, so that the rest waits: %w", mostRefused, err)
	case len(b.Transactions) == 1:
		f.metrics.dropped.WithLabelValues(dropRefused).Inc()
		f.logRarely(ctx, "a transaction was refused by its sink and is lost", err)
		return stored{1, 1, 1}, nil
	}
	half := b
	half.Transactions = b.Transactions[:len(b.Transactions)/2]
	first, err := f.write(ctx, sink, half)
	if err != nil {
		return first, err
	}
	second, err := f.write(ctx, sink, b.From(half.Next()))
	return stored{first.n + second.n, first.fresh + second.fresh, first.refused + second.refused}, err
}

// quiet is how long a fault that may come with every batch is not logged again.
const quiet = 10 * time.Second

// logRarely logs a fault with one of this package's messages, each at most every ten seconds.
func (f *feed) logRarely(ctx context.Context, message string, err error) {
	f.mu.Lock()
	at, logged := f.loggedAt[message]
	due := !logged || time.Since(at) >= quiet
	if due {
		f.loggedAt[message] = time.Now()
	}
	f.mu.Unlock()
	if due {
		f.log.WarnContext(ctx, message, slog.String("sink", f.Name), slog.Any("error", err)) //nolint:sloglint // each caller's message is a constant
	}
}
