package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/tps-agent/ratelimitd/internal/client"
)

// explained is what POST /api/v1/explain answers, as far as the table shows it.
type explained struct {
	OverallCode string `json:"overall_code"`
	WouldWaitMS *int64 `json:"would_wait_ms"`
	Descriptors []struct {
		Limits []struct {
			Limit    string `json:"limit"`
			Level    string `json:"level"`
			Value    string `json:"value"`
			State    string `json:"state"`
			Decided  bool   `json:"decided"`
			Refuses  bool   `json:"refuses"`
			Before   int64  `json:"before"`
			After    int64  `json:"after"`
			Capacity int64  `json:"capacity"`
			Queued   int64  `json:"queued"`
			WaitMS   *int64 `json:"wait_ms"`
		} `json:"limits"`
	} `json:"descriptors"`
}

// explain prints what applies to the request. It ends with status 1 where the answer would be
// OVER_LIMIT, as without --explain.
func (c *checkCmd) explain(ctx context.Context, api *client.Client, request []byte, stdout io.Writer) error {
	body, err := api.Explain(ctx, request)
	if err != nil {
		return err
	}
	var x explained
	if err := json.Unmarshal(body, &x); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if c.Output == "json" {
		err = printIndented(stdout, body)
	} else {
		err = x.print(stdout)
	}
	if err == nil && x.OverallCode != "OK" {
		return errRefused
	}
	return err
}

func (x *explained) print(w io.Writer) error {
	fmt.Fprint(w, x.OverallCode)
	if x.WouldWaitMS != nil {
		fmt.Fprintf(w, ", but it would wait for its turn, at least %d ms", *x.WouldWaitMS)
	}
	fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "LIMIT\tLEVEL\tVALUE\tSTATE\tBEFORE\tAFTER\tCAPACITY\tQUEUED\tROOM IN\tDECIDES")
	rows := 0
	for _, d := range x.Descriptors {
		for _, l := range d.Limits {
			room, decides := "now", ""
			if l.Refuses {
				room = "never"
			}
			if l.Refuses && l.WaitMS != nil {
				room = fmt.Sprintf("%d ms", *l.WaitMS)
			}
			if l.Decided {
				decides = "yes"
			}
			if l.State == "disabled" {
				room = "-"
			}
			rows++
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%d\t%d\t%d\t%s\t%s\n", l.Limit, l.Level, l.Value, l.State, l.Before, l.After, l.Capacity, l.Queued, room, decides)
		}
	}
	if rows == 0 {
		_, err := fmt.Fprintln(w, "no limit applies")
		return err
	}
	return t.Flush()
}
