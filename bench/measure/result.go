package measure

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Head is the beginning of a result in Markdown: what was measured where, and by which command.
func Head(title, command string) string {
	return fmt.Sprintf("# %s\n\n- command: `%s`\n- commit: %s\n- machine: %s\n- date: %s\n\n",
		title, command, commit(), machine(), time.Now().UTC().Format(time.DateOnly))
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

// Quantile returns the value below which the part q of all lies; values is not empty.
func Quantile[T int64 | float64 | time.Duration](values []T, q float64) T {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// MiB writes bytes for people.
func MiB(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) }
