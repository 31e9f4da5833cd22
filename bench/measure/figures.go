package measure

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
)

// Figures are the series of /metrics, each by its name and its labels as they are written there.
type Figures map[string]float64

// Figures asks for all series.
func (r *Ratelimitd) Figures(tb testing.TB) Figures {
	tb.Helper()
	body, err := r.get("/metrics")
	if err != nil {
		tb.Fatal(err)
	}
	f, err := parseFigures(body)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func parseFigures(body string) (Figures, error) {
	f := Figures{}
	for line := range strings.Lines(body) {
		line = strings.TrimSuffix(line, "\n")
		end := strings.LastIndexByte(line, ' ') // labels may have spaces
		if end < 0 || line[0] == '#' {
			continue
		}
		value, err := strconv.ParseFloat(line[end+1:], 64)
		if err != nil {
			return nil, fmt.Errorf("/metrics: %s: %w", line, err)
		}
		f[line[:end]] = value
	}
	return f, nil
}

// Sum adds up all series of a name, whatever their labels are.
func (f Figures) Sum(name string) (sum float64) {
	for series, value := range f {
		if rest, ok := strings.CutPrefix(series, name); ok && (rest == "" || rest[0] == '{') {
			sum += value
		}
	}
	return sum
}
