package rls_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// serveFile puts one file in force, beside the rows of f.
func (f *server) serveFile(tb testing.TB, body string) {
	tb.Helper()
	set := descriptors.Update(nil, map[string]descriptors.File{"test.yaml": {Body: []byte(body)}})
	if err := set.Err(); err != nil {
		tb.Fatal(err)
	}
	f.service.Serve(set)
}

func (f *server) hits(tb testing.TB) map[string]float64 {
	tb.Helper()
	return f.series(tb, "ratelimitd_descriptor_hits_total")
}

// Each hit is counted in one result.
func TestMetricsOfFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{rls: rls.Config{Files: rls.FileConfig{Required: true, NearRatio: 0.5}}}, row("gw", "", 0))
		f.serveFile(t, `
domain: shop
descriptors:
- {key: plain, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: quiet, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: bucket, value: 'b*', rate_limit: {unit: year, requests_per_unit: 4, algorithm: token_bucket}}
- {key: each, detailed_metric: true, rate_limit: {unit: year, requests_per_unit: 4}}
- {key: free, rate_limit: {unlimited: true}}
`)
		for _, r := range []*ratelimitv3.RateLimitRequest{
			askHits(3, d("plain", "x")), askHits(5, d("plain", "x")), askHits(4, d("plain", "x")), askHits(4, d("plain", "y")),
			askHits(3, d("quiet", "x")), ask(d("quiet", "x")),
			askHits(3, d("bucket", "b")), askHits(3, d("bucket", "b")),
			ask(d("each", "one")), ask(d("each", "two")), ask(d("free", "x")), ask(d("nobody", "x")),
			askIn("unknown", d("plain", "x")), askIn("rows", d("gateway", "gw")),
		} {
			askGRPC(t, f, t.Context(), r)
		}
		if diff := cmp.Diff(map[string]float64{
			"domain=shop,limit=plain,result=within_limit": 3 + 2 + 4, "domain=shop,limit=plain,result=near_limit": 3 + 2, "domain=shop,limit=plain,result=over_limit": 2,
			"domain=shop,limit=quiet,result=near_limit": 1, "domain=shop,limit=quiet,result=shadow": 3,
			"domain=shop,limit=bucket_b*,result=within_limit": 2, "domain=shop,limit=bucket_b*,result=near_limit": 1, "domain=shop,limit=bucket_b*,result=over_limit": 3,
			"domain=shop,limit=each_one,result=within_limit": 1, "domain=shop,limit=each_two,result=within_limit": 1,
		}, f.hits(t)); diff != "" {
			t.Errorf("hits, -want +got: %s", diff)
		}
		if diff := cmp.Diff(map[string]float64{
			"code=ok,domain=shop,endpoint=,gateway=": 8, "code=over_limit,domain=shop,endpoint=,gateway=": 2, "code=shadow,domain=shop,endpoint=,gateway=": 2,
			"code=ok,domain=other,endpoint=,gateway=": 1, "code=ok,domain=rows,endpoint=,gateway=gw": 1,
		}, f.series(t, "ratelimitd_decisions_total")); diff != "" {
			t.Errorf("decisions, -want +got: %s", diff)
		}
	})
}

// Hits that were charged to nobody are counted nowhere.
func TestMetricsOfAllOrNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{rls: rls.Config{Files: rls.FileConfig{NearRatio: 0.8}}})
		f.serveFile(t, `
domain: shop
all_or_nothing: true
descriptors:
- {key: a, rate_limit: {unit: year, requests_per_unit: 10}}
- {key: b, rate_limit: {unit: year, requests_per_unit: 1}}
- {key: c, shadow_mode: true, rate_limit: {unit: year, requests_per_unit: 0}}
`)
		for range 2 {
			askGRPC(t, f, t.Context(), ask(d("a", ""), d("b", ""), d("c", "")))
		}
		if diff := cmp.Diff(map[string]float64{
			"domain=shop,limit=a,result=within_limit": 1, "domain=shop,limit=b,result=near_limit": 1, "domain=shop,limit=b,result=over_limit": 1, "domain=shop,limit=c,result=shadow": 1,
		}, f.hits(t)); diff != "" {
			t.Errorf("hits, -want +got: %s", diff)
		}
	})
}

// Values of clients make no more series than the bound; SHADOW_MODE is seen.
func TestMetricsOfFilesAreBounded(t *testing.T) {
	f := newServer(t, setup{rls: rls.Config{MaxSeries: 5, Files: rls.FileConfig{Shadow: true}}})
	f.serveFile(t, "domain: shop\ndescriptors: [{key: user, detailed_metric: true, rate_limit: {unit: year, requests_per_unit: 0}}, {key: plain, rate_limit: {unit: year, requests_per_unit: 0}}]")
	for i := range 50 {
		askGRPC(t, f, t.Context(), ask(d("user", strconv.Itoa(i))))
	}
	got := f.hits(t)
	if len(got) != 6 || got["domain=shop,limit=other,result=over_limit"] != 45 {
		t.Errorf("hits %v", got)
	}
	if got := f.series(t, "ratelimitd_decisions_total")["code=shadow,domain=shop,endpoint=,gateway="]; got != 50 {
		t.Errorf("%v decisions let through in shadow mode, want 50", got)
	}
	askGRPC(t, f, t.Context(), ask(d("plain", "x")))
	if got := f.hits(t)["domain=shop,limit=plain,result=over_limit"]; got != 1 {
		t.Errorf("%v hits of a rule that invented values have nothing to do with, want 1", got)
	}
}

