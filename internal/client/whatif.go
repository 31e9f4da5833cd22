package client

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// WhatIf is what a limit would have done.
type WhatIf struct {
	Offered      int64          `json:"offered"`
	Refused      Range[int64]   `json:"refused"`
	RefusedShare Range[float64] `json:"refused_share"` // 0 to 1
	Held         int64          `json:"held"`
	WorstMinutes []WorstMinute  `json:"worst_minutes"` // the worst first
	Source       string         `json:"source"`        // memory or postgres
	ErrorBound   string         `json:"error_bound"`   // what the numbers are worth
	Sentence     string         `json:"sentence"`      // all of it in short
}

// Range is a number of which only bounds are known.
type Range[T int64 | float64] struct {
	Least    T `json:"least"`
	Estimate T `json:"estimate"`
	Most     T `json:"most"`
}

// WorstMinute is a minute in which much would have been refused.
type WorstMinute struct {
	At      time.Time `json:"at"`
	Offered int64     `json:"offered"`
	Refused int64     `json:"refused"`
	Share   float64   `json:"share"`
}

// WhatIf asks what a limit would have done in a time up to now; 0 is what the server takes. The
// limit is not written. The error is an [UnknownError] where the server is too old.
func (c *Client) WhatIf(ctx context.Context, row limits.Row, span time.Duration) (WhatIf, error) {
	question := struct {
		Limit limits.Row `json:"limit"`
		Range string     `json:"range,omitempty"`
	}{Limit: row}
	if span > 0 {
		question.Range = span.String()
	}
	var out WhatIf
	body, err := json.Marshal(question)
	if err != nil {
		return out, fmt.Errorf("encoding the limit: %w", err)
	}
	const path = "/api/v1/whatif"
	err = c.ask(ctx, http.MethodPost, path, body, &out)
	if err == nil && out.Sentence == "" {
		err = fmt.Errorf("reading the answer of %s: it tells nothing", c.base+path)
	}
	return out, err
}
