package descriptors

import (
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
		if got := keyOf(t, d, c.a) == keyOf(t, d, c.b); got != c.want {
			t.Errorf("%q and %q are counted together: %t, want %t", c.a, c.b, got, c.want)
		}
	}
}

func keyOf(t *testing.T, d *Domain, entries []Entry) string {
	t.Helper()
	r := d.Match(entries)
	if r == nil {
		t.Fatalf("%q has no limit", entries)
	}
	return string(AppendKey(nil, r, r.Seconds, entries))
}

// TestCountersDoNotMeet has what envoyproxy/ratelimit counts together without being asked.
func TestCountersDoNotMeet(t *testing.T) {
	seen := map[string]int{}
	for i, c := range []struct {
		seconds int64
		entries []Entry
		shown   string
	}{
		{60, entriesOf("a_b", ""), "a_b=;w=60"},
		{60, entriesOf("a", "b"), "a=b;w=60"},
		{60, entriesOf("a", "", "b", ""), "a=,b=;w=60"},
		{1, entriesOf("a", "b"), "a=b;w=1"},
		{60, entriesOf("a", "b", "", ""), "a=b,=;w=60"},
		{60, nil, ";w=60"},
		{60, entriesOf("a", strings.Repeat("b", 200)), "a=" + strings.Repeat("b", 200) + ";w=60"},
		{60, entriesOf("a", strings.Repeat("b", 1<<20)), "sha256:"},
		{60, entriesOf("a", strings.Repeat("b", 1<<20+1)), "sha256:"},
		{31_536_000, entriesOf("a", "b"), "a=b;w=31536000"},
	} {
		key := string(AppendKey([]byte("before"), nil, c.seconds, c.entries)[len("before"):])
		if len(key) > maxKey {
			t.Errorf("counter %d has a key of %d bytes", i, len(key))
		}
		if again := string(AppendKey(AppendNumber(nil, 7), nil, c.seconds, c.entries)); again == key || ShowKey(again) != ShowKey(key) {
			t.Errorf("counter %d of a number has the key %q, shown as %q", i, again, ShowKey(again))
		}
		if first, twice := seen[key]; twice {
			t.Errorf("counters %d and %d have one key", first, i)
		}
		seen[key] = i
		if got := ShowKey(key); !strings.HasPrefix(got, c.shown) {
			t.Errorf("counter %d is shown as %q, want %q", i, got, c.shown)
		}
	}
	for _, key := range []string{"", "k", "k\x80", "h", "k\x3c\x04sho", "x", "n", "n\x80", "k\x00"} {
		if ShowKey(key) == "" {
			t.Errorf("%q is shown as nothing", key)
		}
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