// Names that clients invent leave those of files their series, in each result.
func TestMetricsOfFilesBesideInventedNames(t *testing.T) {
	const maxSeries = 1
	f := newServer(t, setup{rls: rls.Config{MaxSeries: maxSeries}})
	f.serveFile(t, "domain: files\ndescriptors: [{key: a, rate_limit: {unit: year, requests_per_unit: 1}}, {key: b, rate_limit: {unit: year, requests_per_unit: 1}}]")
	for i := range 10 {
		askGRPC(t, f, t.Context(), askIn(strconv.Itoa(i), ep("pay", "charge")))
	}
	for range 3 {
		askGRPC(t, f, t.Context(), askIn("files", d("a", "x"), d("b", "x")))
	}
	if diff := cmp.Diff(map[string]float64{
		"domain=files,limit=a,result=near_limit": 1, "domain=files,limit=a,result=over_limit": 2, "domain=files,limit=b,result=near_limit": 1, "domain=files,limit=b,result=over_limit": 2,
	}, f.hits(t)); diff != "" {
		t.Errorf("hits, -want +got: %s", diff)
	}
	got := f.series(t, "ratelimitd_decisions_total")
	if got["code=ok,domain=files,endpoint=,gateway="] != 1 || got["code=over_limit,domain=files,endpoint=,gateway="] != 2 || len(got) != maxSeries+3 {
		t.Errorf("decisions %v, want 1 and 2 of the domain of the file beside %d and other", got, maxSeries)
	}
}

// What Explain says of a file is what a request at the same instant gets, and nothing is charged.
func TestExplainFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{})
		f.serveFile(t, `
domain: shop
descriptors:
- {key: user, rate_limit: {unit: minute, requests_per_unit: 3, name: per user}}
- {key: user, value: root, rate_limit: {unlimited: true}}
- {key: quiet, shadow_mode: true, rate_limit: {unit: minute, requests_per_unit: 0}}
`)
		const body = `{"domain":"shop","hitsAddend":2,"descriptors":[{"entries":[{"key":"user","value":"ann"}]},{"entries":[{"key":"user","value":"ann"}]},
			{"entries":[{"key":"user","value":"root"}]},{"entries":[{"key":"quiet","value":""}]},
			{"entries":[{"key":"user","value":"bob"}],"limit":{"requestsPerUnit":9,"unit":"HOUR"}}]}`
		const head = `"level":"descriptor","decided":true,"queued":0,`
		want := `{"overall_code":"OVER_LIMIT","descriptors":[
			{"gateway":null,"endpoint":null,"code":"OK","limits":[{"limit":"shop.user","value":"user=ann;w=60","state":"enforced",` + head + `"refuses":false,"before":3,"after":1,"capacity":3,"full_in_ms":0,"wait_ms":0}]},
			{"gateway":null,"endpoint":null,"code":"OVER_LIMIT","limits":[{"limit":"shop.user","value":"user=ann;w=60","state":"enforced",` + head + `"refuses":true,"before":1,"after":0,"capacity":3,"full_in_ms":60000,"wait_ms":60000}]},
			{"gateway":null,"endpoint":null,"code":"OK","limits":[]},
			{"gateway":null,"endpoint":null,"code":"OK","limits":[{"limit":"shop.quiet","value":"quiet=;w=60","state":"shadow",` + head + `"refuses":true,"before":0,"after":0,"capacity":0,"full_in_ms":0,"wait_ms":60000}]},
			{"gateway":null,"endpoint":null,"code":"OK","limits":[{"limit":"override","value":"user=bob;w=3600","state":"enforced",` + head + `"refuses":false,"before":9,"after":7,"capacity":9,"full_in_ms":0,"wait_ms":0}]}]}`
		for range 2 {
			assertJSON(t, f.explain(t, body), http.StatusOK, want)
		}
	})
}

// TestDomainsSwapUnderLoad replaces the domains while requests come: each is decided by the old or by
// the new ones.
func TestDomainsSwapUnderLoad(t *testing.T) {
	f := newServer(t, setup{rls: rls.Config{Files: rls.FileConfig{NearRatio: 1}}})
	file := func(n int) string {
		return fmt.Sprintf("domain: shop\ndescriptors: [{key: k, rate_limit: {unit: year, requests_per_unit: %d}}]%s", 1e9+n,
			strings.Repeat("\n# ", n%7))
	}
	f.serveFile(t, file(0))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; ; n++ {
			select {
			case <-stop:
				return
			default:
				f.serveFile(t, file(n))
			}
		}
	}()
	for range 2000 {
		a := askGRPC(t, f, t.Context(), ask(d("k", "v")))
		if s := a.response.GetStatuses(); a.response.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || s[0].GetCurrentLimit().GetRequestsPerUnit() < 1e9 {
			t.Fatalf("answer %v %s", a.response, a.message)
		}
	}
	close(stop)
	<-done
	if got := f.hits(t)["domain=shop,limit=k,result=within_limit"]; got != 2000 {
		t.Errorf("%v hits counted, want 2000", got)
	}
}
