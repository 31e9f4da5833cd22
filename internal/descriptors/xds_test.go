package descriptors

import (
	"fmt"
	"math"
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

func resourceOf(tb testing.TB, json string) *ratelimitv3.RateLimitConfig {
	tb.Helper()
	c := &ratelimitv3.RateLimitConfig{}
	if err := protojson.Unmarshal([]byte(json), c); err != nil {
		tb.Fatal(err)
	}
	return c
}

// TestResourceIsTheSameAsItsFile compiles one domain from both.
func TestResourceIsTheSameAsItsFile(t *testing.T) {
	resource, err := FromResource(resourceOf(t, `{"name": "n", "domain": "d", "descriptors": [
		{"key": "a", "value": "v*", "shadowMode": true, "quotaMode": true, "detailedMetric": true,
		 "rateLimit": {"unit": "WEEK", "requestsPerUnit": 5, "name": "n", "replaces": [{"name": "m"}]},
		 "metadata": {"a": [1, null, true], "b": {"c": "d"}},
		 "descriptors": [{"key": "b", "rateLimit": {"unlimited": true, "name": "m"}}]},
		{"key": "zero", "rateLimit": {"unit": "SECOND"}}]}`))
	if err != nil {
		t.Fatal(err)
	}
	file := mustParse(t, `
domain: d
descriptors:
- key: a
  value: v*
  shadow_mode: true
  quota_mode: true
  detailed_metric: true
  rate_limit: {unit: week, requests_per_unit: 5, name: n, replaces: [{name: m}]}
  metadata: {a: [1, null, true], b: {c: d}}
  descriptors: [{key: b, rate_limit: {unlimited: true, name: m}}]
- {key: zero, rate_limit: {unit: second, requests_per_unit: 0}}
`)
	if diff := cmp.Diff(dump(file), dump(resource)); diff != "" {
		t.Errorf("file and resource differ (-file +resource):\n%s", diff)
	}
}

func dump(d *Domain) (lines []string) {
	d.Walk(func(n Node) {
		line := fmt.Sprintf("%s %d %s %s", d.Name(), n.Depth, n.Key, n.Value)
		if r := n.Rule; r != nil {
			line += fmt.Sprint(r.ID, r.RequestsPerUnit, r.Seconds, r.Unit, r.Algorithm, r.Name, r.Unlimited, r.Shadow, r.Quota, r.PerValue(), r.Metadata, r.name, r.replaces)
		}
		lines = append(lines, line)
	})
	return lines
}

func TestResourcesThatAreRefused(t *testing.T) {
	deep := strings.Repeat(`{"key": "k", "descriptors": [`, MaxDepth) + `{"key": "k"}` + strings.Repeat(`]}`, MaxDepth)
	for _, c := range []struct{ name, json, want string }{
		{"no domain", `{"name": "n"}`, "n: config file cannot have empty domain"},
		{"nothing", `{}`, ": config file cannot have empty domain"},
		{
			"several faults", `{"name": "n", "domain": "d", "descriptors": [{"key": "a"}, {"key": "a"}, {"key": "b", "descriptors": [{}, {"key": "c", "rateLimit": {"replaces": [{}]}}]}]}`,
			"n: descriptors[1]: duplicate descriptor composite key 'd.a'\n" +
				"n: descriptors[2].descriptors[0]: descriptor has empty key\n" +
				"n: descriptors[2].descriptors[1]: should not have an empty replaces entry\n" +
				"n: descriptors[2].descriptors[1]: invalid rate limit unit 'UNKNOWN': it is none of second, minute, hour, day, week, month, year",
		},
		{"unlimited with a unit", `{"domain": "d", "descriptors": [{"key": "a", "rateLimit": {"unlimited": true, "unit": "DAY"}}]}`, "d: descriptors[0]: should not specify rate limit unit when unlimited"},
		{"a unit of the future", `{"domain": "d", "descriptors": [{"key": "a", "rateLimit": {"unit": 99}}]}`, "d: descriptors[0]: invalid rate limit unit '99': it is none of second, minute, hour, day, week, month, year"},
		{"too deep", `{"domain": "d", "descriptors": [` + deep + `]}`, "d: descriptors are nested deeper than 64 levels"},
		{
			"too many replaces", `{"domain": "d", "descriptors": [{"key": "a", "rateLimit": {"unit": "DAY", "replaces": [{"name": "x"}` + strings.Repeat(`, {"name": "x"}`, MaxReplaces) + `]}}]}`,
			"d: replaces has 1001 names, more than 1000",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if d, err := FromResource(resourceOf(t, c.json)); d != nil || err == nil || err.Error() != c.want {
				t.Errorf("domain %v, error\n%v\nwant\n%s", d, err, c.want)
			}
		})
	}
}

func TestMetadataThatJSONHasNot(t *testing.T) {
	c := resourceOf(t, `{"domain": "d", "descriptors": [{"key": "a", "rateLimit": {"unit": "DAY"}, "metadata": {"a": 1}}]}`)
	c.GetDescriptors()[0].GetMetadata().GetFields()["a"] = structpb.NewNumberValue(math.Inf(1))
	d, err := FromResource(c)
	if err != nil || !cmp.Equal(d.Rules()[0].Metadata, map[string]any{"a": "Infinity"}) {
		t.Errorf("metadata %v, error %v; want the text Infinity", d.Rules()[0].Metadata, err)
	}
}

func TestSetFromResources(t *testing.T) {
	good := []*ratelimitv3.RateLimitConfig{
		resourceOf(t, `{"name": "z", "domain": "A", "descriptors": [{"key": "k", "rateLimit": {"unit": "DAY", "requestsPerUnit": 1}}]}`),
		resourceOf(t, `{"name": "y", "domain": "B"}`),
	}
	s, err := SetFromResources(good)
	if err != nil || shape(s) != "y has B\nz has A\n" || numberOf(s, "A") != 1 || numberOf(s, "B") != -1 {
		t.Errorf("error %v, set\n%s", err, shape(s))
	}
	for _, c := range []struct{ json, want string }{
		{`{"name": "x", "domain": "A"}`, "z: duplicate domain 'A' in config file: x has it"},
		{`{"name": "x", "domain": ""}`, "x: config file cannot have empty domain"},
	} {
		if s, err := SetFromResources(append(good[:2:2], resourceOf(t, c.json))); s != nil || err == nil || err.Error() != c.want {
			t.Errorf("with %s: set %v, error %v; want %s", c.json, s, err, c.want)
		}
	}
	if s, err := SetFromResources(nil); err != nil || s.Len() != 0 {
		t.Errorf("no resources: error %v, %d domains", err, s.Len())
	}
}
