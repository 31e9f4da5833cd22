//go:build e2e

package recorder

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	ratelimitv3common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

const (
	connections = 2
	callers     = 32 // goroutines; a decision that none of them is free for waits, and that counts
)

// caller asks for decisions of the 200 names that access logs have.
type caller struct {
	conns    []*grpc.ClientConn
	requests [][]byte
}

func newCaller(b *testing.B, addr string) *caller {
	b.Helper()
	c := &caller{}
	for range connections {
		conn, err := dial(addr)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { _ = conn.Close() })
		c.conns = append(c.conns, conn)
	}
	for i := range 200 {
		request, err := proto.Marshal(&ratelimitv3.RateLimitRequest{Domain: "edge", Descriptors: []*ratelimitv3common.RateLimitDescriptor{{
			Entries: []*ratelimitv3common.RateLimitDescriptor_Entry{
				{Key: "gateway", Value: fmt.Sprint("gw-", i%20)}, {Key: "endpoint", Value: fmt.Sprint("/v1/orders/", i/20)},
			},
		}}})
		if err != nil {
			b.Fatal(err)
		}
		c.requests = append(c.requests, request)
	}
	if _, err := c.round(b.Context(), 1000, time.Second); err != nil { // connects, and makes the buckets
		b.Fatal(err)
	}
	return c
}

// asked is a decision to ask for.
type asked struct {
	number int
	due    time.Time
}

// round asks for so many decisions per second, whatever becomes of those before, and returns how long
// after its time each was there.
func (c *caller) round(ctx context.Context, perSecond int, length time.Duration) ([]time.Duration, error) {
	all := make([]time.Duration, int(length.Seconds()*float64(perSecond)))
	queue := make(chan asked, len(all))
	workers, ctx := errgroup.WithContext(ctx)
	for range callers {
		workers.Go(func() error {
			var answer []byte
			for a := range queue {
				if err := c.ask(ctx, a.number, &answer); err != nil {
					return fmt.Errorf("decision %d: %w", a.number, err)
				}
				all[a.number] = time.Since(a.due)
			}
			return nil
		})
	}
	n := 0
	every(time.Second/time.Duration(perSecond), func(due time.Time) bool {
		queue <- asked{n, due}
		n++
		return n < len(all)
	})
	close(queue)
	return all, workers.Wait()
}

// ask fails where the answer is not OK.
func (c *caller) ask(ctx context.Context, number int, answer *[]byte) error {
	const method = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	if err := c.conns[number%connections].Invoke(ctx, method, c.requests[number%len(c.requests)], answer); err != nil {
		return err
	}
	if ok := []byte{1 << 3, byte(ratelimitv3.RateLimitResponse_OK)}; !bytes.HasPrefix(*answer, ok) { // overall_code is the first field
		return fmt.Errorf("the answer is not OK: %x", *answer)
	}
	return nil
}
