package rls_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

const payBody = `{"domain":"shop","descriptors":[{"entries":[{"key":"gateway","value":"pay"}]}]}`

// TestJSONStatus sends bodies that are no request, and some that are.
func TestJSONStatus(t *testing.T) {
	for _, c := range []struct {
		name, body string
		maxWait    string
		want       int
		wantDetail string // of a problem
	}{
		{"a request", payBody, "", 200, ""},
		{"names of protobuf as well as of JSON", `{"domain":"shop","hits_addend":2,"hitsAddend":null,"descriptors":[{"hits_addend":"1","entries":[]}]}`, "", 400, "body is no RateLimitRequest"},
		{"names of protobuf", `{"domain":"shop","hits_addend":2,"descriptors":[{"hits_addend":"1","entries":[]}]}`, "", 200, ""},
		{"over its limit", `{"domain":"shop","hitsAddend":3,"descriptors":[{"entries":[{"key":"gateway","value":"pay"}]}]}`, "", 429, ""},
		{"no body", "", "", 400, "body is no RateLimitRequest"},
		{"null", "null", "", 400, "body is no RateLimitRequest"},
		{"an array", "[]", "", 400, "body is no RateLimitRequest"},
		{"cut off", payBody[:40], "", 400, "body is no RateLimitRequest"},
		{"two requests", payBody + payBody, "", 400, "body is no RateLimitRequest"},
		{"an unknown field", `{"domain":"shop","tenant":"x"}`, "", 400, "body is no RateLimitRequest"},
		{"another type", `{"domain":7}`, "", 400, "body is no RateLimitRequest"},
		{"invalid UTF-8", "{\"domain\":\"\xff\"}", "", 400, "body is no RateLimitRequest"},
		{"half a surrogate pair", `{"domain":"\ud800"}`, "", 400, "body is no RateLimitRequest"},
		{"a value that is long", `{"domain":` + strings.Repeat("7", 100_000) + "}", "", 400, "invalid value for string field domain: 7777"},
		{"a name that is long", `{"` + strings.Repeat("é", 50_000) + `":1}`, "", 400, `body is no RateLimitRequest: (line 1:2): unknown field "éé`},
		{"nothing in it", "{}", "", 400, "domain is empty"},
		{"no descriptors", `{"domain":"shop"}`, "", 400, "descriptors is empty"},
		{"a wait", payBody, "250", 200, ""},
		{"a wait of more than fits", payBody, "99999999999999999999", 200, ""},
		{"a wait that is no number", payBody, "soon", 400, "header X-Max-Wait-Ms"},
		{"a wait of more than fits that is no number", payBody, "99999999999999999999 ms", 400, "header X-Max-Wait-Ms"},
		{"a wait below 0", payBody, "-1", 400, "header X-Max-Wait-Ms"},
		{"a wait with a fraction", payBody, "0.5", 400, "header X-Max-Wait-Ms"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newServer(t, setup{}, row("pay", "", 2))
			header := http.Header{}
			if c.maxWait != "" {
				header.Set("X-Max-Wait-Ms", c.maxWait)
			}
			w := f.overHTTP(t.Context(), []byte(c.body), header)
			detail := ""
			if c.wantDetail != "" {
				detail = detailOf(t, w)
			}
			if w.Code != c.want || !strings.Contains(detail, c.wantDetail) || len(detail) > 300 {
				t.Errorf("body %.400q: status %d %.400s, want %d with %q", c.body, w.Code, w.Body, c.want, c.wantDetail)
			}
		})
	}
}

func TestJSONAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, row("pay", "", 1, burst(5)))
		for _, c := range []struct {
			request   *ratelimitv3.RateLimitRequest
			want      *ratelimitv3.RateLimitResponse
			code      int
			wantAfter []string
		}{
			{ask(hits(4, gw("pay"))), ok(left("pay", 1, 1, 4), meta("pay", "pay")), 200, nil},
			{ask(hits(4, gw("pay"))), over(refused("pay", 1, 3), retryAfter("3"), meta("pay", "pay")), 429, []string{"3"}},
			{ask(hits(6, gw("pay"))), over(refused("pay", 1, never), meta("pay", "pay")), 429, nil},
		} {
			body, err := protojson.Marshal(c.request)
			if err != nil {
				t.Fatal(err)
			}
			w := f.overHTTP(t.Context(), body, nil)
			var got ratelimitv3.RateLimitResponse
			if err := protojson.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Errorf("request %s: answer %s: %v", body, w.Body, err)
			}
			if diff := cmp.Diff(c.want, &got, protocmp.Transform()); diff != "" {
				t.Errorf("request %s, -want +got: %s", body, diff)
			}
			if diff := cmp.Diff(c.wantAfter, w.Header()["Retry-After"]); diff != "" || w.Code != c.code {
				t.Errorf("request %s: status %d, want %d; retry-after -want +got: %s", body, w.Code, c.code, diff)
			}
		}
	})
}

