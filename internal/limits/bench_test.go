package limits

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"
)

// manyRows are n rows: of a thousand gateways with many endpoints each, or, with one endpoint, of n
// gateways.
func manyRows(n, endpoints int) []Limit {
	rows := make([]Limit, 0, n)
	for i := range n {
		k := Key{Gateway: fmt.Sprintf("gateway-%d", i/endpoints), Endpoint: fmt.Sprintf("/v1/endpoint-%d", i%endpoints)}
		rows = append(rows, Limit{Key: k, MaxTPS: int64(i%1000 + 1), Enabled: true})
	}
	return rows
}

// shapes are how a million rows may be spread.
var shapes = []struct {
	name      string
	endpoints int
}{{"endpoints=1", 1}, {"endpoints=1000", 1000}, {"endpoints=all", 1_000_000}}

// BenchmarkNewTable compiles rows, and reports the memory that a table keeps for each.
func BenchmarkNewTable(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{1000, 1_000_000} {
			b.Run(fmt.Sprintf("rows=%d/%s", n, s.name), func(b *testing.B) {
				rows := manyRows(n, s.endpoints)
				before := heap()
				var t *Table
				for b.Loop() {
					t, _ = NewTable(nil, rows, Stamp{}) // the rows are good
				}
				b.ReportMetric(float64(heap()-before)/float64(n), "B/row")
				runtime.KeepAlive(t)
				runtime.KeepAlive(rows)
			})
		}
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkApply changes one row among many.
func BenchmarkApply(b *testing.B) {
	for _, s := range shapes {
		for _, n := range []int{1000, 1_000_000} {
			b.Run(fmt.Sprintf("rows=%d/%s", n, s.name), func(b *testing.B) {
				rows := manyRows(n, s.endpoints)
				t, err := NewTable(nil, rows, Stamp{})
				if err != nil {
					b.Fatal(err)
				}
				i := 0
				b.ReportAllocs()
				for b.Loop() {
					l := rows[(i*7919)%n]
					l.MaxTPS, i = int64(i%1000+1), i+1
					if t, err = t.Apply([]Change{{l.Key, &l}}, Stamp{}); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkFindLongName looks for the row of a name as long as Envoy lets a header be, among few
// patterns and among many.
func BenchmarkFindLongName(b *testing.B) {
	for _, n := range []int{5, 10_000} {
		b.Run(fmt.Sprintf("patterns=%d", n), func(b *testing.B) {
			rows := make([]Limit, 0, n)
			for i := range n {
				rows = append(rows, Limit{Key: Key{Gateway: "g", Endpoint: fmt.Sprintf("*/%d/*", i)}, MaxTPS: 1, Enabled: true})
			}
			t, err := NewTable(nil, rows, Stamp{})
			if err != nil {
				b.Fatal(err)
			}
			r, asked := t.Rules("d", "g"), "/"+strings.Repeat("a", 60_000)
			for b.Loop() {
				if r.Endpoint(asked, Dim{}) != nil {
					b.Fatal("a row fits")
				}
			}
		})
	}
}

// BenchmarkFind looks up the row of an endpoint: written out, and among 10,000 patterns that differ
// before the star, after it, on both sides, and between two.
func BenchmarkFind(b *testing.B) {
	const n = 10_000
	kinds := []struct{ name, row, asked string }{
		{"exact", "/v1/%d", "/v1/%d"},
		{"prefix", "/v1/%d/*", "/v1/%d/pay"},
		{"suffix", "*/%d", "/v1/pay/%d"},
		{"both", "/v1/%d*/%[1]d", "/v1/%d/pay/%[1]d"},
		{"middle", "*/%d/*", "/v1/%d/pay"},
	}
	for _, kind := range kinds {
		b.Run(kind.name, func(b *testing.B) {
			rows := make([]Limit, 0, n)
			asked := make([]string, 0, n)
			for i := range n {
				rows = append(rows, Limit{Key: Key{Gateway: "g", Endpoint: fmt.Sprintf(kind.row, i)}, MaxTPS: 1, Enabled: true})
				asked = append(asked, fmt.Sprintf(kind.asked, i))
			}
			began := time.Now()
			t, err := NewTable(nil, rows, Stamp{})
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/table")
			r := t.Rules("d", "g")
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				if r.Endpoint(asked[i%n], Dim{}) == nil {
					b.Fatalf("%q has no row", asked[i%n])
				}
				i += 7919
			}
		})
	}
}
