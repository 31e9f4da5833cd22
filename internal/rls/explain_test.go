package rls_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

func (f *server) explain(tb testing.TB, body string) *httptest.ResponseRecorder {
	tb.Helper()
	w := httptest.NewRecorder()
	f.service.Explain().ServeHTTP(w, httptest.NewRequestWithContext(tb.Context(), http.MethodPost, "/api/v1/explain", bytes.NewReader([]byte(body))))
	return w
}

// shownRow has no row but that there is one.
var shownRow = cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == `["row"]` }, cmp.Comparer(func(a, b any) bool { return (a == nil) == (b == nil) }))

// What the answer says is what a request at the same instant gets, and the request before it finds
// the buckets as if nobody had asked.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, row("pay", "", 10, burst(5), maxWait(400)), row("pay", "charge", 3), row("pay", "charge", 100, window(60), by(limits.SlidingWindow)),
			row("pay", "", 2, per("user"), shadow), row("pay", "*", 7, per("user"), disabled))
		const body = `{"domain":"shop","hitsAddend":2,"descriptors":[
			{"entries":[{"key":"gateway","value":"pay"},{"key":"endpoint","value":"charge"},{"key":"user","value":"\u00e4da"}]},
			{"entries":[{"key":"tenant","value":"x"}]},{"entries":[{"key":"gateway","value":"other"}]},
			{"entries":[{"key":"gateway","value":"pay"}],"limit":{"requestsPerUnit":9,"unit":"MINUTE"}}]}`
		want := `{"overall_code":"OK","descriptors":[
			{"gateway":"pay","endpoint":"charge","code":"OK","limits":[
				{"limit":"pay/charge","level":"endpoint","row":{},"state":"enforced","decided":true,"refuses":false,"before":3,"after":1,"capacity":3,"queued":0,"full_in_ms":0,"wait_ms":0},
				{"limit":"pay/charge;w=60","level":"endpoint","row":{},"state":"enforced","decided":false,"refuses":false,"before":100,"after":98,"capacity":100,"queued":0,"full_in_ms":0,"wait_ms":0},
				{"limit":"pay{user}","level":"gateway","value":"äda","row":{},"state":"shadow","decided":false,"refuses":false,"before":2,"after":0,"capacity":2,"queued":0,"full_in_ms":0,"wait_ms":0},
				{"limit":"pay","level":"gateway","row":{},"state":"enforced","decided":false,"refuses":false,"before":5,"after":3,"capacity":5,"queued":0,"full_in_ms":0,"wait_ms":0},
				{"limit":"pay/*{user}","level":"endpoint","value":"äda","row":{},"state":"disabled","decided":false,"refuses":false,"before":0,"after":0,"capacity":0,"queued":0,"full_in_ms":0,"wait_ms":0}]},
			{"gateway":null,"endpoint":null,"code":"OK","limits":[]},
			{"gateway":"other","endpoint":null,"code":"OK","limits":[
				{"limit":"default","level":"gateway","state":"enforced","decided":true,"refuses":false,"before":10,"after":8,"capacity":10,"queued":0,"full_in_ms":0,"wait_ms":0}]},
			{"gateway":"pay","endpoint":null,"code":"OK","limits":[
				{"limit":"override","level":"gateway","state":"enforced","decided":true,"refuses":false,"before":9,"after":7,"capacity":9,"queued":0,"full_in_ms":0,"wait_ms":0}]}]}`
		for range 2 { // the second finds what the first has left: everything
			assertJSON(t, f.explain(t, body), http.StatusOK, want)
		}
		if got := f.overHTTP(t.Context(), []byte(body), nil); got.Code != http.StatusOK {
			t.Fatalf("the request itself: %d %s", got.Code, got.Body)
		}
		held := strings.Replace(f.explain(t, `{"domain":"shop","hitsAddend":4,"descriptors":[{"entries":[{"key":"gateway","value":"pay"}]}]}`).Body.String(), "\n", "", 1)
		if !strings.Contains(held, `"overall_code":"OVER_LIMIT","would_wait_ms":100,`) || !strings.Contains(held, `"refuses":true,"before":3,"after":3,"capacity":5,"queued":0,"full_in_ms":200,"wait_ms":100`) {
			t.Errorf("a request that would be held: %s", held)
		}
		never := f.explain(t, `{"domain":"shop","hitsAddend":400,"descriptors":[{"entries":[{"key":"gateway","value":"pay"}]}]}`).Body.String()
		if !strings.Contains(never, `"wait_ms":null`) || strings.Contains(never, "would_wait_ms") {
			t.Errorf("a request that can never pass: %s", never)
		}
	})
}

func assertJSON(t *testing.T, got *httptest.ResponseRecorder, code int, want string) {
	t.Helper()
	var a, b any
	if err := json.Unmarshal([]byte(want), &a); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Body.Bytes(), &b); err != nil || got.Code != code {
		t.Fatalf("answered %d %s: %v", got.Code, got.Body, err)
	}
	if diff := cmp.Diff(a, b, shownRow); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestExplainRefuses(t *testing.T) {
	f := newServer(t, setup{})
	for body, want := range map[string]string{
		"": "body", "{}": "domain is empty", `{"domain":"shop"}`: "descriptors is empty", `{"domain":7}`: "no RateLimitRequest",
		`{"domain":"shop","descriptors":[{"limit":{"requestsPerUnit":1}}]}`: "limit",
	} {
		if got := f.explain(t, body); got.Code != http.StatusBadRequest || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s is answered with %d %s, want 400 and %q", body, got.Code, got.Body, want)
		}
	}
	if got := newServer(t, setup{noLimits: true}).explain(t, payBody); got.Code != http.StatusServiceUnavailable {
		t.Errorf("without limits: %d %s, want 503", got.Code, got.Body)
	}
}
