package admin_test

import (
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/admin"
)

// fakeBuckets note what they were asked for.
type fakeBuckets struct {
	most  int
	reset *admin.BucketKey
	found bool
}

func (f *fakeBuckets) options() options {
	return options{
		fullest: func(most int) []admin.Bucket {
			f.most = most
			if !f.found {
				return nil
			}
			endpoint, soon := "pay", int64(7)
			return []admin.Bucket{{Domain: "d", Gateway: "shop", Endpoint: &endpoint, Limit: "shop/pay", Left: 2, Capacity: 5, Queued: 3, FullInMS: &soon}}
		},
		reset: func(k admin.BucketKey) bool {
			f.reset = &k
			return f.found
		},
	}
}

func TestListBuckets(t *testing.T) {
	f := &fakeBuckets{}
	s := start(t, f.options())
	if got := s.do(t, request{path: "/api/v1/buckets"}); got.code != http.StatusOK || got.body != `{"buckets":[]}`+"\n" || f.most != 100 {
		t.Errorf("none: %+v, %d asked for", got, f.most)
	}
	f.found = true
	want := `{"buckets":[{"domain":"d","gateway":"shop","endpoint":"pay","value":null,"limit":"shop/pay","left":2,"capacity":5,"queued":3,"full_in_ms":7}]}` + "\n"
	if got := s.do(t, request{path: "/api/v1/buckets?most=7"}); got.body != want || f.most != 7 {
		t.Errorf("one: %+v, %d asked for; want %s", got, f.most, want)
	}
	for query, detail := range map[string]string{
		"most=0": `most "0": is not within 1 to 10000`, "most=x": `most "x"`, "most=10001": `most "10001"`, "most=1&most=2": "query parameter most: comes 2 times", "least=1": `query parameter "least"`,
	} {
		s.get(t, "/api/v1/buckets?"+query).wantProblem(t, http.StatusUnprocessableEntity, detail)
	}
}

func TestResetBucket(t *testing.T) {
	f := &fakeBuckets{found: true}
	s := start(t, f.options())
	post := func(body string) reply {
		f.reset = nil
		return s.do(t, request{method: http.MethodPost, path: "/api/v1/buckets/reset", body: body})
	}
	endpoint := "pay"
	for body, want := range map[string]admin.BucketKey{
		`{"gateway":"shop"}`: {Gateway: "shop"},
		`{"gateway":""}`:     {}, // an empty gateway is a name
		`{"domain":"d","gateway":"shop","endpoint":"pay","per":"user","value":"ann","per_seconds":60}`: {Domain: "d", Gateway: "shop", Endpoint: &endpoint, Per: "user", Value: "ann", PerSeconds: 60},
		`{"domain":null,"gateway":"shop","endpoint":null,"per":null,"value":null,"per_seconds":null}`:  {Gateway: "shop"},
	} {
		if got := post(body); got.code != http.StatusNoContent || f.reset == nil || !cmp.Equal(*f.reset, want) {
			t.Errorf("%s: %+v, reset %+v; want 204, %+v", body, got, f.reset, want)
		}
	}
	for body, c := range map[string]struct {
		code   int
		detail string
	}{
		"":                                       {400, "body: is empty"},
		"{":                                      {400, "body: is not JSON"},
		"[]":                                     {422, "is no JSON object"},
		"{}":                                     {422, `gateway "": is missing`},
		`{"gateway":"shop","gatway":"x"}`:        {422, `field "gatway": is no part of the name of a bucket`},
		`{"gateway":7}`:                          {422, "gateway 7: is no text"},
		`{"gateway":"shop","per_seconds":0}`:     {422, "per_seconds 0: is not within 1 to 31622400"},
		`{"gateway":"shop","per_seconds":-1}`:    {422, "per_seconds -1: is not within 1 to 31622400"},
		`{"gateway":"shop","per_seconds":1.5}`:   {422, "per_seconds 1.5: is no whole number"},
		`{"gateway":"shop","gateway":"another"}`: {422, `gateway "another": comes twice`},
	} {
		if post(body).wantProblem(t, c.code, c.detail); f.reset != nil {
			t.Errorf("%s: reset %+v", body, f.reset)
		}
	}
	f.found = false
	if got := post(`{"gateway":"shop"}`); got.code != http.StatusNotFound {
		t.Errorf("a bucket that is not there: %+v, want 404", got)
	}
	if got := s.do(t, request{method: http.MethodPost, path: "/api/v1/buckets/reset", body: `{"gateway":"shop"}`, host: "evil.example"}); got.code != http.StatusForbidden {
		t.Errorf("from elsewhere: %+v, want 403", got)
	}
}
