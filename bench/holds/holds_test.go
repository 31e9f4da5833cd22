//go:build e2e

package holds

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

var out = flag.String("out", "", "write the result to this Markdown file")

const (
	gateway   = "gw-main"
	rate      = 1000      // tokens per second
	burst     = 1_000_000 // the first request takes all, the second one waits for as many: for 1,000 s
	maxWaitMS = 1_800_000

	watched    = 5 * time.Second // while nothing is granted
	cpuTarget  = 5.0             // % of a core
	heapTarget = 1000.0          // bytes of the engine for each that waits
	waiters    = 100_000
	streams    = 20_000
)

func BenchmarkHolds(b *testing.B) {
	var body strings.Builder
	body.WriteString(measure.Head("Requests that wait for their turn", "go test -tags e2e -run '^$' -bench . -benchtime 1x ./bench/holds"))
	b.Run("engine", func(b *testing.B) {
		for b.Loop() {
			body.WriteString(engineTable(b))
		}
	})
	b.Run("streams", func(b *testing.B) {
		for b.Loop() {
			body.WriteString(streamTable(b))
		}
	})
	b.Log("\n" + body.String())
	if *out == "" {
		return
	}
	if err := os.WriteFile(*out, []byte(body.String()), 0o600); err != nil {
		b.Fatal(err)
	}
}

// cpuShare is how much of a core a process uses while nothing happens, in percent.
func cpuShare(b *testing.B, pid int) float64 {
	b.Helper()
	before, err := measure.CPUOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	<-time.After(watched)
	after, err := measure.CPUOf(pid)
	if err != nil {
		b.Fatal(err)
	}
	share := 100 * float64(after-before) / float64(watched)
	if share >= cpuTarget {
		b.Errorf("waiting takes %.1f %% of a core, want less than %g", share, cpuTarget)
	}
	return share
}

// endpointOf spreads requests over lanes.
func endpointOf(i, lanes int) string { return fmt.Sprint("endpoint-", i%lanes) }

func row(cells ...any) string {
	var line strings.Builder
	for _, c := range cells {
		fmt.Fprintf(&line, "| %v ", c)
	}
	return line.String() + "|\n"
}
