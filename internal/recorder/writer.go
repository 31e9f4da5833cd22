package recorder

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"
)

// maxBatch is the most transactions that are written at once.
const maxBatch = 10_000

// Pauses after a failed write, each up to half longer or shorter, so that replicas spread.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// Sink stores transactions for good. Its methods return soon after their context has ended.
type Sink interface {
	// Maintain is called at the start, every hour, and sooner after an error.
	Maintain(ctx context.Context) error
	// Write stores a batch, all of it or nothing. A *RefusedError says that the batch itself is
	// at fault and will never be taken; after any other error the batch is written again.
	Write(ctx context.Context, batch []Transaction) error
}

// RefusedError says that a sink will not take a batch however often it is tried.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the sink's own words.
func (e *RefusedError) Unwrap() error { return e.Err }

// Run writes batches until ctx ends, then what still waits, for at most Config.FlushTimeout, and
// returns nil. What could not be written by then is counted as dropped. It is to be called once.
func (r *Recorder) Run(ctx context.Context) error {
	if r.sink == nil {
		<-ctx.Done()
		return nil
	}
	maintained := make(chan struct{})
	go func() {
		defer close(maintained)
		r.maintain(ctx)
	}()
	work, cancel := outlive(ctx, r.cfg.FlushTimeout)
	defer cancel()
	p := &pauses{stop: ctx.Done(), next: firstPause}
	r.writeUntil(ctx, work, p)
	r.drain(work, p)
	<-maintained
	if lost := r.queue.close(); lost > 0 {
		r.metrics.dropped.WithLabelValues(dropShutdown).Add(float64(lost))
		r.log.ErrorContext(ctx, "transactions are lost: they could not be written before the stop", slog.Int("lost", lost))
	}
	return nil
}

// outlive returns a context that ends so much later than ctx, so that a write under way at the
// stop can still end: one that was cut off may have been committed, and would come twice.
func outlive(ctx context.Context, by time.Duration) (context.Context, context.CancelFunc) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(by)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-work.Done():
		}
	})
	return work, func() {
		stop()
		cancel()
	}
}

// writeUntil writes when a batch is full or its oldest is due, until ctx ends. Writes have work as
// their context.
func (r *Recorder) writeUntil(ctx, work context.Context, p *pauses) {
	due := time.NewTimer(r.cfg.FlushInterval)
	defer due.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-r.queue.full:
			// What asked for this write may have gone with the one before.
			if r.queue.isFull() {
				r.drain(work, p)
			}
		case <-due.C:
			if r.queue.dueIn(r.cfg.FlushInterval) <= 0 {
				r.drain(work, p)
			}
			due.Reset(max(r.queue.dueIn(r.cfg.FlushInterval), 0))
		}
	}
}

// drain writes all that waits when it is called, and tries until it is written or ctx ends.
func (r *Recorder) drain(ctx context.Context, p *pauses) {
	began := time.Now()
	for left := r.queue.length(); left > 0 && ctx.Err() == nil; {
		n := min(left, maxBatch)
		r.store(ctx, n, began, p)
		left -= n
	}
}

// store writes the oldest n and removes them, and tries until that is done or ctx ends. What is
// refused is written in halves, until only the rows at fault are left over; these are dropped and
// counted. One of them costs two more writes for each time that n can be halved. What is left in
// the queue came at since or later.
func (r *Recorder) store(ctx context.Context, n int, since time.Time, p *pauses) {
	for ctx.Err() == nil {
		err := r.sink.Write(ctx, r.queue.head(n))
		_, refused := errors.AsType[*RefusedError](err)
		if err != nil && !refused {
			r.metrics.writeErrors.Inc()
			r.logRarely(ctx, "transactions could not be written; they wait", err)
			p.wait(ctx)
			continue
		}
		if refused && n > 1 {
			r.store(ctx, n/2, since, p)
			r.store(ctx, n-n/2, since, p)
			return
		}
		r.queue.remove(n, since)
		r.written(ctx, n, err, p)
		return
	}
}

// written counts n transactions that the sink has taken, or the one that it has refused.
func (r *Recorder) written(ctx context.Context, n int, refused error, p *pauses) {
	if refused == nil {
		r.metrics.written.Add(float64(n))
	} else {
		r.metrics.dropped.WithLabelValues(dropRefused).Inc()
		r.logRarely(ctx, "a transaction was refused by the database and is lost", refused)
	}
	if p.end() {
		r.log.InfoContext(ctx, "transactions are written again", slog.Int("waiting", r.queue.length()))
	}
}

// pauses are the times between writes that fail, ever longer ones.
type pauses struct {
	stop   <-chan struct{} // ends a pause: what waits is tried at once then; nil = it has
	next   time.Duration
	failed bool
}

// wait blocks for the next pause, or until ctx ends.
func (p *pauses) wait(ctx context.Context) {
	p.failed = true
	timer := time.NewTimer(p.next/2 + rand.N(p.next)) //nolint:gosec // spreads replicas, no secret
	defer timer.Stop()
	p.next = min(2*p.next, longestPause)
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-p.stop:
		p.stop, p.next = nil, firstPause
	}
}

// end tells whether writes had failed until now.
func (p *pauses) end() (failed bool) {
	failed = p.failed
	p.next, p.failed = firstPause, false
	return failed
}

// maintain looks after the sink every hour, sooner after an error.
func (r *Recorder) maintain(ctx context.Context) {
	const every, most = time.Hour, time.Minute
	for retry := firstPause; ; {
		next := every
		if err := r.sink.Maintain(ctx); err == nil {
			retry = firstPause
		} else if ctx.Err() == nil {
			next, retry = retry, min(2*retry, most)
			r.metrics.maintenance.Inc()
			r.logRarely(ctx, "partitions of tps_metrics could not be made; rows of days without one go to the default partition", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// quiet is how long a fault that may come with every batch is not logged again.
const quiet = 10 * time.Second

// logRarely logs a fault with one of this file's messages, each at most every ten seconds.
func (r *Recorder) logRarely(ctx context.Context, message string, err error) {
	r.mu.Lock()
	at, logged := r.loggedAt[message]
	due := !logged || time.Since(at) >= quiet
	if due {
		r.loggedAt[message] = time.Now()
	}
	r.mu.Unlock()
	if due {
		r.log.WarnContext(ctx, message, slog.Any("error", err)) //nolint:sloglint // each caller's message is a constant
	}
}
