package descriptors

import (
	"hash/maphash"
	"strings"
	"testing"
)

const shareFile = `
domain: test-domain
descriptors:
- {key: files, value: files/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 100}}
- key: files
  value: top/*
  share_threshold: true
  descriptors:
  - {key: files, value: nested/*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 300}}
- key: path
  value: path/*
  share_threshold: true
  descriptors:
  - key: file
    value: file/*
    share_threshold: false
    descriptors: [{key: type, rate_limit: {unit: minute, requests_per_unit: 120}}]
- {key: file, value: test1, rate_limit: {unit: minute, requests_per_unit: 50}}
- {key: file, value: test*, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 101}}
- {key: multi, value: svc*ep*rpc, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 51}}
- {key: apart, value: x*, rate_limit: {unit: minute, requests_per_unit: 52}}
`

func TestWhatIsCountedTogether(t *testing.T) {
	d := mustParse(t, shareFile)
	for _, c := range []struct {
		a, b []Entry
		want bool
	}{
		{entriesOf("files", "files/a.pdf"), entriesOf("files", "files/b.csv"), true},
		{entriesOf("files", "files/a.pdf"), entriesOf("files", "files/*"), true},
		{entriesOf("files", "top/a", "files", "nested/a"), entriesOf("files", "top/b", "files", "nested/b"), true},
		{entriesOf("files", "files/nested/a"), entriesOf("files", "top/a", "files", "nested/a"), false},
		{entriesOf("path", "path/1", "file", "file/a", "type", "t"), entriesOf("path", "path/2", "file", "file/a", "type", "t"), true},
		{entriesOf("path", "path/1", "file", "file/a", "type", "t"), entriesOf("path", "path/1", "file", "file/b", "type", "t"), false},
		{entriesOf("path", "path/1", "file", "file/a", "type", "t"), entriesOf("path", "path/1", "file", "file/a", "type", "u"), false},
		{entriesOf("file", "test2"), entriesOf("file", "test3"), true},
		{entriesOf("file", "test1"), entriesOf("file", "test2"), false}, // the exact node is not shared
		{entriesOf("multi", "svc1ep1rpc"), entriesOf("multi", "svc2ep2rpc"), true},
		{entriesOf("apart", "x1"), entriesOf("apart", "x2"), false}, // each value of a pattern counts apart
	} {
		a, b := counterOf(t, d, c.a), counterOf(t, d, c.b)
		if got := b.Is(string(a.AppendKey(nil))); got != c.want {
			t.Errorf("%q and %q are counted together: %t, want %t", c.a, c.b, got, c.want)
		}
	}
}

func counterOf(t *testing.T, d *Domain, entries []Entry) *Counter {
	t.Helper()
	r := d.Match(entries)
	if r == nil {
		t.Fatalf("%q has no limit", entries)
	}
	c := &Counter{}
	c.Of(r, entries)
	return c
}

// TestCountersDoNotMeet has what envoyproxy/ratelimit counts together without being asked.
func TestCountersDoNotMeet(t *testing.T) {
	all := []Counter{
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a_b", "")},
		{Domain: "shop_a", Seconds: 60, Entries: entriesOf("b", "")},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", "b")},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", "", "b", "")},
		{Domain: "shop", Seconds: 1, Entries: entriesOf("a", "b")},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", "b", "", "")},
		{Domain: "shop", Seconds: 60},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", strings.Repeat("b", 200))},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", strings.Repeat("b", 1<<20))},
		{Domain: "shop", Seconds: 60, Entries: entriesOf("a", strings.Repeat("b", 1<<20+1))},
		{Domain: "shop", Seconds: 31_536_000, Entries: entriesOf("a", "b")},
	}
	seed := maphash.MakeSeed()
	for i := range all {
		key := string(all[i].AppendKey([]byte("before"))[len("before"):])
		if len(key) > maxKey {
			t.Errorf("counter %d has a key of %d bytes", i, len(key))
		}
		for j := range all {
			if all[j].Is(key) != (i == j) || (all[j].Hash(seed) == all[i].Hash(seed)) != (i == j) {
				t.Errorf("counters %d and %d: Is %t, hashes %x and %x", i, j, all[j].Is(key), all[j].Hash(seed), all[i].Hash(seed))
			}
		}
	}
	for _, key := range []string{"", "k", "k\x80", "h", "k\x3c\x04sho", "x"} {
		for i := range all {
			if all[i].Is(key) {
				t.Errorf("counter %d takes %q for its key", i, key)
			}
		}
	}
}

