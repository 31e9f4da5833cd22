package peers_test

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"sync"
	"testing"
	"time"

	golimiter "github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	"golang.org/x/time/rate"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

const unbounded = 1_000_000_000 // per second, and at once: nothing is refused

var errRefused = errors.New("refused")

// peer is a limiter. open makes one for so many keys; worker makes what one goroutine asks with.
type peer struct {
	name string
	open func(b *testing.B, keys int) (worker func() ask)
}

// ask takes one hit of a key, which changes after it has returned.
type ask func(key string) error

// peers begin with the one that the others are compared with.
var peers = []peer{
	{"x-time-rate", openRate},
	{"ratelimitd", openRatelimitd},
	{"throttled", openThrottled},
	{"go-limiter", openGoLimiter},
}

// openRatelimitd has a row for each endpoint and one for each gateway.
func openRatelimitd(b *testing.B, keys int) func() ask {
	b.Helper()
	clock, current := limits.NewClock(), &limits.Current{}
	table, err := limits.NewTable(nil, rows(keys), limits.Stamp{ID: 1, AtNS: clock.NowNS()})
	if err != nil {
		b.Fatal(err)
	}
	current.Store(table)
	engine := buckets.New(buckets.Config{}, clock, current)
	return func() ask {
		r, d := &buckets.Request{Descriptors: make([]buckets.Descriptor, 1)}, &buckets.Decision{}
		r.Descriptors[0] = buckets.Descriptor{HasGateway: true, HasEndpoint: true, Hits: 1, MaxWaitMS: -1}
		return func(key string) error {
			r.Descriptors[0].Gateway, r.Descriptors[0].Endpoint = gatewayOf(key), endpointOf(key)
			err := engine.Do(context.Background(), r, 0, d)
			return answer(err == nil && d.Code == buckets.OK && d.Statuses[0].Limit != nil, err)
		}
	}
}

func rows(keys int) (all []limits.Limit) {
	for i := range keys {
		key := keyOf(i)
		l := limits.Limit{Key: limits.Key{Gateway: gatewayOf(key)}, MaxTPS: unbounded, Burst: unbounded, Enabled: true}
		if i%endpointsPerGateway == 0 {
			all = append(all, l)
		}
		l.Endpoint = endpointOf(key)
		all = append(all, l)
	}
	return all
}

func answer(ok bool, err error) error {
	if err == nil && !ok {
		return errRefused
	}
	return err
}

// openRate is golang.org/x/time/rate behind the map that everybody builds around it.
func openRate(*testing.B, int) func() ask {
	s := &shards{seed: maphash.MakeSeed()}
	return func() ask {
		return func(key string) error { return answer(s.limiter(key).Allow(), nil) }
	}
}

// shards is a map of limiters with a lock for each of its parts.
type shards struct {
	seed maphash.Seed
	all  [64]shard
}

type shard struct {
	mu       sync.RWMutex
	limiters map[string]*rate.Limiter
	_        [32]byte // a cache line each
}

func (s *shards) limiter(key string) *rate.Limiter {
	in := &s.all[maphash.String(s.seed, key)%uint64(len(s.all))]
	in.mu.RLock()
	l := in.limiters[key]
	in.mu.RUnlock()
	if l != nil {
		return l
	}
	return in.add(key)
}

func (s *shard) add(key string) *rate.Limiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limiters == nil {
		s.limiters = make(map[string]*rate.Limiter)
	}
	l := s.limiters[key]
	if l == nil {
		l = rate.NewLimiter(unbounded, unbounded)
		s.limiters[strings.Clone(key)] = l
	}
	return l
}

// openThrottled has no bound of keys: that is its faster store.
func openThrottled(b *testing.B, _ int) func() ask {
	b.Helper()
	store, err := memstore.NewCtx(0)
	if err != nil {
		b.Fatal(err)
	}
	quota := throttled.RateQuota{MaxRate: throttled.PerSec(unbounded), MaxBurst: unbounded}
	limiter, err := throttled.NewGCRARateLimiterCtx(store, quota)
	if err != nil {
		b.Fatal(err)
	}
	limiter.SetMaxCASAttemptsLimit(1_000_000) // with its own 10 the hot key fails on two CPUs
	return func() ask {
		return func(key string) error {
			limited, _, err := limiter.RateLimitCtx(context.Background(), key, 1)
			return answer(!limited, err)
		}
	}
}

// openGoLimiter stays in its first window: into the second one it brings interval/tokens tokens
// (availableTokens of v0.7.1), which would be one.
func openGoLimiter(b *testing.B, _ int) func() ask {
	b.Helper()
	store, err := golimiter.New(&golimiter.Config{Tokens: unbounded, Interval: time.Hour})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = store.Close(context.Background()) }) // it only ends its goroutine
	return func() ask {
		return func(key string) error {
			_, _, _, ok, err := store.Take(context.Background(), key)
			return answer(ok, err)
		}
	}
}
