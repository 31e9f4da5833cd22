package descriptors

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// bigTree is a tree of three levels with 10,000 nodes and 100 patterns: all beside each other where
// oneLevel is set, else five for each tenant.
func bigTree(oneLevel bool) *tree {
	t := &tree{source: "big.yaml", domain: "shop"}
	for tenant := range 20 {
		top := branch{key: "tenant", value: fmt.Sprintf("tenant-%02d", tenant)}
		for route := range 25 {
			middle := branch{key: "route", value: fmt.Sprintf("/api/v1/route-%02d", route)}
			if patterns := patternsOf(oneLevel, tenant); route < patterns {
				middle.value = fmt.Sprintf("/files/%02d-*", route)
			}
			middle.children = leaves(18)
			top.children = append(top.children, middle)
		}
		for extra := 25; extra < patternsOf(oneLevel, tenant); extra++ {
			top.children = append(top.children, branch{key: "route", value: fmt.Sprintf("/files/%02d-*", extra), children: leaves(18)})
		}
		t.descriptors = append(t.descriptors, top)
	}
	return t
}

func patternsOf(oneLevel bool, tenant int) int {
	switch {
	case !oneLevel:
		return 5
	case tenant == 0:
		return 100
	}
	return 0
}

func leaves(n int) (all []branch) {
	limit := func() *policy {
		return &policy{unit: setting{given: true, text: "minute"}, requests: number{given: true, n: 100}}
	}
	for user := range n {
		all = append(all, branch{key: "user", value: fmt.Sprintf("user-%02d", user), limit: limit()})
	}
	return append(all, branch{key: "user", limit: limit()})
}

// requestsOf are requests that match limits of bigTree, half of them by a pattern.
func requestsOf(oneLevel bool) (all [][]Entry) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 1024 {
		tenant := random.IntN(20)
		route := fmt.Sprintf("/api/v1/route-%02d", 5+random.IntN(20))
		if random.IntN(2) == 0 {
			if oneLevel {
				tenant = 0
			}
			route = fmt.Sprintf("/files/%02d-%d", random.IntN(patternsOf(oneLevel, tenant)), random.IntN(1e6))
		} else if oneLevel {
			tenant = 1 + random.IntN(19)
		}
		all = append(all, entriesOf("tenant", fmt.Sprintf("tenant-%02d", tenant), "route", route, "user", fmt.Sprintf("user-%02d", random.IntN(25))))
	}
	return all
}

func mustCompile(tb testing.TB, t *tree) *Domain {
	tb.Helper()
	found := faults{source: t.source}
	d := compile(t, &found)
	if err := found.err(); err != nil {
		tb.Fatal(err)
	}
	return d
}

func BenchmarkMatch(b *testing.B) {
	for name, oneLevel := range map[string]bool{"patterns=5x20": false, "patterns=100": true} {
		b.Run("nodes=10000/"+name, func(b *testing.B) {
			d, requests := mustCompile(b, bigTree(oneLevel)), requestsOf(oneLevel)
			for _, r := range requests {
				if d.Match(r) == nil {
					b.Fatalf("%q matches nothing in %d nodes", r, len(d.nodes))
				}
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Match(requests[i%len(requests)])
			}
		})
	}
}

// BenchmarkLookup is all that is done here for a descriptor: its limit, and what finds its counter.
func BenchmarkLookup(b *testing.B) {
	d, requests := mustCompile(b, bigTree(false)), requestsOf(false)
	var key []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		entries := requests[i%len(requests)]
		r := d.Match(entries)
		key = AppendKey(key[:0], r, r.Seconds, entries)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		var body strings.Builder
		body.WriteString("domain: shop\ndescriptors:\n")
		for i := range n {
			fmt.Fprintf(&body, "- key: user\n  value: user-%d\n  rate_limit: {unit: minute, requests_per_unit: %d}\n", i, i)
		}
		b.Run(fmt.Sprintf("limits=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(body.Len()))
			for b.Loop() {
				if _, err := Parse("shop.yaml", []byte(body.String())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
