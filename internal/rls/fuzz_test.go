package rls_test

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// fuzzRows are limits of every kind but those that hold, which would keep the fuzzer waiting.
var fuzzRows = []limits.Limit{
	row("*", "*", 2), row("*", "", 3, common), row("pay", "", 0), row("pay", "charge", 5, per("user")),
	row("web", "", 1, shadow), row("web", "a*", 7, disabled), row("z\u00fcrich\"", "\\%", 1),
}

// fuzzServer has so few buckets and series that invented names reach the bounds.
func fuzzServer(t *testing.T, loaded bool) *server {
	t.Helper()
	f := newServer(t, setup{noLimits: !loaded, rls: rls.Config{MaxSeries: 3, ResponseHeaders: true, Files: rls.FileConfig{Metadata: true}}, buckets: buckets.Config{MaxBuckets: 3}}, fuzzRows...)
	f.serveFile(t, fuzzFile)
	return f
}

// fuzzFile is the domain files, with rules of every kind.
const fuzzFile = `
domain: files
descriptors:
- {key: k, detailed_metric: true, metadata: {a: {b: 1}}, rate_limit: {unit: minute, requests_per_unit: 2, name: k}}
- {key: p, value: 'a*b', share_threshold: true, metadata: {a: {c: 1}}, rate_limit: {unit: second, requests_per_unit: 1, algorithm: token_bucket, replaces: [{name: k}]}}
- {key: q, quota_mode: true, rate_limit: {unit: day, requests_per_unit: 0, algorithm: sliding_window}}
- {key: s, shadow_mode: true, value_to_metric: true, rate_limit: {per_seconds: 7, requests_per_unit: 4294967295}}
- {key: u, rate_limit: {unlimited: true}, descriptors: [{key: u, rate_limit: {unit: year, requests_per_unit: 0}}]}
`

// fileRequests are requests of the domain files.
func fileRequests(use func(*ratelimitv3.RateLimitRequest)) {
	for _, r := range []*ratelimitv3.RateLimitRequest{
		askIn("files", d("k", "v"), d("k", "v"), d("x", "")), askIn("files", d("p", "a1b"), d("p", "a2b"), d("k", "")),
		askIn("files", d("q", ""), d("s", "x"), d("u", "x"), d("u", "x", "u", "y"), d()), askHits(1e9, d("k", "v")),
	} {
		use(r)
	}
}

func conformanceRequests(use func(*ratelimitv3.RateLimitRequest)) {
	for _, c := range conformanceCases {
		for _, s := range c.steps {
			if s.request != nil && len(s.request.String()) < 2000 {
				use(s.request)
			}
		}
	}
}

// FuzzShouldRateLimit sends any bytes: the answer is a decision that the stock decoder reads, or
// the one error that such bytes may get.
func FuzzShouldRateLimit(f *testing.F) {
	conformanceRequests(func(r *ratelimitv3.RateLimitRequest) { f.Add(encode(r)) })
	fileRequests(func(r *ratelimitv3.RateLimitRequest) { f.Add(encode(r)) })
	for _, raw := range []string{"", "\xff", "\x0a\x04shop\x12\x00", "\x0a\x01\xff\x12\x0c\x0a\x0a\x0a\x07gateway\x12\xff"} {
		f.Add([]byte(raw))
	}
	f.Fuzz(func(t *testing.T, request []byte) {
		server := fuzzServer(t, true)
		for range 3 {
			got := askBytes(t, server, t.Context(), request)
			if got.code != codes.OK && (got.code != codes.InvalidArgument || got.message == "") {
				t.Errorf("request %x: error %v %q, want a decision or InvalidArgument with a reason", request, got.code, got.message)
			}
			if got.code == codes.OK && (got.response.OverallCode == ratelimitv3.RateLimitResponse_UNKNOWN || len(got.response.Statuses) == 0) {
				t.Errorf("request %x: answer %v decides nothing", request, got.response)
			}
		}
	})
}

// FuzzJSON sends any body: what is no request gets 400, all others what gRPC says.
func FuzzJSON(f *testing.F) {
	conformanceRequests(func(r *ratelimitv3.RateLimitRequest) {
		if body, err := protojson.Marshal(r); err == nil {
			f.Add(body, "", true)
		}
	})
	for _, body := range []string{"", "null", "{}", "[", `{"domain":"\ud800"}`, "{\"domain\":\"\xff\"}", `{"domain":"shop","descriptors":[{},null]}`, `{"hitsAddend":1e400}`, `{"x":{"y":[[[[]]]]}}`, payBody + "}"} {
		f.Add([]byte(body), "5", true)
		f.Add([]byte(body), "x", false)
	}
	f.Add([]byte(payBody), "18446744073709551616", false)
	f.Add([]byte(payBody), "99999999999999999999s", false)
	f.Add([]byte(payBody+strings.Repeat(" ", httpjson.MaxBody-len(payBody))), "", true)
	f.Add([]byte(payBody+strings.Repeat(" ", httpjson.MaxBody-len(payBody)+1)), "", true)
	f.Fuzz(func(t *testing.T, body []byte, maxWait string, loaded bool) {
		synctest.Test(t, func(t *testing.T) { checkJSON(t, body, maxWait, loaded) })
	})
}

func checkJSON(t *testing.T, body []byte, maxWait string, loaded bool) {
	t.Helper()
	w := fuzzServer(t, loaded).overHTTP(t.Context(), body, http.Header{"X-Max-Wait-Ms": {maxWait}})
	var request ratelimitv3.RateLimitRequest
	invalidWait := strings.Trim(maxWait, "0123456789") != ""
	switch err := protojson.Unmarshal(body, &request); {
	case invalidWait:
		wantProblem(t, w.Code, http.StatusBadRequest, body, maxWait)
	case len(body) > httpjson.MaxBody:
		wantProblem(t, w.Code, http.StatusRequestEntityTooLarge, body, maxWait)
	case err != nil:
		wantProblem(t, w.Code, http.StatusBadRequest, body, maxWait)
	default:
		want := askGRPC(t, fuzzServer(t, loaded), t.Context(), &request)
		if want.code != codes.OK {
			if got := codeOf[w.Code]; got != want.code {
				t.Errorf("body %q: status %d, gRPC says %v %s", body, w.Code, want.code, want.message)
			}
			break
		}
		var got ratelimitv3.RateLimitResponse
		if err := protojson.Unmarshal(w.Body.Bytes(), &got); err != nil {
			t.Fatalf("body %q: answer %d %s: %v", body, w.Code, w.Body, err)
		}
		if diff := cmp.Diff(want.response, &got, protocmp.Transform()); diff != "" {
			t.Errorf("body %q, -gRPC +json: %s", body, diff)
		}
		checkHTTP(t, w, &got)
		return
	}
	if detailOf(t, w) == "" {
		t.Errorf("body %q: problem without a detail: %d %s", body, w.Code, w.Body)
	}
}

func wantProblem(t *testing.T, got, want int, body []byte, maxWait string) {
	t.Helper()
	if got != want {
		t.Errorf("body %.500q (%d bytes), wait %q: status %d, want %d", body, len(body), maxWait, got, want)
	}
}
