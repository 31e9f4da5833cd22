package recorder

import (
	"sync"
	"time"
)

// queue keeps transactions until they are written. Any number of goroutines may put, one takes
// from the head.
type queue struct {
	max  int           // most that wait
	many int           // this many ask for a write
	full chan struct{} // has one element when at least many wait

	mu      sync.Mutex
	waiting []Transaction
	since   time.Time // when the first of them came, or a little before
	closed  bool
}

// newQueue limits many to most: a queue that is full must not wait for the time of a write.
func newQueue(most, many int) *queue {
	return &queue{max: most, many: min(many, most), full: make(chan struct{}, 1)}
}

// put appends t, or returns the reason why it is dropped: the queue is full, or the writer has
// ended. At the bound the newest are dropped, since the oldest may be on their way to the sink.
func (q *queue) put(t *Transaction) (reason string, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.closed:
		return dropShutdown, false
	case len(q.waiting) >= q.max:
		return dropQueueFull, false
	case len(q.waiting) == 0:
		q.since = time.Now()
	}
	if q.waiting == nil {
		q.waiting = make([]Transaction, 0, q.many)
	}
	q.waiting = append(q.waiting, *t)
	if len(q.waiting) >= q.many {
		select {
		case q.full <- struct{}{}:
		default:
		}
	}
	return "", true
}

func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// isFull tells whether so many wait that they are to be written now.
func (q *queue) isFull() bool { return q.length() >= q.many }

// dueIn is how long the oldest may still wait; 0 or less = it is due. Of an empty queue it is all
// of the interval.
func (q *queue) dueIn(interval time.Duration) time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		return interval
	}
	return interval - time.Since(q.since)
}

// head returns the oldest n, which stay in the queue until remove.
func (q *queue) head(n int) []Transaction {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting[:min(n, len(q.waiting))]
}

// remove drops the oldest n. What is left came at since or later.
func (q *queue) remove(n int, since time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.waiting[:n]) // their names; the array lives on
	q.waiting = q.waiting[n:]
	q.since = since
	if len(q.waiting) == 0 {
		q.waiting = nil
	}
}

// close lets nothing more in, and returns how many were left.
func (q *queue) close() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	left := len(q.waiting)
	q.waiting, q.closed = nil, true
	return left
}
