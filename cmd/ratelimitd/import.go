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
	not  []string
}

// run writes the rows, and prints them and what was left out.
func (f *importFlags) run(ctx context.Context, api *client.Client, stdout io.Writer) error {
	files, err := descriptors.ReadDir(f.Dir)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("the directory %s holds no file", f.Dir)
	}
	in := f.translate(descriptors.Update(nil, files))
	if !f.DryRun {
		if err := in.write(ctx, api); err != nil {
			return err
		}
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
	in := &imported{}
	for src := range set.Sources() {
		if src.Err != nil {
			in.not = append(in.not, strings.Split(src.Err.Error(), "\n")...)
			continue
		}
		var path [][2]string
		src.Domain.Walk(func(depth int, key, value string, r *descriptors.Rule) {
			path = append(path[:depth], [2]string{key, value})
			if r == nil {
				return
			}
			row, reason := f.row(src.Domain.Name(), path, r)
			if reason != "" {
				in.not = append(in.not, fmt.Sprintf("%s: %s (%s): %s", src.Name, shown(r.Key()), ruleText(r), reason))
				return
			}
			in.rows = append(in.rows, row)
		})
	}
	return in
}

// row makes the row of one limit, or tells why there is none.
func (f *importFlags) row(domain string, path [][2]string, r *descriptors.Rule) (row limits.Row, reason string) {
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
			return row, fmt.Sprintf("the entry %s=%s is neither gateway nor endpoint, nor the only key each value of which has the limit", shown(key), shown(entry[1]))
		}
	}
	if k.Gateway == "" {
		return row, "it names no gateway (" + strings.Join(f.GatewayKeys, ", ") + ")"
	}
	if reason := f.untranslatable(r); reason != "" {
		return row, reason
	}
	number := int64(r.RequestsPerUnit)
	l := limits.Limit{Key: k, MaxTPS: number, Enabled: true, Shadow: r.Shadow, Note: r.Name}
	if err := l.Validate(); err != nil {
		return row, strings.ReplaceAll(err.Error(), "\n", "; ")
	}
	enabled := true
	return limits.Row{Domain: k.Domain, Gateway: k.Gateway, Endpoint: &k.Endpoint, Per: &k.Per, MaxTPS: &number, Enabled: &enabled, Shadow: &l.Shadow, Note: &l.Note}, ""
}

// untranslatable tells what rows have no word for.
func (f *importFlags) untranslatable(r *descriptors.Rule) string {
	switch {
	case r.Unlimited:
		return "it is unlimited: without a row there is no limit but TPS_DEFAULT_MAX_TPS"
	case r.Seconds != 1:
		return fmt.Sprintf("it does not count per second; `ratelimitd limits set --per-seconds %d --algorithm fixed_window` makes a row of that window", r.Seconds)
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
