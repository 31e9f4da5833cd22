package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

const (
	perGateway = 100                   // rows: its own and those of 99 endpoints
	keys       = 1000                  // endpoints that requests name, by turns
	changeTick = 10 * time.Millisecond // of one-row changes
)

// stand is an engine with its table.
type stand struct {
	config  config
	clock   limits.Clock
	current *limits.Current
	engine  *buckets.Engine
	rows    []limits.Limit
	changes int
}

func newStand(c config) (*stand, error) {
	s := &stand{config: c, clock: limits.NewClock(), current: &limits.Current{}}
	for i := range c.rows {
		l := limits.Limit{Key: limits.Key{Gateway: gatewayOf(i)}, MaxTPS: limits.MaxMaxTPS, Burst: limits.MaxBurst, Enabled: true, Version: 1}
		if i%perGateway > 0 {
			l.Endpoint = endpointOf(i)
		}
		s.rows = append(s.rows, l)
	}
	s.engine = buckets.New(buckets.Config{}, s.clock, s.current)
	return s, s.reload()
}

func gatewayOf(row int) string { return fmt.Sprint("gateway-", row/perGateway) }

func endpointOf(row int) string { return fmt.Sprint("/api/v1/endpoint-", row%perGateway) }

// kind is a kind of change.
type kind struct {
	name   string
	what   string
	every  time.Duration // 0 = one right after the other
	change func(*stand) error
}

func kinds() []kind {
	return []kind{
		{name: "reload", what: "all rows are read into a new table, one load after the other", change: (*stand).reload},
		{name: "one row", what: "one row changes 100 times a second", every: changeTick, change: (*stand).changeOne},
	}
}

// oneChanged is of how many rows one has changed since the last reload.
const oneChanged = 1000

// reload makes a table of rows that were just read, of which few have changed. It pauses as pgsync
// does.
func (s *stand) reload() error {
	s.changes++
	rows := make([]*limits.Limit, 0, len(s.rows)) // filled row by row, as a query does
	for i := range s.rows {
		if i%pauseEvery == 0 && s.current.Load() != nil {
			pause()
		}
		l := s.rows[i]
		if i%oneChanged == s.changes%oneChanged {
			l.Version += int64(s.changes)
		}
		rows = append(rows, s.current.Load().Shared(&l))
	}
	t, err := limits.NewTableFrom(s.current.Load(), slices.Values(rows), s.stamp())
	if err != nil {
		return err
	}
	s.current.Store(t)
	return nil
}

// changeOne changes one of the rows that requests meet.
func (s *stand) changeOne() error {
	s.changes++
	l := s.rows[s.changes%keys]
	l.MaxTPS -= int64(s.changes)
	t, err := s.current.Load().Apply([]limits.Change{{Key: l.Key, Limit: &l}}, s.stamp())
	if err != nil {
		return err
	}
	s.current.Store(t)
	return nil
}

func (s *stand) stamp() limits.Stamp {
	return limits.Stamp{ID: int64(s.changes), AtNS: s.clock.NowNS(), LoadedAt: time.Now(), Pause: pause}
}

const pauseEvery = 256

func pause() { <-time.After(50 * time.Microsecond) }

// measured is one round.
type measured struct {
	p50, p99, p999, longest time.Duration
	changes                 int
	cpu                     float64 // part of all that the process has used
}

// measure sends requests for one round, with or without changes beside them.
func (s *stand) measure(ctx context.Context, k kind, with bool) (m measured, err error) {
	runtime.GC() // what the round before has left is not to be paid by this one
	before, err := measure.CPUOf(os.Getpid())
	if err != nil {
		return m, err
	}
	changesBefore, began := s.changes, time.Now()
	latencies, err := s.round(ctx, k, with)
	if err != nil {
		return m, err
	}
	after, err := measure.CPUOf(os.Getpid())
	slices.Sort(latencies)
	at := func(q float64) time.Duration { return latencies[min(int(q*float64(len(latencies))), len(latencies)-1)] }
	return measured{
		p50: at(0.5), p99: at(0.99), p999: at(0.999), longest: at(1), changes: s.changes - changesBefore,
		cpu: (after - before).Seconds() / time.Since(began).Seconds() / float64(runtime.NumCPU()),
	}, err
}

// round returns the latency of every request.
func (s *stand) round(ctx context.Context, k kind, with bool) ([]time.Duration, error) {
	round, end := context.WithTimeout(ctx, s.config.round)
	defer end()
	p, err := startPacer(round, s.config.goroutines)
	if err != nil {
		return nil, err
	}
	latencies := make([][]time.Duration, s.config.goroutines)
	var work errgroup.Group
	for i := range latencies {
		work.Go(func() (err error) {
			latencies[i], err = s.serve(ctx, i, p.ticks[i])
			return err
		})
	}
	if with {
		work.Go(func() error { return s.change(round, k) })
	}
	err = errors.Join(work.Wait(), p.end(round), ctx.Err())
	return slices.Concat(latencies...), err
}

// serve decides some requests whenever the pacer asks, until that ends. It returns how long after
// they were asked the requests were decided.
func (s *stand) serve(ctx context.Context, number int, ticks io.Reader) ([]time.Duration, error) {
	each := s.config.rate / s.config.goroutines / int(time.Second/tick)
	latencies := make([]time.Duration, 0, each*int(s.config.round/tick+1))
	r, d, buffer := newRequest(), &buckets.Decision{}, new([8]byte)
	for key := number * keys / s.config.goroutines; ; {
		asked, err := next(ticks, buffer)
		if err != nil {
			return latencies, nil //nolint:nilerr // the round is over
		}
		for range each {
			key++
			r.name(key % keys)
			if err := s.engine.Do(ctx, &r.Request, 0, d); err != nil || d.Code != buckets.OK || d.Statuses[0].Limit == nil {
				return nil, fmt.Errorf("asking for %+v: %v, %w", r.Request, d, err)
			}
			latencies = append(latencies, time.Since(asked))
		}
	}
}

// request is one that is written anew each time, as a decoder does.
type request struct {
	buckets.Request
	gateways, endpoints []string
}

func newRequest() *request {
	r := &request{}
	r.Domain = "edge"
	r.Descriptors = []buckets.Descriptor{{HasGateway: true, HasEndpoint: true, Hits: 1, MaxWaitMS: -1, Entries: make([]buckets.Entry, 2)}}
	for i := range keys {
		row := i/(perGateway-1)*perGateway + 1 + i%(perGateway-1)
		r.gateways, r.endpoints = append(r.gateways, gatewayOf(row)), append(r.endpoints, endpointOf(row))
	}
	return r
}

func (r *request) name(key int) {
	d := &r.Descriptors[0]
	d.Gateway, d.Endpoint = r.gateways[key], r.endpoints[key]
	d.Entries[0], d.Entries[1] = buckets.Entry{Key: "gateway", Value: d.Gateway}, buckets.Entry{Key: "endpoint", Value: d.Endpoint}
}

// change makes changes until ctx ends.
func (s *stand) change(ctx context.Context, k kind) error {
	for ctx.Err() == nil {
		began := time.Now()
		if err := k.change(s); err != nil {
			return err
		}
		if rest := k.every - time.Since(began); rest > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(rest):
			}
		}
	}
	return nil
}
