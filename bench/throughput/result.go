package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
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
	fmt.Fprintf(&b, "# Throughput beside grpc-go\n\n")
	fmt.Fprintf(&b, "- command: `%s`\n- commit: %s\n- machine: %s\n- date: %s\n", c.command, commit(), machine(), time.Now().UTC().Format(time.DateOnly))
	fmt.Fprintf(&b, "- load: h2load, %d connections x %d streams, %d requests a round, %d alternating rounds; limits file of %d rows\n\n",
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

// commit names the state of the sources.
func commit() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty", "--abbrev=12").Output() //nolint:noctx // it reads a few files
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// machine is the processor, the number of CPUs that Go sees, the system and Go's version.
func machine() string {
	model := "unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, rest, ok := strings.Cut(string(info), "model name\t: "); ok {
			model, _, _ = strings.Cut(rest, "\n")
		}
	}
	return fmt.Sprintf("%s, %d CPUs, %s/%s, %s", model, runtime.NumCPU(), runtime.GOOS, runtime.GOARCH, runtime.Version())
}
