package limits

import (
	"sync"
	"testing"
)

func TestCurrentShowsTheNewestTable(t *testing.T) {
	var c Current
	if got := c.Load(); got != nil {
		t.Fatalf("a fresh Current has %+v", got)
	}
	first := table(t, nil, 1)
	var seen []*Table
	c.OnSwap(func(got *Table) {
		if c.Load() != got {
			t.Error("a watcher is called before its table is in force")
		}
		seen = append(seen, got)
	})
	if len(seen) != 0 {
		t.Error("OnSwap itself has called the watcher")
	}
	second := table(t, first, 2)
	c.Store(first)
	c.Store(second)
	if len(seen) != 2 || seen[0] != first || seen[1] != second || c.Load() != second {
		t.Errorf("the watcher has seen %v, in force is %p; want %p, %p", seen, c.Load(), first, second)
	}
}

// TestWatchersAgree stores from many goroutines: every watcher sees all tables in one order, the
// last of which is in force.
func TestWatchersAgree(t *testing.T) {
	var c Current
	const watchers, stores = 3, 50
	var seen [watchers][]*Table
	for i := range watchers {
		c.OnSwap(func(got *Table) { seen[i] = append(seen[i], got) })
	}
	var all sync.WaitGroup
	for range stores {
		all.Go(func() { c.Store(&Table{}) })
	}
	all.Wait()
	for i, got := range seen {
		if len(got) != stores || got[stores-1] != c.Load() {
			t.Fatalf("watcher %d has seen %d tables, want %d and the one in force last", i, len(got), stores)
		}
		for j := range got {
			if got[j] != seen[0][j] {
				t.Fatalf("watcher %d has another order than watcher 0", i)
			}
		}
	}
}

// table is an empty Table after prev.
func table(tb testing.TB, prev *Table, id int64) *Table {
	tb.Helper()
	t, err := NewTable(prev, nil, Stamp{ID: id})
	if err != nil {
		tb.Fatal(err)
	}
	return t
}
