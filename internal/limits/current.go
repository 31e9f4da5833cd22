package limits

import (
	"errors"
	"sync"
	"sync/atomic"
)

// Current is the Table in force. The zero Current has none yet.
type Current struct {
	table atomic.Pointer[Table]

	mu     sync.Mutex // serialises Store, so that watchers see tables in their order
	onSwap []func(*Table)
}

// Load returns the table in force, nil while none was ever stored.
func (c *Current) Load() *Table { return c.table.Load() }

// Store puts t in force and then calls every watcher. t must come from NewTable or Apply
// and be newer than the one in force.
func (c *Current) Store(t *Table) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.table.Store(t)
	for _, f := range c.onSwap {
		f(t)
	}
}

// OnSwap adds a watcher that is called after each Store, on the goroutine that stores. It
// must not block and must not call Store.
func (c *Current) OnSwap(f func(*Table)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.onSwap = append(c.onSwap, f)
}

// ErrNotFound says that there is no row of the key that was to be deleted.
var ErrNotFound = errors.New("no such limit")
