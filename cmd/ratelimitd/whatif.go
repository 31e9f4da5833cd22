package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// whatIfFlags are those of `limits set` that write nothing.
type whatIfFlags struct {
	WhatIf bool   `name:"what-if" help:"Write nothing: print what the limit would have refused of what was measured."`
	Range  string `help:"With --what-if: try it on this time up to now, such as 1h or 7d; absent = a day, or what is in memory where there is no Postgres: two minutes."`
}

// ask prints what the limit would have done.
func (f *whatIfFlags) ask(ctx context.Context, api *client.Client, row limits.Row, stdout io.Writer) error {
	span := time.Duration(0)
	if f.Range != "" {
		var err error
		if span, err = admin.ParseDuration(f.Range); err != nil || span < time.Second {
			return fmt.Errorf("--range %q: is not a duration of a second or more, such as 30, 30s, 5m, 1h or 7d", f.Range)
		}
	}
	w, err := api.WhatIf(ctx, row, span)
	if err != nil {
		return err
	}
	return printWhatIf(stdout, &w)
}

func printWhatIf(w io.Writer, x *client.WhatIf) error {
	fmt.Fprintln(w, visible(x.Sentence))
	if x.Offered == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\n\tREFUSED\tSHARE\t")
	for _, r := range []struct {
		what  string
		n     int64
		share float64
	}{{"least", x.Refused.Least, x.RefusedShare.Least}, {"estimate", x.Refused.Estimate, x.RefusedShare.Estimate}, {"most", x.Refused.Most, x.RefusedShare.Most}} {
		fmt.Fprintf(t, "%s\t%d\t%s\t\n", r.what, r.n, perCent(r.share))
	}
	if x.Held > 0 {
		fmt.Fprintf(t, "held\t%d\t%s\t\n", x.Held, perCent(float64(x.Held)/float64(x.Offered)))
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if err := printWorst(w, x.WorstMinutes); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%s\n", strings.Join(wrap(visible(x.ErrorBound), 100), "\n"))
	return err
}

func printWorst(w io.Writer, minutes []client.WorstMinute) error {
	if len(minutes) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "\nWORST MINUTES (UTC)\tOFFERED\tREFUSED\tSHARE\t")
	for _, m := range minutes {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t\n", m.At.UTC().Format("2006-01-02 15:04"), m.Offered, m.Refused, perCent(m.Share))
	}
	return t.Flush()
}

func perCent(share float64) string { return strconv.FormatFloat(share*100, 'f', 2, 64) + " %" }

// wrap breaks a text into lines of at most width bytes, where its words allow that.
func wrap(text string, width int) (lines []string) {
	for word := range strings.FieldsSeq(text) {
		last := len(lines) - 1
		if last >= 0 && len(lines[last])+1+len(word) <= width {
			lines[last] += " " + word
			continue
		}
		lines = append(lines, word)
	}
	return lines
}
