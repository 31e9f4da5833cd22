//go:build e2e

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	ratelimitv3common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// crowd is the clients of many requests that are held at the same time.
type crowd struct {
	stack    *stack
	upstream *arrivals
	client   *http.Client
	direct   ratelimitv3.RateLimitServiceClient // ratelimitd without Envoy

	running sync.WaitGroup
	queued  map[string][]string           // names of requests in the order of ratelimitd's queue, by lane
	leave   map[string]context.CancelFunc // by name
	sent    int
	left    map[string]bool // names of those that hung up
}

func newCrowd(tb testing.TB, edit func(string) string) *crowd {
	tb.Helper()
	upstream := &arrivals{}
	s := newStack(tb, stackConfig{envoy: "envoy-hold.yaml", upstream: upstream, edit: edit})
	conn, err := grpc.NewClient("passthrough:///"+s.daemon.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	c := &crowd{
		stack: s, upstream: upstream, client: overHTTP2(tb), direct: ratelimitv3.NewRateLimitServiceClient(conn),
		queued: map[string][]string{}, leave: map[string]context.CancelFunc{}, left: map[string]bool{},
	}
	tb.Cleanup(c.hangUpAll)
	return c
}

func (c *crowd) hangUpAll() {
	for _, leave := range c.leave {
		leave()
	}
	c.running.Wait()
}

// send is one more request of a lane, with so many hits. Where it is not answered 200, the test
// fails unless its client has hung up.
func (c *crowd) send(tb testing.TB, lane, hits string) (name string) {
	tb.Helper()
	name = fmt.Sprintf("%s-%d", lane, len(c.queued[lane]))
	ctx, leave := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.stack.envoy.Listener+"/", http.NoBody)
	if err != nil {
		tb.Fatal(err)
	}
	req.Header = http.Header{"X-Endpoint": {lane}, "X-Request": {name}, "X-Hits": {hits}}
	c.queued[lane], c.leave[name] = append(c.queued[lane], name), leave
	c.sent++
	c.running.Go(func() {
		resp, err := c.client.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		if gone := ctx.Err() != nil; !gone && (err != nil || resp.StatusCode != http.StatusOK) {
			tb.Errorf("request %s: %v, %v, want 200", name, resp, err)
		}
	})
	return name
}

// hangUp makes the clients of these requests go away.
func (c *crowd) hangUp(names []string) {
	for _, name := range names {
		c.left[name] = true
		c.leave[name]()
	}
}

// awaitQueue returns how many requests are held once each that was sent is held, has reached the
// upstream, or has left. What is on its way is in none of these, so that nothing counts twice.
func (c *crowd) awaitQueue(tb testing.TB) (held int) {
	tb.Helper()
	testenv.Eventually(tb, 10*time.Second, "requests in the queue", func() error {
		arrived := int(c.stack.upstream.Requests())
		held = int(c.stack.daemon.metric(tb, "ratelimitd_waiters"))
		if got, want := arrived+held, c.sent-len(c.left); got != want {
			return fmt.Errorf("%d have arrived and %d are held, want %d in all", arrived, held, want)
		}
		return nil
	})
	return held
}