func TestReleaseKeepsNothingAlive(t *testing.T) {
	c := Counter{Domain: "shop", Entries: entriesOf("a", strings.Repeat("b", maxKey))}
	c.Is("h")
	c.Release()
	if c.Domain != "" || c.Entries != nil || c.Rule != nil || cap(c.scratch) == 0 {
		t.Errorf("after Release: %+v, scratch of %d bytes; want only the scratch", c, cap(c.scratch))
	}
	c = Counter{Entries: entriesOf("a", strings.Repeat("b", 1<<20))}
	c.Is("h")
	if c.Release(); cap(c.scratch) != 0 {
		t.Errorf("Release keeps a scratch of %d bytes", cap(c.scratch))
	}
}

func TestStatisticsNames(t *testing.T) {
	d := mustParse(t, `
domain: dom
descriptors:
- {key: plain, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: exact, value: v, value_to_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: route, value_to_metric: true, descriptors: [{key: method, rate_limit: {unit: minute, requests_per_unit: 1}}]}
- {key: wild, value: 'w*', rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: wildmetric, value: 'w*', value_to_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: shared, value: 's*', value_to_metric: true, share_threshold: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: det, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- {key: detexact, value: v, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}
- key: svc
  value: 'svc/*'
  share_threshold: true
  descriptors: [{key: endpoint, detailed_metric: true, rate_limit: {unit: minute, requests_per_unit: 1}}]
`)
	for _, c := range []struct {
		entries   []Entry
		want, key string
		perValue  bool
	}{
		{entriesOf("plain", "x"), "dom.plain", "dom.plain", false},
		{entriesOf("exact", "v"), "dom.exact_v", "dom.exact_v", false},
		{entriesOf("route", "r1", "method", "GET"), "dom.route_r1.method", "dom.route.method", true},
		{entriesOf("route", "", "method", "GET"), "dom.route.method", "dom.route.method", true},
		{entriesOf("wild", "w1"), "dom.wild_w*", "dom.wild_w*", false},
		{entriesOf("wildmetric", "w1"), "dom.wildmetric_w1", "dom.wildmetric_w*", true},
		{entriesOf("shared", "s1"), "dom.shared_s*", "dom.shared_s*", false},
		{entriesOf("det", "x"), "dom.det_x", "dom.det", true},
		{entriesOf("det", ""), "dom.det_", "dom.det", true},
		{entriesOf("detexact", "v"), "dom.detexact_v", "dom.detexact_v", false},
		{entriesOf("svc", "svc/1", "endpoint", "e"), "dom.svc_svc/*.endpoint_e", "dom.svc_svc/*.endpoint", true},
		{entriesOf("svc", "svc/1", "endpoint", ""), "dom.svc_svc/*.endpoint", "dom.svc_svc/*.endpoint", true},
	} {
		r := d.Match(c.entries)
		if r == nil {
			t.Fatalf("%q has no limit", c.entries)
		}
		if got := string(r.AppendStat(nil, c.entries)); got != c.want || r.Key() != c.key || r.PerValue() != c.perValue {
			t.Errorf("%q: stat %q, key %q, per value %t; want %q, %q, %t", c.entries, got, r.Key(), r.PerValue(), c.want, c.key, c.perValue)
		}
	}
}
