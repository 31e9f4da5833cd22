package descriptors

import (
	"strings"
	"testing"
)

func TestNothingIsAllocatedPerRequest(t *testing.T) {
	d, share := mustCompile(t, bigTree(false)), mustParse(t, shareFile)
	replaces := mustParse(t, replaceFile)
	hit, miss := entriesOf("tenant", "tenant-01", "route", "/files/01-x", "user", "user-01"), entriesOf("tenant", "nobody")
	replacing, replaced := replaces.Match(entriesOf("a", "")), replaces.Match(entriesOf("b", ""))
	long := entriesOf("files", "files/"+strings.Repeat("x", 2*maxKey))
	var s Replacing
	var scratch []byte
	for _, step := range []struct {
		name string
		do   func()
	}{
		{"match", func() { d.Match(hit) }},
		{"miss", func() { d.Match(miss) }},
		{"counter", func() { scratch = AppendKey(scratch[:0], share.Match(long), 60, long) }},
		{"counter without rule", func() { scratch = AppendKey(scratch[:0], nil, 60, long) }},
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
