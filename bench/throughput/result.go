package main

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/bench/measure"
)

// result is what all rounds gave.
type result struct {
	config config
	rounds map[string][]measured // by server
}

func (r *result) add(name string, m measured) { r.rounds[name] = append(r.rounds[name], m) }

// finish prints medians and ratios, writes the file, and fails where ratelimitd is too slow.
func (r *result) finish(stdout io.Writer) error {
	text := r.markdown()
	fmt.Fprintln(stdout, "\n"+text)
	if r.config.out != "" {
		if err := os.WriteFile(r.config.out, []byte(text), 0o644); err != nil { //nolint:gosec // a document
			return err
		}
	}
	if ratio := r.ratio(bareServer); ratio < r.config.least {
		return fmt.Errorf("ratelimitd reaches %.2f of %s's throughput, less than %.2f", ratio, bareServer, r.config.least)
	}
	return nil
}

// ratio is the median of the ratios of throughput, round by round: what disturbs the machine for
// a while disturbs both.
func (r *result) ratio(other string) float64 {
	var ratios []float64
	for i, own := range r.rounds[ownServer] {
		ratios = append(ratios, own.perSecond/r.rounds[other][i].perSecond)
	}
	return median(ratios)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// spread is the least and the greatest.
func spread(values []float64) (least, greatest float64) {
	return slices.Min(values), slices.Max(values)
}

func (r *result) column(name string, of func(measured) float64) []float64 {
	var values []float64
	for _, m := range r.rounds[name] {
		values = append(values, of(m))
	}
	return values
}

func (r *result) markdown() string {
	var b strings.Builder
	c := r.config
	b.WriteString(measure.Head("Throughput beside grpc-go", c.command))
	fmt.Fprintf(&b, "Load: h2load, %d connections x %d streams, %d requests a round, %d alternating rounds; limits file of %d rows\n\n",
		c.connections, c.streams, c.requests, c.rounds, c.rows)
	b.WriteString("| server | requests/s, median (least to greatest) | µs CPU per request, median | throughput of ratelimitd to it |\n|---|---|---|---|\n")
	for _, name := range [...]string{ownServer, bareServer, rawServer} {
		speed := r.column(name, func(m measured) float64 { return m.perSecond })
		cpu := r.column(name, func(m measured) float64 { return m.cpuMicros })
		least, greatest := spread(speed)
		fmt.Fprintf(&b, "| %s | %.0f (%.0f to %.0f) | %.2f | %.3f |\n", name, median(speed), least, greatest, median(cpu), r.ratio(name))
	}
	b.WriteString("\nbare: generated code and stock codec of grpc-go, a constant answer. raw: the same bytes without protobuf.\n")
	b.WriteString("The ratio is the median of the ratios of each round.\n")
	return b.String()
}
