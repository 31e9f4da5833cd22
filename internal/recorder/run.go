package recorder

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

// Run brings what is recorded to the sinks until ctx ends, then what still waits, for at most
// Config.FlushTimeout, and returns nil. What could not be written by then stays in the log. It is to
// be called once.
func (r *Recorder) Run(ctx context.Context) error {
	if r.spool == nil {
		<-ctx.Done()
		return nil
	}
	logging, endLog := context.WithCancel(context.WithoutCancel(ctx))
	defer endLog()
	logged := make(chan error, 1)
	go func() { logged <- r.spool.Run(logging) }()
	r.runFeeds(ctx)
	endLog()
	return <-logged
}

func (r *Recorder) runFeeds(ctx context.Context) {
	work, cancel := outlive(ctx, r.cfg.FlushTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, f := range r.feeds {
		all.Go(func() { f.run(ctx, work) })
		if f.Maintain != nil {
			all.Go(func() { f.maintain(ctx) })
		}
	}
	ended := make(chan struct{})
	go func() {
		all.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		return
	case <-work.Done():
	}
	// What does not end with its context is waiting for a disk that hangs, and is left behind.
	timer := time.NewTimer(min(r.cfg.FlushTimeout/8, leaveBehind))
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// leaveBehind is how long a feed may take to end after the time of the stop is over.
const leaveBehind = 500 * time.Millisecond

// outlive returns a context that ends so much later than ctx, so that a write under way at the
// stop can still end.
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

// Pauses after a failed write, each up to half longer or shorter, so that replicas spread.
const (
	firstPause   = 100 * time.Millisecond
	longestPause = 5 * time.Second
)

// pauses are the times between writes that fail, ever longer ones.
type pauses struct {
	stop   <-chan struct{} // ends a pause
	next   time.Duration
	failed bool
}

// wait blocks for the next pause; false where ctx or the pauses have ended.
func (p *pauses) wait(ctx context.Context) bool {
	p.failed = true
	timer := time.NewTimer(p.next/2 + rand.N(p.next)) //nolint:gosec // spreads replicas, no secret
	defer timer.Stop()
	p.next = min(2*p.next, longestPause)
	select {
	case <-ctx.Done():
	case <-p.stop:
	case <-timer.C:
		return true
	}
	return false
}

// end tells whether writes had failed until now.
func (p *pauses) end() (failed bool) {
	failed = p.failed
	p.next, p.failed = firstPause, false
	return failed
}

// maintain looks after the sink every hour, sooner after an error.
func (f *feed) maintain(ctx context.Context) {
	const every, most = time.Hour, time.Minute
	for retry := firstPause; ; {
		next := every
		if err := f.Maintain(ctx); err == nil {
			retry = firstPause
		} else if ctx.Err() == nil {
			next, retry = retry, min(2*retry, most)
			f.metrics.maintenance.Inc()
			f.logRarely(ctx, "partitions could not be made or dropped; rows of days without one go to the default partition", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}
