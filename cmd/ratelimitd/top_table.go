package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/rivo/uniseg"

	"github.com/tps-agent/ratelimitd/internal/client"
)

// topView is what top shows.
type topView struct {
	server string
	window time.Duration
	stats  client.Stats
	sort   string // a column's name
	paused bool
	fault  string // why the figures are old; empty = they are not
}

// topColumn is one column of figures.
type topColumn struct {
	name, title string
	width       int
	text        func(*client.NamedFigures) string
	order       func(*client.NamedFigures) float64 // the highest first
}

// topColumns are in the order of the screen.
func topColumns() []topColumn {
	return []topColumn{
		{"tps", "TPS", 6, func(f *client.NamedFigures) string { return shortCount(f.TPS) }, func(f *client.NamedFigures) float64 { return float64(f.TPS) }},
		{"peak", "PEAK", 6, func(f *client.NamedFigures) string { return shortCount(f.PeakTPS) }, func(f *client.NamedFigures) float64 { return float64(f.PeakTPS) }},
		{"p50", "P50 ms", 6, func(f *client.NamedFigures) string { return shortMS(f.P50MS) }, func(f *client.NamedFigures) float64 { return orLowest(f.P50MS) }},
		{"p95", "P95 ms", 6, func(f *client.NamedFigures) string { return shortMS(f.P95MS) }, func(f *client.NamedFigures) float64 { return orLowest(f.P95MS) }},
		{"p99", "P99 ms", 6, func(f *client.NamedFigures) string { return shortMS(f.P99MS) }, func(f *client.NamedFigures) float64 { return orLowest(f.P99MS) }},
		{"success", "SUCCESS", 7, func(f *client.NamedFigures) string { return shortShare(f.SuccessRate) }, func(f *client.NamedFigures) float64 { return -orHighest(f.SuccessRate) }},
		{"throttled", "THROTTLED", 9, func(f *client.NamedFigures) string { return shortCount(f.Throttled) }, func(f *client.NamedFigures) float64 { return float64(f.Throttled) }},
		{"held", "HELD", 6, func(f *client.NamedFigures) string { return shortCount(f.Held) }, func(f *client.NamedFigures) float64 { return float64(f.Held) }},
	}
}

// dispensable are the columns that a narrow screen loses, in this order.
const dispensable = "held p50 peak p99 throttled success p95 tps"

// byName is the order of names, which is no column.
const byName = "name"

// nextOrder is the order after one, as the key s asks for it.
func nextOrder(name string) string {
	all := topColumns()
	at := slices.IndexFunc(all, func(c topColumn) bool { return c.name == name }) + 1
	if at == len(all) {
		return byName
	}
	return all[at].name
}

// sorted returns the endpoints in the order of the view: what needs an eye first.
func (v *topView) sorted() []client.NamedFigures {
	rows := slices.Clone(v.stats.Endpoints)
	order := func(*client.NamedFigures) float64 { return 0 }
	for _, c := range topColumns() {
		if c.name == v.sort {
			order = c.order
		}
	}
	slices.SortStableFunc(rows, func(a, b client.NamedFigures) int {
		return cmp.Or(cmp.Compare(order(&b), order(&a)), cmp.Compare(a.Domain, b.Domain), cmp.Compare(a.Gateway, b.Gateway), cmp.Compare(a.Endpoint, b.Endpoint))
	})
	return rows
}

// screen is the view as lines of a terminal of that size.
func (v *topView) screen(width, height int) []line {
	const around = 5 // two lines of totals, one for a fault, titles, keys
	rows := v.sorted()
	shown := min(max(height-around, 0), len(rows))
	lines := append(v.header(width), textLine(cutMiddle(v.fault, width), false))
	lines = append(lines, v.table(rows[:shown], width)...)
	keys := "q quit   s sort   space pause"
	if hidden := len(rows) - shown; hidden > 0 {
		keys += fmt.Sprintf("   %d more below", hidden)
	}
	lines = append(lines, textLine(cutMiddle(keys, width), false))
	return lines[:min(len(lines), max(height, 0))]
}

// print is the view as text of any width, for a file or a pipe.
func (v *topView) print() string {
	var b strings.Builder
	for _, l := range append(v.header(math.MaxInt32), v.table(v.sorted(), math.MaxInt32)...) {
		b.WriteString(l.plain() + "\n")
	}
	return b.String()
}