// TestJSONHolds asks for a turn that comes after 100 ms, with bounds of the caller.
func TestJSONHolds(t *testing.T) {
	for _, c := range []struct {
		maxWait  string
		answered time.Duration
		want     *ratelimitv3.RateLimitResponse
	}{
		{"", 100 * ms, ok(turn(100 * ms)...)},
		{"100", 100 * ms, ok(turn(100 * ms)...)},
		{"99", 0, over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))},
		{"0", 0, over(refused("pay", 10, 1), retryAfter("1"), meta("pay", "pay"))},
		{"4294967296", 100 * ms, ok(turn(100 * ms)...)},
		{"18446744073709551616", 100 * ms, ok(turn(100 * ms)...)},
	} {
		t.Run("max wait "+c.maxWait, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newServer(t, setup{}, tenth)
				start := time.Now()
				f.overHTTP(t.Context(), []byte(payBody), nil)
				w := f.overHTTP(t.Context(), []byte(payBody), http.Header{"X-Max-Wait-Ms": {c.maxWait}})
				var got ratelimitv3.RateLimitResponse
				if err := protojson.Unmarshal(w.Body.Bytes(), &got); err != nil {
					t.Fatalf("answer %s: %v", w.Body, err)
				}
				if diff := cmp.Diff(c.want, &got, protocmp.Transform()); diff != "" {
					t.Errorf("X-Max-Wait-Ms %q, -want +got: %s", c.maxWait, diff)
				}
				checkHTTP(t, w, c.want)
				if took := time.Since(start); took != c.answered {
					t.Errorf("X-Max-Wait-Ms %q: answered after %v, want %v", c.maxWait, took, c.answered)
				}
			})
		})
	}
}

func TestJSONMethod(t *testing.T) {
	f := newServer(t, setup{})
	for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete, http.MethodHead, http.MethodOptions} {
		w := httptest.NewRecorder()
		f.service.JSON().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/json", strings.NewReader(payBody)))
		if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
			t.Errorf("%s: status %d, Allow %q, want 405 and POST", method, w.Code, w.Header().Get("Allow"))
		}
		detailOf(t, w)
	}
}

func TestJSONWithoutLimits(t *testing.T) {
	w := newServer(t, setup{noLimits: true}).overHTTP(t.Context(), []byte(payBody), nil)
	if detail := detailOf(t, w); w.Code != http.StatusServiceUnavailable || !strings.Contains(detail, "no limits have been loaded yet") {
		t.Errorf("status %d %q, want 503 because no limits have been loaded", w.Code, detail)
	}
}

// TestJSONBodyBound sends bodies of the largest size and of one byte more, with and without a
// length, over a real connection.
func TestJSONBodyBound(t *testing.T) {
	f := newServer(t, setup{})
	s := httptest.NewServer(f.service.JSON())
	defer s.Close()
	const mib = 1 << 20
	for _, c := range []struct{ size, want int }{{mib, 200}, {mib + 1, 413}, {3 * mib, 413}} {
		body := payBody + strings.Repeat(" ", c.size-len(payBody))
		for _, reader := range []io.Reader{strings.NewReader(body), io.MultiReader(strings.NewReader(body))} {
			request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, reader)
			if err != nil {
				t.Fatal(err)
			}
			response, err := s.Client().Do(request)
			if err != nil {
				t.Fatalf("body of %d bytes: %v", c.size, err)
			}
			got, err := io.ReadAll(response.Body)
			response.Body.Close()
			if err != nil || response.StatusCode != c.want {
				t.Errorf("body of %d bytes: status %d %s (%v), want %d", c.size, response.StatusCode, got, err, c.want)
			}
		}
	}
}

// TestJSONBodyThatDoesNotCome sends one byte of a body: the connection is not kept for it.
func TestJSONBodyThatDoesNotCome(t *testing.T) {
	f := newServer(t, setup{rls: rls.Config{BodyTimeout: 50 * time.Millisecond}})
	s := httptest.NewServer(f.service.JSON())
	defer s.Close()
	body, write := io.Pipe()
	defer func() { _ = write.Close() }() // it never fails
	go func() { _, _ = write.Write([]byte("{")) }()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	response, err := s.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(response.Body)
	response.Body.Close()
	if err != nil || response.StatusCode != http.StatusRequestTimeout || !strings.Contains(string(got), "has not arrived within 50ms") {
		t.Errorf("status %d %s (%v), want 408", response.StatusCode, got, err)
	}
}

// TestJSONClientLeaves holds a request whose client then closes the connection: the place in the
// queue is free, and the next takes the turn.
func TestJSONClientLeaves(t *testing.T) {
	f := newServer(t, setup{}, row("pay", "", 1, maxWait(limits.MaxMaxWaitMS), burst(1800)))
	askGRPC(t, f, t.Context(), ask(hits(1800, gw("pay"))))
	arrived, status := make(chan struct{}), make(chan int)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		close(arrived)
		w := httptest.NewRecorder()
		f.service.JSON().ServeHTTP(w, r)
		status <- w.Code
	}))
	defer s.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	body := strings.Replace(payBody, `"descriptors"`, `"hitsAddend":1700,"descriptors"`, 1) // due in 1,700 s
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		response, err := s.Client().Do(request)
		if err == nil {
			response.Body.Close()
		}
		done <- err
	}()
	<-arrived
	cancel()
	if err := <-done; err == nil {
		t.Error("the client that went away got an answer")
	}
	if got := <-status; got != 499 {
		t.Errorf("the request of a client that went away ended with status %d, want 499", got)
	}
	if waiters := f.engine.Stats().Waiters; waiters != 0 {
		t.Errorf("%d waiters are left, want 0", waiters)
	}
	if got := f.series(t, "ratelimitd_request_errors_total")["code=Canceled"]; got != 1 {
		t.Errorf("%v errors of callers that went away, want 1", got)
	}
}
