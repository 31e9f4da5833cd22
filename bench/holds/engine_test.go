//go:build e2e

package holds

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// memory is what is in use after a collection.
type memory struct{ heap, stack float64 }

func inUse() memory {
	runtime.GC()
	runtime.GC() // what the first one has only put aside: pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return memory{heap: float64(m.HeapAlloc), stack: float64(m.StackInuse)}
}

// each is what every one of the waiters has taken since before.
func (m memory) each(before memory) memory {
	return memory{(m.heap - before.heap) / waiters, (m.stack - before.stack) / waiters}
}

func engineTable(b *testing.B) string {
	b.Helper()
	var body strings.Builder
	fmt.Fprintf(&body, "## Engine alone, %d requests\n\nBytes for each; the engine's heap is what its waiters take beyond as many goroutines that wait for their context.\n\n", waiters)
	body.WriteString(row("queue", "heap of the engine", "target", "heap of callers", "stack", "µs to queue one", "CPU while nothing is granted", "target") + row("---", "---", "---", "---", "---", "---", "---", "---"))
	callers := parked(b)
	for _, lanes := range []int{1, 1000, waiters} {
		e := newEngine(b)
		before, began := inUse(), time.Now()
		leave := e.hold(b, lanes)
		took := time.Since(began)
		all := inUse().each(before)
		own := all.heap - callers.heap
		if own >= heapTarget {
			b.Errorf("%d lanes: the engine has %.0f bytes for each that waits, want less than %g", lanes, own, heapTarget)
		}
		share := cpuShare(b, os.Getpid())
		leave()
		body.WriteString(row(queueOf(lanes), fmt.Sprintf("%.0f", own), "< 1000", fmt.Sprintf("%.0f", callers.heap), fmt.Sprintf("%.0f", all.stack),
			fmt.Sprintf("%.1f", took.Seconds()*1e6/waiters), fmt.Sprintf("%.1f %%", share), "< 5 %"))
		b.ReportMetric(own, fmt.Sprintf("B/waiter-%dlanes", lanes))
	}
	return body.String() + "\n"
}

// queueOf names a shape of the queue: in the last one each request has a bucket and a lane for itself.
func queueOf(lanes int) string {
	if lanes == waiters {
		return fmt.Sprintf("%d lanes and buckets, one for each", lanes)
	}
	return fmt.Sprintf("lanes: %d", lanes)
}

// parked is what goroutines take that have a request and a context, and wait for that alone.
func parked(b *testing.B) memory {
	b.Helper()
	before := inUse()
	var ready, done sync.WaitGroup
	ctx, leave := context.WithCancel(b.Context())
	ready.Add(waiters)
	for i := range waiters {
		done.Go(func() {
			own, cancel := context.WithCancel(ctx)
			defer cancel()
			r := request(endpointOf(i, waiters), 1)
			ready.Done()
			<-own.Done()
			runtime.KeepAlive(r)
		})
	}
	ready.Wait()
	taken := inUse().each(before)
	leave()
	done.Wait()
	return taken
}

func request(endpoint string, hits uint64) *buckets.Request {
	d := buckets.Descriptor{Gateway: gateway, HasGateway: true, Hits: hits, MaxWaitMS: -1}
	d.Entries = []buckets.Entry{{Key: "gateway", Value: gateway}}
	if endpoint != "" {
		d.Endpoint, d.HasEndpoint = endpoint, true
		d.Entries = append(d.Entries, buckets.Entry{Key: "endpoint", Value: endpoint})
	}
	return &buckets.Request{Domain: "edge", Descriptors: []buckets.Descriptor{d}}
}

// engine is one whose queue does not move.
type engine struct {
	*buckets.Engine
	ctx     context.Context //nolint:containedctx // of all that wait
	leave   context.CancelFunc
	waiting sync.WaitGroup
}

// newEngine returns one with two levels of limits, an empty bucket of the gateway, and a request in
// front that waits for all of its tokens.
func newEngine(b *testing.B) *engine {
	b.Helper()
	clock, current := limits.NewClock(), &limits.Current{}
	table, err := limits.NewTable(nil, []limits.Limit{
		{Key: limits.Key{Gateway: gateway}, MaxTPS: rate, Burst: burst, MaxWaitMS: maxWaitMS, Enabled: true},
		{Key: limits.Key{Gateway: gateway, Endpoint: "*"}, MaxTPS: rate, Burst: burst, MaxWaitMS: maxWaitMS, Enabled: true},
	}, limits.Stamp{ID: 1, AtNS: clock.NowNS()})
	if err != nil {
		b.Fatal(err)
	}
	current.Store(table)
	e := &engine{Engine: buckets.New(buckets.Config{MaxWaiters: 2 * waiters}, clock, current)}
	e.ctx, e.leave = context.WithCancel(b.Context())
	var d buckets.Decision
	if err := e.Do(e.ctx, request("", burst), -1, &d); err != nil || d.Code != buckets.OK {
		b.Fatalf("emptying the bucket: %v, %v", d.Code, err)
	}
	e.join(b, request("", burst))
	e.await(b, 1)
	return e
}

// join makes a goroutine wait for a request.
func (e *engine) join(b *testing.B, r *buckets.Request) {
	b.Helper()
	e.waiting.Go(func() {
		own, cancel := context.WithCancel(e.ctx)
		defer cancel()
		var d buckets.Decision
		if err := e.Do(own, r, -1, &d); e.ctx.Err() == nil { // once some leave, others get the tokens that came meanwhile
			b.Errorf("a request was answered: %v after %d ns, %v", d.Code, d.WaitedNS, err)
		}
	})
}

func (e *engine) await(b *testing.B, n int64) {
	b.Helper()
	testenv.Eventually(b, 5*time.Minute, "requests in the queue", func() error {
		if got := e.Stats().Waiters; got != n {
			return fmt.Errorf("%d wait, want %d", got, n)
		}
		return nil
	})
}

// hold makes all wait, and returns what ends that.
func (e *engine) hold(b *testing.B, lanes int) (leave func()) {
	b.Helper()
	for i := range waiters {
		e.join(b, request(endpointOf(i, lanes), 1))
	}
	e.await(b, waiters+1)
	return func() {
		e.leave()
		e.waiting.Wait()
		e.await(b, 0)
	}
}
