package rollup

import (
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestNamesBeyondTheBounds(t *testing.T) {
	n := NewNames(4)
	for i, c := range []struct{ ask, want Key }{
		{Key{"d", "a", "1"}, Key{"d", "a", "1"}},
		{Key{"d", "a", ""}, Key{"d", "a", ""}},
		{Key{"d", "a", "3"}, Key{"d", "a", Other}}, // half of 4 is a's share
		{Key{"d", "b", "1"}, Key{"d", "b", "1"}},
		{Key{"e", "a", "1"}, Key{"e", "a", "1"}}, // another domain, another gateway
		{Key{"d", "b", "2"}, Key{"d", "b", Other}},
		{Key{"d", "c", "1"}, Key{Other, Other, Other}},
		{Key{"d", "a", "1"}, Key{"d", "a", "1"}}, // still known
	} {
		if got := n.Bounded(c.ask.Domain, c.ask.Gateway, c.ask.Endpoint); got != c.want {
			t.Errorf("%d: Bounded(%v) = %v, want %v", i, c.ask, got, c.want)
		}
	}
	if n.Full() != 3 {
		t.Errorf("Full() = %d, want 3", n.Full())
	}
}

func TestNamesOfASmallBound(t *testing.T) {
	for bound, want := range map[int][2]Key{
		-1: {{Other, Other, Other}, {Other, Other, Other}},
		0:  {{Other, Other, Other}, {Other, Other, Other}},
		1:  {{"d", "a", "1"}, {"d", "a", Other}},
	} {
		n := NewNames(bound)
		if got := [2]Key{n.Bounded("d", "a", "1"), n.Bounded("d", "a", "2")}; got != want {
			t.Errorf("NewNames(%d): two keys are %v, want %v", bound, got, want)
		}
	}
}

// isOther tells whether the key may have room of its own.
func isOther(k Key) bool { return k.Endpoint == Other }

// fataler is a testing.T or a rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkBounds fails where keys hold more than Names of that bound may let in.
func checkBounds(t fataler, bound int, keys map[Key]bool) {
	t.Helper()
	proper, ofGateway, others := 0, map[Key]int{}, map[Key]bool{}
	for k := range keys {
		gateway := Key{Domain: k.Domain, Gateway: k.Gateway}
		if isOther(k) {
			others[gateway] = true
			continue
		}
		proper++
		if ofGateway[gateway]++; ofGateway[gateway] > max(bound/2, 1) {
			t.Fatalf("gateway %v has more than half of %d keys: %v", gateway, bound, keys)
		}
	}
	for gateway := range others {
		if ofGateway[gateway] == 0 && gateway.Gateway != Other {
			proper++ // somebody asked for it by that name, and it was let in
		}
	}
	if proper > bound {
		t.Fatalf("%d keys, want at most %d: %v", proper, bound, keys)
	}
}

func TestNamesNeverExceedTheBounds(t *testing.T) {
	name := rapid.SampledFrom([]string{"", "a", "b", "c", "d", "e", Other})
	rapid.Check(t, func(t *rapid.T) {
		bound := rapid.IntRange(0, 12).Draw(t, "bound")
		n, keys, answers, others := NewNames(bound), map[Key]bool{}, map[Key]Key{}, uint64(0)
		for range rapid.IntRange(0, 60).Draw(t, "lookups") {
			ask := Key{name.Draw(t, "domain"), name.Draw(t, "gateway"), name.Draw(t, "endpoint")}
			got := n.Bounded(ask.Domain, ask.Gateway, ask.Endpoint)
			if got != ask {
				others++
			}
			if again := n.Bounded(got.Domain, got.Gateway, got.Endpoint); again != got {
				t.Fatalf("%v is %v, and that is %v", ask, got, again)
			}
			if before, ok := answers[ask]; ok && before == ask && got != ask {
				t.Fatalf("%v was let in and is now %v", ask, got)
			}
			answers[ask], keys[got] = got, true
			checkBounds(t, bound, keys)
		}
		if n.Full() != others {
			t.Fatalf("Full() = %d, want %d", n.Full(), others)
		}
	})
}

// TestNamesHammer: whoever asks at the same time gets the same answers, within the bounds.
func TestNamesHammer(t *testing.T) {
	const bound, workers, rounds = 50, 8, 4000
	n, answers := NewNames(bound), make([]map[Key]bool, workers)
	var wg sync.WaitGroup
	for w := range workers {
		answers[w] = map[Key]bool{}
		wg.Go(func() {
			for i := range rounds {
				at := (i*(2*w+1) + w) % 300
				answers[w][n.Bounded("d", fmt.Sprint("gateway", at%7), fmt.Sprint("endpoint", at))] = true
			}
		})
	}
	wg.Wait()
	all := map[Key]bool{}
	for _, keys := range answers {
		for k := range keys {
			all[k] = true
		}
	}
	checkBounds(t, bound, all)
	proper := 0
	for k := range all {
		if !isOther(k) {
			proper++
		}
	}
	if proper != bound {
		t.Errorf("%d keys were let in, want %d: %v", proper, bound, all)
	}
}

// someKeys returns n keys, fifty to a gateway.
func someKeys(n int) []Key {
	keys := make([]Key, n)
	for i := range keys {
		keys[i] = Key{"domain", fmt.Sprintf("gateway-%04d", i/50), fmt.Sprintf("endpoint-%02d", i%50)}
	}
	return keys
}

func TestSomeKeysAreKeptApart(t *testing.T) {
	n, got := NewNames(1000), []Key{}
	for _, k := range someKeys(1000) {
		got = append(got, n.Bounded(k.Domain, k.Gateway, k.Endpoint))
	}
	if diff := cmp.Diff(someKeys(1000), got); diff != "" || n.Full() != 0 {
		t.Errorf("Full() = %d, -want +got:\n%s", n.Full(), diff)
	}
}

func BenchmarkNames(b *testing.B) {
	for _, c := range []struct {
		name  string
		bound int
	}{{"known", 1000}, {"full", 10}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			n := NewNames(c.bound)
			for _, k := range someKeys(1000) {
				n.Bounded(k.Domain, k.Gateway, k.Endpoint)
			}
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				keys := someKeys(1000)
				for i := 0; pb.Next(); i++ {
					k := &keys[i%len(keys)]
					n.Bounded(k.Domain, k.Gateway, k.Endpoint)
				}
			})
		})
	}
}
