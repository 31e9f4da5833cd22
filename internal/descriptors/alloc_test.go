package descriptors

import (
	"hash/maphash"
	"strings"
	"testing"
)

func TestNothingIsAllocatedPerRequest(t *testing.T) {
	d, share := mustCompile(t, bigTree(false)), mustParse(t, shareFile)
	replaces := mustParse(t, replaceFile)
	hit, miss := entriesOf("tenant", "tenant-01", "route", "/files/01-x", "user", "user-01"), entriesOf("tenant", "nobody")
	replacing, replaced := replaces.Match(entriesOf("a", "")), replaces.Match(entriesOf("b", ""))
	long := entriesOf("files", "files/"+strings.Repeat("x", 2*maxKey))
	seed := maphash.MakeSeed()
	var c Counter
	var s Replacing
	var scratch []byte
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"match", func() { d.Match(hit) }},
		{"miss", func() { d.Match(miss) }},
		{"counter", func() {
			c.Of(share.Match(long), long)
			c.Hash(seed)
			scratch = c.AppendKey(scratch[:0])
			c.Is("kx")
		}},
		{"counter without rule", func() {
			c = Counter{Domain: "d", Seconds: 1, Entries: long, scratch: c.scratch}
			c.Is("h")
		}},
		{"stat", func() { scratch = share.Match(long).AppendStat(scratch[:0], long) }},
		{"replaces", func() {
			s.Reset()
			s.Add(replacing)
			s.Add(replaced)
			if !s.Replaced(replaced) {
				t.Error("b is not replaced")
			}
		}},
	} {
		if n := testing.AllocsPerRun(100, step.do); n != 0 {
			t.Errorf("%s: %v allocations, want none", step.name, n)
		}
	}
}
