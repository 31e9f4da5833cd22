package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// remote are the flags of commands that call a running server.
type remote struct {
	Server string `default:"http://localhost:8080" help:"HTTP address of the server (TPS_HTTP_ADDR there). The token of the API comes from the variable TPS_API_TOKEN."`
	CA     string `name:"ca" help:"PEM file of the authority of an https server; absent = those of the system."`
	Cert   string `help:"PEM file of a client certificate, where the server has TPS_TLS_CLIENT_CA."`
	Key    string `help:"PEM file of its key."`
}

func (r *remote) client(env []string) (*client.Client, error) {
	token := ""
	for _, pair := range env {
		if value, ok := strings.CutPrefix(pair, tokenVariable+"="); ok {
			token = value
		}
	}
	c := client.New(r.Server, token)
	if err := c.UseTLS(r.CA, r.Cert, r.Key); err != nil {
		return nil, err
	}
	return c, nil
}

// limitsCmd are the commands on limits.
type limitsCmd struct {
	List struct {
		remote
		Output string `short:"o" enum:"table,json" default:"table" help:"table or json."`
	} `cmd:"" help:"Print every limit."`
	Set struct {
		remote
		keyFlags
		MaxTPS    int64  `name:"max-tps" default:"1000" help:"Transactions per second, or per window where there is --per-seconds; 0 refuses everything."`
		Algorithm string `default:"token_bucket" help:"token_bucket, fixed_window or sliding_window."`
		Burst     *int64 `help:"Capacity of a token bucket; absent = a tenth of a second, at least 10 (or max-tps, if that is less), and max-tps for a longer window."`
		MaxWaitMS int64  `name:"max-wait-ms" help:"A request without room may wait this long for its turn."`
		Shadow    bool   `help:"Decide and count, but never refuse or hold."`
		Disabled  bool   `help:"Keep the row, but limit nothing."`
		Note      string `help:"Free text."`
		whatIfFlags
	} `cmd:"" help:"Write one whole limit: what is not said takes its default."`
	Delete struct {
		remote
		keyFlags
	} `cmd:"" help:"Delete the limit of exactly this key."`
	Import importFlags `cmd:"" help:"Make rows of the gateway and endpoint limits per second of descriptor files, and say what cannot be one."`
}

// keyFlags name a row.
type keyFlags struct {
	Domain   string `help:"Domain; empty = every domain."`
	Gateway  string `required:"" help:"Gateway; * stands for any bytes."`
	Endpoint string `help:"Endpoint; empty = the gateway as a whole."`
	Per      string `help:"Descriptor key each value of which is limited by itself."`

	PerSeconds int64 `name:"per-seconds" default:"1" help:"Length of the window: limits of several windows apply side by side."`
}

func (k *keyFlags) key() limits.Key {
	return limits.Key{Domain: k.Domain, Gateway: k.Gateway, Endpoint: k.Endpoint, Per: k.Per, PerSeconds: k.PerSeconds}
}

func (c *limitsCmd) run(ctx context.Context, command string, env []string, stdout io.Writer) error {
	remotes := map[string]*remote{"list": &c.List.remote, "set": &c.Set.remote, "delete": &c.Delete.remote, "import": &c.Import.remote}
	api, err := remotes[command].client(env)
	if err != nil {
		return err
	}
	switch command {
	case "set":
		return c.set(ctx, api, stdout)
	case "import":
		return c.Import.run(ctx, api, stdout)
	case "delete":
		if err := api.DeleteLimit(ctx, c.Delete.key()); err != nil {
			return err
		}
		_, err := fmt.Fprintln(stdout, "deleted", c.Delete.key())
		return err
	}
	rows, err := api.ListLimits(ctx)
	if err != nil {
		return err
	}
	if c.List.Output == "json" {
		return printJSON(stdout, map[string]any{"limits": rows})
	}
	return printRows(stdout, rows)
}

// set writes the limit, or tells what it would do.
func (c *limitsCmd) set(ctx context.Context, api *client.Client, stdout io.Writer) error {
	enabled := !c.Set.Disabled
	k := c.Set.key()
	row := limits.Row{
		Domain: k.Domain, Gateway: k.Gateway, Endpoint: &k.Endpoint, Per: &k.Per, PerSeconds: &k.PerSeconds, Algorithm: &c.Set.Algorithm, MaxTPS: &c.Set.MaxTPS, Enabled: &enabled,
		Burst: c.Set.Burst, MaxWaitMS: &c.Set.MaxWaitMS, Shadow: &c.Set.Shadow, Note: &c.Set.Note,
	}
	switch {
	case c.Set.WhatIf:
		return c.Set.ask(ctx, api, row, stdout)
	case c.Set.Range != "": // nothing was to be written, it seems
		return errors.New("--range goes with --what-if")
	}
	stored, err := api.PutLimit(ctx, row)
	if err != nil {
		return err
	}
	return printRows(stdout, []limits.Row{stored})
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printIndented prints JSON as a server has sent it.
func printIndented(w io.Writer, body []byte) error {
	var b bytes.Buffer
	if err := json.Indent(&b, body, "", "  "); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, strings.TrimSpace(b.String()))
	return err
}

