package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/bench/measure"
)

// result is what all rounds have shown.
type result struct {
	config config
	kinds  []pairs
}

// pairs are the rounds of one kind of change.
type pairs struct {
	kind          kind
	with, without []measured
}

// median is that of one figure of the rounds.
func median[T float64 | time.Duration](rounds []measured, of func(measured) T) T {
	var values []T
	for _, m := range rounds {
		values = append(values, of(m))
	}
	return measure.Quantile(values, 0.5)
}

func p99(m measured) time.Duration { return m.p99 }

// ratio is that of the medians of both p99.
func (p *pairs) ratio() float64 {
	return float64(median(p.with, p99)) / float64(median(p.without, p99))
}

// fault says which bound is broken.
func (p *pairs) fault(c config) error {
	var errs []error
	if got := p.ratio(); got > c.mostRatio {
		errs = append(errs, fmt.Errorf("%s: the ratio of the median p99 is %.2f, want at most %.2f", p.kind.name, got, c.mostRatio))
	}
	if got := median(p.with, p99); got > c.mostP99 {
		errs = append(errs, fmt.Errorf("%s: the median p99 is %s, want at most %s", p.kind.name, got, c.mostP99))
	}
	return errors.Join(errs...)
}

func (r *result) markdown() string {
	var b strings.Builder
	c := r.config
	b.WriteString(measure.Head("Decisions while limits change", c.command))
	fmt.Fprintf(&b, "%d limits; %d requests/s from %d goroutines over %d endpoints; %d pairs of rounds of %s.\n", c.rows, c.rate, c.goroutines, keys, c.pairs, c.round)
	b.WriteString("A latency counts from when another process asked. Medians over the rounds.\n\n")
	b.WriteString("| changes | p50 | p99 | p99.9 | longest | changes a round | CPU of the process | ratio of p99 |\n|---|---|---|---|---|---|---|---|\n")
	for i := range r.kinds {
		k := &r.kinds[i]
		b.WriteString(line("none", k.without, "1"))
		b.WriteString(line(k.kind.what, k.with, fmt.Sprintf("%.2f", k.ratio())))
	}
	return b.String()
}

func line(what string, rounds []measured, ratio string) string {
	d := func(of func(measured) time.Duration) time.Duration { return median(rounds, of).Round(time.Microsecond) }
	return fmt.Sprintf("| %s | %s | %s | %s | %s | %.0f | %.0f %% | %s |\n", what,
		d(func(m measured) time.Duration { return m.p50 }), d(p99), d(func(m measured) time.Duration { return m.p999 }), d(func(m measured) time.Duration { return m.longest }),
		median(rounds, func(m measured) float64 { return float64(m.changes) }), median(rounds, func(m measured) float64 { return 100 * m.cpu }), ratio)
}

// finish prints and writes the result, and fails where a bound is broken.
func (r *result) finish(stdout io.Writer) error {
	body := r.markdown()
	fmt.Fprint(stdout, "\n", body)
	if r.config.out != "" {
		if err := os.WriteFile(r.config.out, []byte(body), 0o644); err != nil { //nolint:gosec // for everybody to read
			return err
		}
	}
	var errs []error
	for i := range r.kinds {
		errs = append(errs, r.kinds[i].fault(r.config))
	}
	return errors.Join(errs...)
}