func (v *topView) header(width int) []line {
	at := []string{visible(v.server), "last " + shortDuration(v.window), v.stats.To.UTC().Format("15:04:05 UTC"), "sorted by " + v.sort}
	if v.paused {
		at = slices.Insert(at, 1, "paused")
	}
	t := &v.stats.Total
	sum := []string{
		shortCount(t.TPS) + " tps", "p95 " + shortMS(t.P95MS) + " ms", shortShare(t.SuccessRate) + " success",
		shortCount(t.Throttled) + " throttled", shortCount(t.Held) + " held", fmt.Sprintf("%d endpoints of %d gateways", len(v.stats.Endpoints), len(v.stats.Gateways)),
	}
	return []line{textLine(fit(at, width), true), textLine(fit(sum, width), false)}
}

// fit is as many parts of a line as have room, the first ones first.
func fit(parts []string, width int) string {
	all := parts[0]
	for _, p := range parts[1:] {
		if longer := all + "   " + p; uniseg.StringWidth(longer) <= width {
			all = longer
		}
	}
	return cutMiddle(all, width)
}

// table is the titles and a line for each row.
func (v *topView) table(rows []client.NamedFigures, width int) []line {
	titles := []string{"GATEWAY", "ENDPOINT"}
	if v.severalDomains() {
		titles = append([]string{"DOMAIN"}, titles...)
	}
	names := make([][]string, len(rows))
	natural := make([]int, len(titles))
	for i := range titles {
		natural[i] = len(titles[i])
	}
	for r := range rows {
		all := []string{visible(rows[r].Domain), visible(rows[r].Gateway), visible(rows[r].Endpoint)}
		names[r] = all[len(all)-len(titles):]
		for i, name := range names[r] {
			natural[i] = max(natural[i], uniseg.StringWidth(name))
		}
	}
	l := layOut(natural, width)
	lines := []line{l.line(titles, func(c topColumn) string { return c.title })}
	lines[0].bold = true
	for r := range rows {
		lines = append(lines, l.line(names[r], func(c topColumn) string { return c.text(&rows[r]) }))
	}
	return lines
}

func (v *topView) severalDomains() bool {
	e := v.stats.Endpoints
	return slices.ContainsFunc(e, func(f client.NamedFigures) bool { return f.Domain != e[0].Domain })
}

// layout says how wide the names are, and which figures have room beside them.
type layout struct {
	names   []int
	columns []topColumn
	gap     int
}

// layOut gives names what they need, but for what they can spare: below that, columns go.
func layOut(natural []int, width int) layout {
	const enough = 12
	l := layout{columns: topColumns(), gap: 2}
	need := 0
	for _, n := range natural {
		need += min(n, enough) + 1
	}
	if full := l.figures() + sum(natural) + 2*len(natural); full > width {
		l.gap = 1
	}
	for name := range strings.SplitSeq(dispensable, " ") {
		if need-1+l.figures() <= width {
			break
		}
		l.columns = slices.DeleteFunc(l.columns, func(c topColumn) bool { return c.name == name })
	}
	l.names = shares(width-l.figures()-l.gap*(len(natural)-1), natural)
	return l
}

// figures is how wide the columns of figures are, with a gap before each.
func (l *layout) figures() int {
	width := 0
	for _, c := range l.columns {
		width += l.gap + c.width
	}
	return width
}

// shares gives each what it wants of what there is, and where that is too little, all who want more
// the same.
func shares(there int, want []int) []int {
	got := make([]int, len(want))
	order := make([]int, len(want))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(want[a], want[b]) })
	for n, i := range order {
		got[i] = min(want[i], max(there, 0)/(len(order)-n))
		there -= got[i]
	}
	return got
}

func (l *layout) line(names []string, text func(topColumn) string) line {
	var out line
	at := 0
	for i, name := range names {
		out.cells = append(out.cells, cell{at, cutMiddle(name, l.names[i])})
		at += l.names[i] + l.gap
	}
	at -= l.gap
	for _, c := range l.columns {
		at += l.gap + c.width
		t := text(c)
		out.cells = append(out.cells, cell{at - len(t), t})
	}
	return out
}

// line is one line of a screen.
type line struct {
	cells []cell
	bold  bool
}

// cell is text that begins in a column, of which 0 is the first.
type cell struct {
	at   int
	text string
}

func textLine(text string, bold bool) line { return line{[]cell{{0, text}}, bold} }

// plain is the line with spaces between its cells.
func (l line) plain() string {
	var b strings.Builder
	at := 0
	for _, c := range l.cells {
		b.WriteString(strings.Repeat(" ", max(c.at-at, 0)) + c.text)
		at = max(c.at, at) + uniseg.StringWidth(c.text)
	}
	return strings.TrimRight(b.String(), " ")
}

func sum(ns []int) int {
	total := 0
	for _, n := range ns {
		total += n
	}
	return total
}
