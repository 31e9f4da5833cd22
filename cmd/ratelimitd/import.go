package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// importFlags are those of `limits import`.
type importFlags struct {
	remote
	Dir          string   `arg:"" help:"Directory of descriptor files of envoyproxy/ratelimit."`
	GatewayKeys  []string `default:"gateway" help:"Descriptor keys that carry the gateway (TPS_GATEWAY_KEYS of the server)."`
	EndpointKeys []string `default:"endpoint" help:"Descriptor keys that carry the endpoint (TPS_ENDPOINT_KEYS of the server)."`
	DryRun       bool     `help:"Print the rows, and write nothing."`
}

// imported are the rows that files become, and what they could not become.
type imported struct {
	rows []limits.Row
	keys map[limits.Key]bool // of rows
	open []limits.Limit      // disabled rows of nodes that have no limit and only lead on
	not  []string
}

// run writes the rows, and prints them and what was left out.
func (f *importFlags) run(ctx context.Context, api *client.Client, stdout io.Writer) error {
	files, err := descriptors.ReadDir(f.Dir, nil)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("the directory %s holds no file", f.Dir)
	}
	in := f.translate(descriptors.Update(nil, files))
	if f.DryRun {
		in.addOpen(nil)
	} else if err := in.write(ctx, api); err != nil {
		return err
	}
	if err := printRows(stdout, in.rows); err != nil {
		return err
	}
	for _, line := range in.not {
		fmt.Fprintln(stdout, "not imported:", line)
	}
	if len(in.not) > 0 {
		return errIncomplete
	}
	return nil
}

// write writes every row, until one is refused: to write them again changes nothing.
func (in *imported) write(ctx context.Context, api *client.Client) error {
	there, err := api.ListLimits(ctx)
	if err != nil {
		return err
	}
	in.addOpen(there)
	for i, row := range in.rows {
		stored, err := api.PutLimit(ctx, row)
		if err != nil {
			return fmt.Errorf("domain %q, gateway %q, endpoint %q, per %q, after %d of %d rows: %w", row.Domain, row.Gateway, show(row.Endpoint), show(row.Per), i, len(in.rows), err)
		}
		in.rows[i] = stored
	}
	return nil
}

func (f *importFlags) translate(set *descriptors.Set) *imported {
	in := &imported{keys: make(map[limits.Key]bool)}
	for src := range set.Sources() {
		if src.Err != nil {
			in.not = append(in.not, strings.Split(src.Err.Error(), "\n")...)
			continue
		}
		var path [][2]string
		src.Domain.Walk(func(n descriptors.Node) {
			path = append(path[:n.Depth], [2]string{n.Key, n.Value})
			f.add(in, src, path, &n)
		})
	}
	return in
}

// add adds the row of one node.
func (f *importFlags) add(in *imported, src descriptors.Source, path [][2]string, n *descriptors.Node) {
	what := pathText(path) + " (no limit)"
	if n.Rule != nil {
		what = fmt.Sprintf("%s (%s)", shown(n.Name()), strings.Join(nodeWords(n), " "))
	}
	l, reason := f.row(src.Domain.Name(), path, n.Rule)
	if n.Rule == nil && !n.Leaf {
		if reason == "" && l.Per == "" { // else no other row could take what it lets through
			in.open = append(in.open, l)
		}
		return
	}
	if reason == "" && in.keys[l.Key] {
		reason = "its row is that of another limit, which came before"
	}
	if reason != "" {
		in.not = append(in.not, fmt.Sprintf("%s: %s: %s", src.Name, what, reason))
		return
	}
	in.keys[l.Key] = true
	in.rows = append(in.rows, limits.RowOf(&l))
}

// addOpen adds the rows that keep patterns off what files let through, where neither the files nor the
// server have a row.
func (in *imported) addOpen(there []limits.Row) {
	for i := range there {
		if l, err := there[i].Limit(); err == nil { // a bad row is none
			in.keys[l.Key] = true
		}
	}
	for i := range in.open {
		if l := &in.open[i]; !in.keys[l.Key] {
			in.keys[l.Key] = true
			in.rows = append(in.rows, limits.RowOf(l))
		}
	}
}

func pathText(path [][2]string) string {
	parts := make([]string, len(path))
	for i, entry := range path {
		parts[i] = shown(entry[0]) + "=" + shown(entry[1])
	}
	return strings.Join(parts, ", ")
}

// row makes the row of one limit, or tells why there is none. A nil r is a node that limits nothing, like
// one that is unlimited: a disabled row, which matches all the same.
func (f *importFlags) row(domain string, path [][2]string, r *descriptors.Rule) (l limits.Limit, reason string) {
	k := limits.Key{Domain: domain}
	for _, entry := range path {
		key, value := entry[0], entry[1]
		if value == "" {
			value = "*" // each value for itself, as a pattern of rows has it
		}
		switch {
		case k.Gateway == "" && slices.Contains(f.GatewayKeys, key):
			k.Gateway = value
		case k.Endpoint == "" && slices.Contains(f.EndpointKeys, key):
			k.Endpoint = value
		case k.Per == "" && entry[1] == "":
			k.Per = key
		default:
			return l, fmt.Sprintf("the entry %s=%s is neither gateway nor endpoint, nor the only key each value of which has the limit", shown(key), shown(entry[1]))
		}
	}
	if k.Gateway == "" {
		return l, "it names no gateway (" + strings.Join(f.GatewayKeys, ", ") + ")"
	}
	if reason := untranslatable(r); reason != "" {
		return l, reason
	}
	l = limits.Limit{Key: k, MaxTPS: limits.DefaultMaxTPS}
	switch {
	case r == nil:
	case r.Unlimited:
		l.Note = r.Name
	default:
		l = limits.Limit{Key: k, MaxTPS: int64(r.RequestsPerUnit), Enabled: true, Shadow: r.Shadow, Note: r.Name, Algorithm: r.Algorithm}
		if r.Algorithm == limits.FixedWindow { // which the file does not ask for
			l.Algorithm = limits.TokenBucket
		}
	}
	if err := l.Validate(); err != nil {
		return l, strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	return l, ""
}

// untranslatable tells what rows have no word for.
func untranslatable(r *descriptors.Rule) string {
	switch {
	case r == nil:
		return ""
	case r.Seconds != 1 && !r.Unlimited:
		return fmt.Sprintf("it does not count per second; `ratelimitd limits set --per-seconds %d --algorithm %s` makes a row of that window", r.Seconds, r.Algorithm)
	case r.Quota:
		return "rows have no quota_mode"
	case r.Shares():
		return "rows have no share_threshold"
	case len(r.Replaces()) > 0:
		return "rows replace nothing"
	case r.Metadata != nil:
		return "rows have no metadata"
	}
	return ""
}
