package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// writeDomain writes every limit of a domain of descriptor files, one a line, which begins as that of
// envoyproxy/ratelimit, and the nodes that are only there to have none.
func writeDomain(w io.Writer, d *descriptors.Domain) {
	if d.AllOrNothing() {
		fmt.Fprintf(w, "%s: all_or_nothing\n", shown(d.Name()))
	}
	d.Walk(func(n descriptors.Node) {
		r := n.Rule
		switch {
		case r != nil:
			line := fmt.Sprintf("%s: unit=%s requests_per_unit=%d, shadow_mode: %t, quota_mode: %t", shown(n.Name()), windowText(r), r.RequestsPerUnit, r.Shadow, r.Quota)
			fmt.Fprintln(w, strings.Join(slices.Concat([]string{line}, extraWords(r), nodeFlags(&n)), ", "))
		case n.Leaf:
			fmt.Fprintf(w, "%s: no limit\n", shown(n.Name()))
		}
	})
}

// nodeWords say what is said of a node.
func nodeWords(n *descriptors.Node) []string {
	if n.Rule == nil {
		return nodeFlags(n)
	}
	return slices.Concat(ruleWords(n.Rule), nodeFlags(n))
}

// ruleWords say what a rule does.
func ruleWords(r *descriptors.Rule) []string {
	if r.Unlimited {
		return extraWords(r)
	}
	words := []string{"unit=" + windowText(r), fmt.Sprintf("requests_per_unit=%d", r.RequestsPerUnit)}
	return slices.Concat(words, flagged(flag{"shadow_mode", r.Shadow}, flag{"quota_mode", r.Quota}), extraWords(r))
}

// extraWords say what envoyproxy/ratelimit does not show of a rule.
func extraWords(r *descriptors.Rule) []string {
	words := flagged(flag{"unlimited", r.Unlimited})
	if !r.Unlimited && r.Algorithm != limits.FixedWindow {
		words = append(words, "algorithm="+r.Algorithm.String())
	}
	words = append(words, flagged(flag{"metadata", r.Metadata != nil})...)
	if r.Name != "" {
		words = append(words, "name="+shown(r.Name))
	}
	if names := r.Replaces(); len(names) > 0 {
		words = append(words, "replaces="+shown(strings.Join(names, ",")))
	}
	return words
}

// nodeFlags are the switches of a node that it has without a limit, too.
func nodeFlags(n *descriptors.Node) []string {
	return flagged(flag{"share_threshold", n.ShareThreshold}, flag{"detailed_metric", n.DetailedMetric}, flag{"value_to_metric", n.ValueToMetric})
}

type flag struct {
	name string
	set  bool
}

func flagged(flags ...flag) (names []string) {
	for _, f := range flags {
		if f.set {
			names = append(names, f.name)
		}
	}
	return names
}

func windowText(r *descriptors.Rule) string {
	if r.Unlimited || r.Unit != descriptors.UnitUnknown {
		return r.Unit.String()
	}
	return fmt.Sprintf("%ds", r.Seconds)
}

// shown keeps a text of a file on its line.
func shown(text string) string { return oneLine(&text) }