func printRows(w io.Writer, rows []limits.Row) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "DOMAIN\tGATEWAY\tENDPOINT\tPER\tMAX_TPS\tPER_SECONDS\tALGORITHM\tBURST\tMAX_WAIT_MS\tENABLED\tSHADOW\tVERSION\tNOTE")
	for _, r := range rows {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", r.Domain, r.Gateway, show(r.Endpoint), show(r.Per),
			show(r.MaxTPS), show(r.PerSeconds), show(r.Algorithm), show(r.Burst), show(r.MaxWaitMS), show(r.Enabled), show(r.Shadow), r.Version, oneLine(r.Note))
	}
	return t.Flush()
}

// oneLine keeps a note in its cell: it may hold line ends, tabs and what a terminal obeys.
func oneLine(note *string) string {
	text := show(note)
	if strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return strconv.Quote(text)
	}
	return text
}

func show[T any](p *T) string {
	if p == nil {
		return "-"
	}
	return fmt.Sprint(*p)
}

// checkCmd asks for one decision.
type checkCmd struct {
	remote
	Domain  string   `default:"edge" help:"Domain of the request, as Envoy's filter has it."`
	Explain bool     `help:"List every limit that matches, its bucket before and after, and which one decides. Charges nothing."`
	Hits    *uint64  `help:"hits_addend of the descriptor; 0 = check only, charges nothing."`
	Output  string   `short:"o" enum:"text,json" default:"text" help:"text or json."`
	Entries []string `arg:"" help:"Entries of the descriptor as key=value, such as gateway=shop endpoint=pay."`
}

// errRefused makes check end with status 1 where the answer is OVER_LIMIT.
var errRefused = errors.New("over limit")

func (c *checkCmd) run(ctx context.Context, env []string, stdout io.Writer) error {
	request, err := c.request()
	if err != nil {
		return err
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	if c.Explain {
		return c.explain(ctx, api, request, stdout)
	}
	d, err := api.Check(ctx, request)
	if err != nil {
		return err
	}
	if err := c.print(stdout, d); err != nil {
		return err
	}
	if !d.Allowed {
		return errRefused
	}
	return nil
}

func (c *checkCmd) request() ([]byte, error) {
	type entry struct {
		Key   string `json:"key"`
		Value string `json:"value"`
	}
	descriptor := map[string]any{}
	var entries []entry
	for _, e := range c.Entries {
		key, value, ok := strings.Cut(e, "=")
		if !ok {
			return nil, fmt.Errorf("entry %q: is not key=value", e)
		}
		entries = append(entries, entry{key, value})
	}
	descriptor["entries"] = entries
	if c.Hits != nil {
		descriptor["hitsAddend"] = *c.Hits
	}
	return json.Marshal(map[string]any{"domain": c.Domain, "descriptors": []any{descriptor}})
}

func (c *checkCmd) print(w io.Writer, d client.Decision) error {
	if c.Output == "json" {
		return printIndented(w, d.Body)
	}
	var answer struct {
		OverallCode string `json:"overallCode"`
		Statuses    []struct {
			CurrentLimit *struct {
				Name            string `json:"name"`
				RequestsPerUnit uint32 `json:"requestsPerUnit"`
				Unit            string `json:"unit"`
			} `json:"currentLimit"`
			LimitRemaining     uint32 `json:"limitRemaining"`
			DurationUntilReset string `json:"durationUntilReset"`
		} `json:"statuses"`
	}
	if err := json.Unmarshal(d.Body, &answer); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	fmt.Fprintln(w, answer.OverallCode)
	for _, s := range answer.Statuses {
		if s.CurrentLimit == nil {
			fmt.Fprintln(w, "no limit applies")
			continue
		}
		reset := "this can never pass"
		if s.DurationUntilReset != "" {
			reset = "reset in " + s.DurationUntilReset
		}
		unit := strings.ToLower(s.CurrentLimit.Unit)
		if unit == "unknown" || unit == "" {
			unit = "window" // whose length the name tells
		}
		fmt.Fprintf(w, "limit %s: %d per %s, %d remaining, %s\n", s.CurrentLimit.Name, s.CurrentLimit.RequestsPerUnit, unit, s.LimitRemaining, reset)
	}
	return nil
}
