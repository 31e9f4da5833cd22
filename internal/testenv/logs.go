package testenv

import (
	"bytes"
	"sync"
)

// Logs collects what is written to it, by any number of goroutines. The zero Logs is empty.
type Logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

// Write never fails.
func (l *Logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

// String returns all that was written by now.
func (l *Logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}
