package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"
)

// faults are several errors of equal rank, each of which is a line for the operator.
type faults []error

// Error is one line for each.
func (f faults) Error() string {
	lines := make([]string, len(f))
	for i, err := range f {
		lines[i] = oneLineOf(err.Error())
	}
	return strings.Join(lines, "\n")
}

// Unwrap returns them.
func (f faults) Unwrap() []error { return f }

// orNil is f, nil where there is none.
func (f faults) orNil() error {
	if len(f) == 0 {
		return nil
	}
	return f
}

// report prints one line for each fault of err, whatever is in the names that it repeats.
func report(w io.Writer, err error) {
	all, ok := err.(faults) //nolint:errorlint // one that is wrapped is a part of its message
	if !ok {
		all = faults{err}
	}
	for line := range strings.SplitSeq(all.Error(), "\n") {
		fmt.Fprintln(w, "ratelimitd:", line)
	}
}

// oneLineOf shows what would end the line, or what a terminal obeys, as text.
func oneLineOf(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r == '\n':
			b.WriteString("; ") // between the parts of an error, of pgx above all
		case unicode.IsControl(r):
			quoted := strconv.QuoteRune(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
