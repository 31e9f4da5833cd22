package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // main makes the context
	err := run(ctx, os.Args, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "reload:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	rows       int
	pairs      int           // rounds with changes, and as many without
	round      time.Duration // of one
	rate       int           // requests per second
	mostRatio  float64       // of the median p99 with changes to that without; above it the run fails
	mostP99    time.Duration // above it the run fails
	out        string        // Markdown file of the result; empty = none
	command    string        // as it was called
	goroutines int           // that decide
	pace       bool          // be the process that asks
}

func parse(args []string) (config, error) {
	c := config{command: strings.TrimSpace("go run ./bench/reload " + strings.Join(args[1:], " "))}
	flags := flag.NewFlagSet("reload", flag.ContinueOnError)
	flags.IntVar(&c.rows, "rows", 1_000_000, "limits")
	flags.IntVar(&c.pairs, "pairs", 10, "pairs of rounds of each kind of change")
	flags.DurationVar(&c.round, "round", 3*time.Second, "length of a round")
	flags.IntVar(&c.rate, "rate", 200_000, "requests per second")
	flags.IntVar(&c.goroutines, "goroutines", 8, "goroutines that decide, each asked once a millisecond")
	flags.BoolVar(&c.pace, "pace", false, "be the process that asks")
	flags.Float64Var(&c.mostRatio, "ratio", 1.5, "fail where the median p99 with changes is more than this times that without")
	flags.DurationVar(&c.mostP99, "p99", time.Millisecond, "fail where the median p99 with changes is longer")
	flags.StringVar(&c.out, "out", "", "write the result to this Markdown file")
	if err := flags.Parse(args[1:]); err != nil {
		return c, err
	}
	if c.rows < perGateway || c.pairs < 1 || c.goroutines < 1 || c.rate < 1000*c.goroutines || c.round < 100*time.Millisecond {
		return c, fmt.Errorf("rows are at least %d, pairs and goroutines 1, the rate 1000 for each goroutine, a round 100ms", perGateway)
	}
	return c, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	c, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case c.pace:
		return pace(c.goroutines)
	}
	s, err := newStand(c)
	if err != nil {
		return err
	}
	r := result{config: c}
	for _, k := range kinds() {
		if err := r.compare(ctx, s, k, stdout); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	return r.finish(stdout)
}

// compare runs the pairs of a kind of change.
func (r *result) compare(ctx context.Context, s *stand, k kind, stdout io.Writer) error {
	found := pairs{kind: k}
	for i := range r.config.pairs {
		for j := range 2 { // each begins a pair as often as the other
			with := (i+j)%2 == 1
			m, err := s.measure(ctx, k, with)
			if err != nil {
				return err
			}
			fmt.Fprintf(stdout, "pair %2d  %-12s with %-5t  p50 %-10s p99 %-10s p99.9 %-10s longest %-10s %d changes, %.0f %% of the CPU\n",
				i+1, k.name, with, m.p50, m.p99, m.p999, m.longest, m.changes, 100*m.cpu)
			if with {
				found.with = append(found.with, m)
			} else {
				found.without = append(found.without, m)
			}
		}
	}
	r.kinds = append(r.kinds, found)
	return nil
}
