package accesslog

import (
	"bytes"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// inventor makes messages of 1,000 entries with names that no other one has.
type inventor struct {
	message []byte
	places  []int // of the digits of the names
	next    int
}

const invention = "name-%07d-\xff"

func newInventor() *inventor {
	var all []byte
	tag := func(key, value string) []byte { return field(22, text(1, key), text(2, value)) }
	e := field(1, common(tag("gateway", "hostile"), tag("endpoint", fmt.Sprintf(invention, 0)), field(5, varint(1, uint64(started.Unix()))), field(23, varint(2, 1e6))), response(field(1, varint(1, 200))))
	for range 1000 {
		all = append(all, e...)
	}
	v := &inventor{message: field(2, all)}
	for at, rest := 0, v.message; ; {
		i := bytes.Index(rest, []byte("name-"))
		if i < 0 {
			return v
		}
		v.places = append(v.places, at+i)
		at, rest = at+i+1, rest[i+1:]
	}
}

// invent returns the next message. It is used again for the one after.
func (v *inventor) invent() []byte {
	for _, place := range v.places {
		copy(v.message[place:], fmt.Sprintf(invention, v.next))
		v.next++
	}
	return v.message
}

// absurd are messages with what cannot be.
func absurd() [][]byte {
	const below0 = math.MaxUint64
	large := strings.Repeat("\x00\xff", 5<<20)
	hostile := field(22, text(1, "gateway"), text(2, "hostile"))
	return [][]byte{
		oneEntry(common(hostile, field(23, varint(1, math.MaxInt64), varint(2, 999_999_999)))),
		oneEntry(common(hostile, field(23, varint(1, below0), varint(2, below0)))),
		oneEntry(common(hostile, field(5, varint(1, 253402300799)))),
		oneEntry(common(hostile, field(5, varint(1, below0), varint(2, below0)))),
		oneEntry(common(hostile, varint(29, below0), varint(30, below0)), field(3, varint(10, below0), varint(12, below0)), response(field(1, varint(1, below0)), varint(2, below0))),
		oneEntry(common(hostile), field(3, text(3, large), text(5, large), field(13, text(1, large), text(2, large))), response(field(4, text(1, "grpc-status"), text(2, large)))),
		oneEntry(common(field(22, text(1, "gateway"), text(2, "hostile"+large)), text(15, large), text(19, large))),
		oneEntry(common(field(17, field(1, text(1, metadataNamespace), field(2,
			field(1, text(1, "gateway"), field(2, text(3, "hostile"))), field(1, text(1, "endpoint"), field(2, text(3, large))),
			field(1, text(1, "waited_ms"), field(2, fixed64(2, math.Float64bits(math.Inf(1)))))))))),
		field(2, bytes.Repeat([]byte{0x0a, 0x00}, 1<<20)), // a million entries of two bytes
		field(2, field(1, []byte{0x0a, 0x7f})),
		[]byte("GET / HTTP/1.1\r\n\r\n"),
	}
}

// tally takes the transactions of a good and of a hostile stream.
type tally struct {
	tb            testing.TB
	want          []traffic.Transaction // of each message of the good stream
	good, hostile atomic.Int64
}

func (a *tally) record(ts []traffic.Transaction) {
	if ts[0].Gateway == "gw-main" {
		a.good.Add(int64(len(ts)))
		if diff := cmp.Diff(a.want, ts); diff != "" {
			a.tb.Errorf("a message of the good stream (-want +got):\n%s", diff)
		}
		return
	}
	a.hostile.Add(int64(len(ts)))
	if len(ts) > mostTaken {
		a.tb.Errorf("%d transactions at once, want at most %d", len(ts), mostTaken)
	}
	for i := 0; i < len(ts); i += 37 {
		assertStorable(a.tb, ts[i])
	}
}

// A hostile stream changes nothing for another one, and leaves next to nothing in memory.
func TestHostileStream(t *testing.T) {
	const names, mostMemory = 300_000, 2 << 20 // the test of the whole in e2e has a million
	a := &tally{tb: t, want: []traffic.Transaction{transactionOf(httpEntry(t, payDecision)), transactionOf(httpEntry(t, payTags))}}
	var malformed atomic.Int64
	s, err := New(Config{}, Deps{Record: a.record, Malformed: func(error) { malformed.Add(1) }}, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	good, hostile, message := newMessage(s), newMessage(s), marshal(t, httpLogs(logged(payDecision), logged(payTags)))
	before, turns := heap(), make(chan struct{})
	go func() {
		defer close(turns)
		for v := newInventor(); v.next < names; turns <- struct{}{} {
			hostile.read(v.invent(), receivedAt)
		}
		for _, b := range absurd() {
			hostile.read(b, receivedAt)
			turns <- struct{}{}
		}
	}()
	messages := int64(0)
	for range turns {
		good.read(message, receivedAt)
		messages++
	}
	if grown := heap() - before; grown > mostMemory {
		t.Errorf("memory has grown by %d bytes, want at most %d", grown, mostMemory)
	}
	if got := a.good.Load(); got != 2*messages {
		t.Errorf("%d transactions of the good stream, want %d", got, 2*messages)
	}
	if got, want := a.hostile.Load(), int64(names+8+1<<20); got != want || malformed.Load() != 2 {
		t.Errorf("%d transactions of the hostile stream and %d malformed, want %d and 2", got, malformed.Load(), want)
	}
	runtime.KeepAlive(good)
	runtime.KeepAlive(hostile)
}

func httpEntry(tb testing.TB, parts ...part) *entry {
	tb.Helper()
	return decodeOne(tb, marshal(tb, httpLogs(logged(parts...))))
}

// heap is what is in use, in bytes.
func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkHostile is a stream of names that come once.
func BenchmarkHostile(b *testing.B) {
	v, m := newInventor(), receiver(b, MappingConfig{})
	b.ReportAllocs()
	for b.Loop() {
		m.read(v.invent(), receivedAt)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(v.places)), "ns/entry")
}
