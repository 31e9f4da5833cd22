package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// writeDomain writes every limit of a domain of descriptor files, one a line: the name, as
// envoyproxy/ratelimit shows it, and all that is said of it.
func writeDomain(w io.Writer, d *descriptors.Domain) {
	for i := range d.Rules() {
		r := &d.Rules()[i]
		fmt.Fprintf(w, "%s: %s\n", shown(r.Key()), ruleText(r))
	}
}

// ruleText says what a rule does.
func ruleText(r *descriptors.Rule) string {
	words := []string{"unit=" + windowText(r), fmt.Sprintf("requests_per_unit=%d", r.RequestsPerUnit)}
	if r.Unlimited {
		words = []string{"unlimited"}
	} else if r.Algorithm != limits.FixedWindow {
		words = append(words, "algorithm="+r.Algorithm.String())
	}
	for _, flag := range [...]struct {
		name string
		set  bool
	}{{"shadow_mode", r.Shadow}, {"quota_mode", r.Quota}, {"share_threshold", r.Shares()}, {"metadata", r.Metadata != nil}} {
		if flag.set {
			words = append(words, flag.name)
		}
	}
	if r.Name != "" {
		words = append(words, "name="+shown(r.Name))
	}
	if names := r.Replaces(); len(names) > 0 {
		words = append(words, "replaces="+shown(strings.Join(names, ",")))
	}
	return strings.Join(words, " ")
}

func windowText(r *descriptors.Rule) string {
	if r.Unit != descriptors.UnitUnknown {
		return r.Unit.String()
	}
	return fmt.Sprintf("%ds", r.Seconds)
}

// shown keeps a text of a file on its line.
func shown(text string) string { return oneLine(&text) }
