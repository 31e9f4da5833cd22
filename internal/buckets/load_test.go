package buckets

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// load is an Engine, and the requests that a benchmark asks of it again and again. It is made when
// the first benchmark wants it, so that -bench makes only what it names.
type load struct {
	cfg    Config
	rows   func() []limits.Limit // which refuse none of the requests that name makes
	name   namer
	engine *Engine
	clock  limits.Clock
	perRow float64 // bytes of the table
}

func (l *load) make(b *testing.B) {
	b.Helper()
	if l.engine != nil {
		return
	}
	rows := l.rows()
	before := heapBytes()
	current := &limits.Current{}
	l.clock = limits.NewClock()
	current.Store(newTable(b, nil, l.clock.NowNS(), rows...))
	l.perRow = float64(heapBytes()-before) / float64(len(rows))
	runtime.KeepAlive(rows)
	l.engine = New(l.cfg, l.clock, current)
}

// bench asks for the keys from as many goroutines as there are CPUs, once their buckets are there,
// and reports the bytes of a row and of a live bucket. base may be nil.
func (l *load) bench(b *testing.B, name string, keys []uint32, base *baseline) {
	b.Helper()
	perBucket, made := 0.0, int64(-1)
	b.Run(name, func(b *testing.B) {
		if l.make(b); made < 0 {
			perBucket, made = l.warmUp(b, keys)
		}
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) { newRequester(l).run(b, pb, keys) })
		base.compare(b)
		b.ReportMetric(l.perRow, "B/row")
		if made >= 500 { // of fewer, what else is on the heap would be most
			b.ReportMetric(perBucket, "B/bucket")
		}
	})
}

// warmUp makes the bucket of every key, and tells how many that were.
func (l *load) warmUp(b *testing.B, keys []uint32) (bytesEach float64, made int64) {
	b.Helper()
	had, before := l.engine.Stats().Buckets, heapBytes()
	r := newRequester(l)
	for _, k := range keys {
		if err := r.decide(k); err != nil {
			b.Fatal(err)
		}
	}
	made = l.engine.Stats().Buckets - had
	return float64(heapBytes()-before) / float64(max(made, 1)), made
}

// baseline is the time of the first benchmark that is compared, by the number of CPUs.
type baseline struct {
	name string
	ns   map[int]float64
}

// compare reports as x-first how much longer than the first this one takes.
func (base *baseline) compare(b *testing.B) {
	b.Helper()
	cpus, ns := runtime.GOMAXPROCS(0), nsPerOp(b)
	if base == nil {
		return
	}
	if base.ns == nil {
		base.name, base.ns = b.Name(), make(map[int]float64)
	}
	if base.name == b.Name() {
		base.ns[cpus] = ns
	} else {
		b.ReportMetric(ns/base.ns[cpus], "x-first")
	}
}

// heapBytes is what is reachable now.
func heapBytes() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// shuffled is the keys 0, step, 2·step … below n·step, in random order.
func shuffled(n, step int) []uint32 {
	keys := make([]uint32, n)
	for i := range keys {
		keys[i] = uint32(i * step)
	}
	rand.Shuffle(n, func(i, j int) { keys[i], keys[j] = keys[j], keys[i] })
	return keys
}

// requester asks one request after the other. Each is written over the one before, as a decoder
// does: what a request itself holds is in the cache of its core.
type requester struct {
	*load
	request                 Request
	d                       Decision
	gateway, endpoint, user text
}

func newRequester(l *load) *requester {
	r := &requester{load: l, gateway: newText("gateway-"), endpoint: newText("endpoint-"), user: newText("user-")}
	r.request = *ask(1, r.gateway.set(0), r.endpoint.set(0), Entry{"user", r.user.set(0)})
	return r
}

// decide returns an error where the request of a key is not admitted by a limit.
func (r *requester) decide(key uint32) error {
	r.name(r, key)
	if _, err := r.engine.decide(r.clock.NowNS(), &r.request, 0, &r.d); err != nil || r.d.Code != OK || r.d.Statuses[0].Limit == nil {
		return fmt.Errorf("decide(%+v) = %v %+v, %w", r.request, r.d.Code, r.d.Statuses, err)
	}
	return nil
}

// run begins anywhere, so that goroutines do not follow each other.
func (r *requester) run(b *testing.B, pb *testing.PB, keys []uint32) {
	b.Helper()
	for i := rand.IntN(len(keys)); pb.Next(); i++ {
		if err := r.decide(keys[i%len(keys)]); err != nil {
			b.Error(err)
			return
		}
	}
}

// namer writes a key into the request.
type namer func(r *requester, key uint32)

// onGrid names an endpoint of a grid.
func onGrid(r *requester, key uint32) {
	r.gateway.set(key / endpointsPerGateway)
	r.endpoint.set(key % endpointsPerGateway)
}

// onUnknown names a gateway that no grid has, onEndpoint and onUser change one name only.
func onUnknown(r *requester, key uint32)  { r.gateway.set(1<<19 + key) }
func onEndpoint(r *requester, key uint32) { r.endpoint.set(key) }
func onUser(r *requester, key uint32)     { r.user.set(key) }

// text is a name that ends in a number of five hexadecimal digits. All that it was ever set to share
// one memory.
type text struct{ bytes []byte }

func newText(prefix string) text { return text{[]byte(prefix + "00000")} }

func (t text) set(n uint32) string {
	digits := t.bytes[len(t.bytes)-5:]
	for i := range digits {
		digits[4-i] = "0123456789abcdef"[n>>(4*i)&15]
	}
	return unsafe.String(unsafe.SliceData(t.bytes), len(t.bytes))
}
