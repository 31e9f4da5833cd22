package rls_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// conformance is one case of the table for DESIGN.md §5: rows, and a story of requests with the
// answers that they must get. It is told over gRPC and over /json, in time that stands still
// but for the steps.
type conformance struct {
	name     string // number of the rule in §5, the rule
	setup    setup
	rows     []limits.Limit
	steps    []step
	onlyGRPC bool // JSON cannot say these requests
}

// step happens at an instant since the beginning.
type step struct {
	at time.Duration
	do func(*teller, step)

	request  *ratelimitv3.RateLimitRequest
	raw      []byte        // instead of request: what is no message
	deadline time.Duration // of the caller, after at; 0 = none
	leaves   time.Duration // the caller goes away so long after at; 0 = it stays

	want       *ratelimitv3.RateLimitResponse
	wantCode   codes.Code
	wantInText string
	answered   time.Duration // since the beginning; what is not held is answered at once
}

// at asks, and wants an answer at once.
func at(t time.Duration, r *ratelimitv3.RateLimitRequest, want *ratelimitv3.RateLimitResponse) step {
	return step{at: t, do: (*teller).ask, request: r, want: want, answered: t}
}

// held asks, and wants the answer at a later instant.
func held(t, answered time.Duration, r *ratelimitv3.RateLimitRequest, want *ratelimitv3.RateLimitResponse) step {
	return step{at: t, do: (*teller).ask, request: r, want: want, answered: answered}
}

// within asks with a deadline of the caller.
func within(deadline time.Duration, s step) step {
	s.deadline = deadline
	return s
}

// gone asks at t, and goes away at an instant.
func gone(t, leaves time.Duration, r *ratelimitv3.RateLimitRequest) step {
	return step{at: t, do: (*teller).ask, request: r, leaves: leaves - t, wantCode: codes.Canceled, answered: leaves}
}

// fails asks, and wants an error whose message holds text.
func fails(t time.Duration, r *ratelimitv3.RateLimitRequest, code codes.Code, text string) step {
	return step{at: t, do: (*teller).ask, request: r, wantCode: code, wantInText: text, answered: t}
}

// failsRaw sends bytes instead of a message.
func failsRaw(t time.Duration, raw string, code codes.Code, text string) step {
	return step{at: t, do: (*teller).ask, raw: []byte(raw), wantCode: code, wantInText: text, answered: t}
}

// spend asks n times, and wants to be admitted each time.
func spend(t time.Duration, n int, r *ratelimitv3.RateLimitRequest) step {
	return step{at: t, request: r, do: func(c *teller, s step) {
		for range n {
			got := c.surface.ask(c.t, c.server, c.t.Context(), s.request)
			if got.response.GetOverallCode() != ratelimitv3.RateLimitResponse_OK {
				c.t.Errorf("at %v: request %v got %v %s, want OK", s.at, s.request, got.response, got.message)
			}
		}
	}}
}

// change puts other rows in force.
func change(t time.Duration, r ...limits.Limit) step {
	return step{at: t, do: func(c *teller, _ step) { c.server.load(c.t, r...) }}
}

// drain is the order to stop: nobody is held beyond deadline.
func drain(t, deadline time.Duration) step {
	return step{at: t, do: func(c *teller, _ step) { c.server.engine.Drain(c.server.clock.NowNS() + int64(deadline-t)) }}
}

// teller tells one case over one surface.
type teller struct {
	t       *testing.T
	surface surface
	server  *server
	start   time.Time
	asked   sync.WaitGroup
}

func (c *conformance) tell(t *testing.T, s surface) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { c.tellTo(t, newServer(t, c.setup, c.rows...), s) })
}

// tellTo tells the story to f, within synctest.
func (c *conformance) tellTo(t *testing.T, f *server, s surface) {
	t.Helper()
	told := &teller{t: t, surface: s, server: f, start: time.Now()}
	for _, step := range c.steps {
		<-time.After(step.at - time.Since(told.start))
		step.do(told, step)
		synctest.Wait()
	}
	told.asked.Wait()
}

// ask asks on a goroutine of its own, since the request may be held.
func (c *teller) ask(s step) {
	ctx, cancel := context.WithCancel(c.t.Context())
	if s.deadline > 0 {
		ctx, cancel = context.WithTimeout(c.t.Context(), s.deadline)
	}
	if s.leaves > 0 {
		time.AfterFunc(s.leaves, cancel)
	}
	c.asked.Go(func() {
		defer cancel()
		var got answer
		if s.raw != nil {
			got = askBytes(c.t, c.server, ctx, s.raw)
		} else {
			got = c.surface.ask(c.t, c.server, ctx, s.request)
		}
		c.compare(s, got, time.Since(c.start))
	})
}

func (c *teller) compare(s step, got answer, answered time.Duration) {
	if diff := cmp.Diff(s.want, got.response, protocmp.Transform()); diff != "" {
		c.t.Errorf("at %v: request %v %x\ngot  %v (%v %s)\nwant %v (%v)\n-want +got: %s", s.at, s.request, s.raw, got.response, got.code, got.message, s.want, s.wantCode, diff)
	}
	if got.code != s.wantCode || !strings.Contains(got.message, s.wantInText) {
		c.t.Errorf("at %v: request %v %x: error %v %q, want %v with %q", s.at, s.request, s.raw, got.code, got.message, s.wantCode, s.wantInText)
	}
	if answered != s.answered {
		c.t.Errorf("at %v: request %v was answered at %v, want %v", s.at, s.request, answered, s.answered)
	}
}

// conformanceCases are all, by the number of the rule.
var conformanceCases = slices.Concat(
	levelCases, allOrNothingCases, bucketCases, hitCases, overrideCases, flagCases,
	holdCases, changeCases, answerCases, errorCases, boundCases, windowCases,
)

// TestConformance tells every case over both surfaces.
func TestConformance(t *testing.T) {
	for _, c := range conformanceCases {
		t.Run(c.name, func(t *testing.T) {
			for _, s := range surfaces {
				if s.name == "json" && c.onlyGRPC {
					continue
				}
				t.Run(s.name, func(t *testing.T) { c.tell(t, s) })
			}
		})
	}
}

// TestConformanceTable holds the table to what it is for: every point of §5 has cases, no two
// are alike, and only what JSON cannot say is told over gRPC alone.
func TestConformanceTable(t *testing.T) {
	names := map[string]bool{}
	points := map[string]int{}
	for _, c := range conformanceCases {
		point, _, _ := strings.Cut(c.name, " ")
		points[point]++
		if names[c.name] {
			t.Errorf("case %q comes twice", c.name)
		}
		names[c.name] = true
		if c.onlyGRPC == sayable(&c) {
			t.Errorf("case %q: onlyGRPC is %v, but JSON can say its requests: %v", c.name, c.onlyGRPC, sayable(&c))
		}
	}
	for point := 1; point <= 10; point++ {
		if points[fmt.Sprintf("5.%d", point)] < 2 {
			t.Errorf("point 5.%d of DESIGN.md has %d cases, want 2 or more: %v", point, points[fmt.Sprintf("5.%d", point)], points)
		}
	}
	if len(names) < 100 || len(points) != 10 {
		t.Errorf("%d cases of %d points, want 100 or more of 10: %v", len(names), len(points), points)
	}
}

func sayable(c *conformance) bool {
	for _, s := range c.steps {
		if _, err := proto.Marshal(s.request); err != nil || s.raw != nil {
			return false
		}
	}
	return true
}
