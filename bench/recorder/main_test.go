package recorder

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/bench/measure"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

var (
	out    = flag.String("out", "", "write the results to this Markdown file")
	sendTo = flag.String("send", "", "be a process that does nothing but send access logs to this address, until it is killed")
	rate   = flag.Int("rate", 20_000, "entries per second that -send sends, and that come beside decisions")
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *sendTo == "" {
		testenv.Main(m)
	}
	s := sender{addr: *sendTo, rate: *rate}
	fmt.Fprintln(os.Stderr, s.run(context.Background()))
	os.Exit(1)
}

// sections are the results so far, in the order in which they came.
var sections []string

// keep prints a result, which the log of a benchmark would cut, and writes it to the file together with
// those before it.
func keep(tb testing.TB, section string) {
	tb.Helper()
	fmt.Println("\n" + section)
	sections = append(sections, section)
	if *out == "" {
		return
	}
	body := measure.Head("Recording transactions", command()) + strings.Join(sections, "\n")
	if err := os.WriteFile(*out, []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// command is what the results come from.
func command() string {
	line := fmt.Sprintf("go test -tags e2e -run '%s' -bench '%s' -benchtime 1x -timeout 0 ./bench/recorder -args", flag.Lookup("test.run").Value, flag.Lookup("test.bench").Value)
	flag.Visit(func(f *flag.Flag) {
		if !strings.HasPrefix(f.Name, "test.") && f.Name != "out" {
			line += fmt.Sprintf(" -%s %s", f.Name, f.Value)
		}
	})
	return line
}

// row is a line of a table.
func row(cells ...any) string {
	var line strings.Builder
	for _, c := range cells {
		fmt.Fprintf(&line, "| %v ", c)
	}
	return line.String() + "|\n"
}