// ask sends a request for the gateway to ratelimitd itself: of so many hits, 0 = a check.
func (c *crowd) ask(tb testing.TB, hits uint64) ratelimitv3.RateLimitResponse_Code {
	tb.Helper()
	answer, err := c.direct.ShouldRateLimit(tb.Context(), &ratelimitv3.RateLimitRequest{
		Domain: "edge",
		Descriptors: []*ratelimitv3common.RateLimitDescriptor{{
			Entries:    []*ratelimitv3common.RateLimitDescriptor_Entry{{Key: "gateway", Value: "gw-main"}},
			HitsAddend: wrapperspb.UInt64(hits),
		}},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return answer.GetOverallCode()
}

// model is one bucket that was emptied at an instant between two, and in which every token that
// came since was taken at once.
type model struct {
	rate          int
	after, before time.Time
}

// most is how many tokens can have come by t, never more.
func (m model) most(t time.Time) int { return tokens(m.rate, t.Sub(m.after)) }

// least is how many have come by t for sure.
func (m model) least(t time.Time) int { return tokens(m.rate, t.Sub(m.before)) }

func tokens(rate int, d time.Duration) int { return int(max(d, 0)) * rate / int(time.Second) }

// Thousands of requests are held at once, each lane is granted in the order in which ratelimitd
// queued it, and the grants are those of the exact model from the first charge to the last one:
// the turns of those who hang up are taken by the next.
func TestThousandsAreHeldAtOnce(t *testing.T) {
	const held, rate, lanes = 2000, 200, 40
	c := newCrowd(t, nil)
	c.stack.setLimits(t, "INSERT INTO tps_limits (gateway, max_tps, burst, max_wait_ms) VALUES ('gw-main', $1, $1, 60000)", rate)
	c.ask(t, 0) // connects
	m := model{rate: rate, after: time.Now()}
	if code := c.ask(t, rate); code != ratelimitv3.RateLimitResponse_OK {
		t.Fatalf("the request that empties the bucket: %s", code)
	}
	m.before = time.Now()
	// One of each lane at a time: which of two in one lane comes first would else be chance.
	for most := 0; most < held; most = max(most, c.awaitQueue(t)) {
		for lane := range lanes {
			c.send(t, fmt.Sprintf("lane%d", lane), "1")
		}
	}
	t.Logf("%d requests were sent in %s until %d were held", c.sent, time.Since(m.before), held)
	c.hangUp(c.everyTenth(held / 2 / lanes))
	c.followModel(t, m)
	c.running.Wait()
	c.awaitQueue(t)
	c.assertOrder(t)
	c.assertNeverEarly(t, m)
	c.stack.awaitWaiters(t, 0)
	c.stack.neverFailedOpen(t)
}

// everyTenth names requests among the last of each lane.
func (c *crowd) everyTenth(last int) (names []string) {
	for _, lane := range c.queued {
		for i := len(lane) - last; i < len(lane); i += 10 {
			names = append(names, lane[i])
		}
	}
	return names
}

// followModel compares how many have been granted with the model, again and again until nobody
// waits.
func (c *crowd) followModel(tb testing.TB, m model) {
	tb.Helper()
	canceled := func() int { return int(c.stack.daemon.metric(tb, "ratelimitd_request_errors_total")) }
	testenv.Eventually(tb, 10*time.Second, "ratelimitd hears of those who left", func() error {
		if n := canceled(); n != len(c.left) {
			return fmt.Errorf("%d have left, want %d", n, len(c.left))
		}
		return nil
	})
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	samples, narrowest := 0, int(^uint(0)>>1)
	for ; ; <-ticker.C {
		from := time.Now()
		c.ask(tb, 0) // whose turn has come is granted before this is answered, however late the timer is
		waiting := int(c.stack.daemon.metric(tb, "ratelimitd_waiters"))
		least, most := m.least(from), m.most(time.Now())
		if waiting == 0 {
			break
		}
		if granted := c.sent - len(c.left) - waiting; granted < least || granted > most {
			tb.Errorf("%d were granted %s after the first charge, want %d to %d", granted, from.Sub(m.before), least, most)
		}
		samples, narrowest = samples+1, min(narrowest, most-least)
	}
	tb.Logf("grants were the model's at %d instants, at the narrowest within %d to it", samples, narrowest)
	if narrowest > m.rate/10 {
		tb.Errorf("at best grants were known to %d, want those of 0.1 s: this machine is too slow to tell", narrowest)
	}
}

// assertOrder compares what the upstream saw of each lane with the queue.
func (c *crowd) assertOrder(tb testing.TB) {
	tb.Helper()
	c.upstream.mu.Lock()
	defer c.upstream.mu.Unlock()
	seen := map[string][]string{}
	for _, name := range c.upstream.order {
		lane, _, _ := strings.Cut(name, "-")
		seen[lane] = append(seen[lane], name)
	}
	for lane, queued := range c.queued {
		want := slices.DeleteFunc(slices.Clone(queued), func(name string) bool { return c.left[name] })
		if !slices.Equal(seen[lane], want) {
			tb.Errorf("%s: the upstream saw %v, want the order of the queue %v", lane, seen[lane], want)
		}
	}
}

// assertNeverEarly fails where more requests have reached the upstream than there were tokens,
// and prints how late they were.
func (c *crowd) assertNeverEarly(tb testing.TB, m model) {
	tb.Helper()
	c.upstream.mu.Lock()
	defer c.upstream.mu.Unlock()
	var late []time.Duration
	for i, at := range slices.SortedFunc(maps.Values(c.upstream.at), time.Time.Compare) {
		if most := m.most(at); i+1 > most {
			tb.Errorf("%d requests had reached the upstream %s after the first charge, want at most %d", i+1, at.Sub(m.after), most)
		}
		late = append(late, at.Sub(m.before)-time.Duration(i+1)*time.Second/time.Duration(m.rate))
	}
	slices.Sort(late)
	tb.Logf("%d requests reached the upstream later than their tokens: p50 %s, p99 %s, longest %s",
		len(late), late[len(late)/2], late[len(late)*99/100], late[len(late)-1])
}

// A client that hangs up while it waits for many tokens, of which some are there, gives them to
// the next one in its lane at once.
func TestHangUpFreesTheTurnAtOnce(t *testing.T) {
	const lanes, burst = 50, 50
	c := newCrowd(t, hitsOfHeader(t))
	// Each endpoint has its own bucket, in which the second request waits for 20 s, and the third
	// one only for the second.
	c.stack.setLimits(t, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst, max_wait_ms) VALUES ('gw-main', 'lane*', 1, $1, 60000)", burst)
	var delays []time.Duration
	for i := range lanes {
		lane := fmt.Sprintf("lane%d", i)
		c.send(t, lane, "20")
		c.awaitQueue(t)
		first := c.send(t, lane, strconv.Itoa(burst))
		c.awaitQueue(t)
		next := c.send(t, lane, "1")
		if n := c.awaitQueue(t); n != 2 {
			t.Fatalf("%s: %d requests are held, want the one of %d hits and the one behind it", lane, n, burst)
		}
		began := time.Now()
		c.hangUp([]string{first})
		delays = append(delays, c.awaitArrival(t, next).Sub(began))
		c.awaitQueue(t)
	}
	c.running.Wait()
	slices.Sort(delays)
	t.Logf("hang-up of one to the next at the upstream, %d times: p50 %s, longest %s", lanes, delays[lanes/2], delays[lanes-1])
	c.stack.awaitWaiters(t, 0)
	c.stack.neverFailedOpen(t)
}

// hitsOfHeader makes the header x-hits the number of tokens that a request takes.
func hitsOfHeader(tb testing.TB) func(string) string {
	tb.Helper()
	return func(config string) string {
		const match = `match: { prefix: "/" }`
		const indent = "\n                "
		return replaceOnce(tb, config, match, match+indent+"typed_per_filter_config:"+
			indent+"  envoy.filters.http.ratelimit:"+
			indent+`    "@type": type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimitPerRoute`+
			indent+"    rate_limits: [{ hits_addend: { format: '%REQ(X-HITS)%' }, actions: ["+
			"{ generic_key: { descriptor_key: gateway, descriptor_value: gw-main } }, "+
			"{ request_headers: { header_name: x-endpoint, descriptor_key: endpoint } }] }]")
	}
}

// awaitArrival returns when a request has reached the upstream.
func (c *crowd) awaitArrival(tb testing.TB, name string) (at time.Time) {
	tb.Helper()
	testenv.Eventually(tb, 10*time.Second, "the next one at the upstream", func() error {
		c.upstream.mu.Lock()
		defer c.upstream.mu.Unlock()
		var there bool
		if at, there = c.upstream.at[name]; !there {
			return errors.New("it is not there")
		}
		return nil
	})
	return at
}
