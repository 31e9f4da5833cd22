package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Figures are what a server has measured of something in a window of time.
type Figures struct {
	TPS         int64    `json:"tps"` // in the last second that is over
	AverageTPS  float64  `json:"average_tps"`
	P50MS       *float64 `json:"p50_ms"` // nil = no transaction but throttled ones, here and below
	P95MS       *float64 `json:"p95_ms"`
	P99MS       *float64 `json:"p99_ms"`
	Requests    int64    `json:"requests"`
	Successes   int64    `json:"successes"`
	SuccessRate *float64 `json:"success_rate"` // 0 to 1; nil = no requests
	Throttled   int64    `json:"throttled"`
	Held        int64    `json:"held"`
	WaitedMS    int64    `json:"waited_ms"`
}

// NamedFigures are the figures of one endpoint of one gateway of one domain, or those of the whole
// gateway, where Endpoint is empty as it is for transactions that name none.
type NamedFigures struct {
	Domain   string `json:"domain"`
	Gateway  string `json:"gateway"`
	Endpoint string `json:"endpoint"`
	PeakTPS  int64  `json:"peak_tps"` // in the busiest second
	Figures
}

// Stats are the figures of a window of time.
type Stats struct {
	From      time.Time      `json:"from"`
	To        time.Time      `json:"to"`
	Source    string         `json:"source"` // memory or postgres
	Total     Figures        `json:"total"`
	Gateways  []NamedFigures `json:"gateways"`
	Endpoints []NamedFigures `json:"endpoints"`
}

// StatsQuery is what figures are wanted of.
type StatsQuery struct {
	Window                    time.Duration // up to now; 0 = a minute
	Domain, Gateway, Endpoint string        // exact names; empty = all
}

func (q StatsQuery) encode() string {
	if q.Window == 0 {
		q.Window = time.Minute
	}
	v := url.Values{"window": {q.Window.String()}}
	for name, value := range map[string]string{"domain": q.Domain, "gateway": q.Gateway, "endpoint": q.Endpoint} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v.Encode()
}

// UnknownError says that a server does not know what it was asked for.
type UnknownError struct{ Server, What string }

func (e *UnknownError) Error() string {
	return fmt.Sprintf("%s has no %s: it is an older ratelimitd, or something else", e.Server, e.What)
}

const statsPath = "/api/v1/stats"

// Stats asks for the figures once. The error is an [UnknownError] where the server is too old.
func (c *Client) Stats(ctx context.Context, q StatsQuery) (Stats, error) {
	var out Stats
	if err := c.ask(ctx, http.MethodGet, statsPath+"?"+q.encode(), nil, &out); err != nil {
		return out, err
	}
	if out.Source == "" { // an older server passes over the query, and shows what it has counted since its start
		return out, &UnknownError{c.base, "figures of a window at " + statsPath}
	}
	return out, nil
}

// ask is call for what older servers do not have.
func (c *Client) ask(ctx context.Context, method, path string, in []byte, out any) error {
	a, err := c.do(ctx, method, path, in)
	path, _, _ = strings.Cut(path, "?")
	switch {
	case err != nil:
		return err
	case missing(a.code):
		return &UnknownError{c.base, method + " " + path}
	case a.code != http.StatusOK:
		return a.refused()
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("reading the answer of %s %s: %w", method, c.base+path, err)
	}
	return nil
}

// missing are the answers of a server without the path.
func missing(code int) bool {
	return code == http.StatusNotFound || code == http.StatusMethodNotAllowed || code == http.StatusNotImplemented
}

// ErrNoStream says that a server, or a proxy on the way to it, gives no stream, but may answer
// [Client.Stats].
var ErrNoStream = errors.New("there is no stream of figures")

// errSilent ends a stream of which nothing comes any more.
var errSilent = errors.New("the stream of figures has stopped")

// patience is how long a stream may be silent: the server sends an event every second.
const patience = 10 * time.Second

// StreamStats calls each with the figures of every second. It ends with ctx, as nil, or with the
// stream, as an error: [ErrNoStream] where there is none, else what broke it.
func (c *Client) StreamStats(ctx context.Context, q StatsQuery, each func(Stats)) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	silence := time.AfterFunc(patience, func() { stop(errSilent) })
	defer silence.Stop()
	err := c.stream(reading, q, func(s Stats) {
		silence.Reset(patience)
		each(s)
	})
	switch {
	case ctx.Err() != nil:
		return nil
	case errors.Is(context.Cause(reading), errSilent):
		return errSilent
	}
	return err
}

func (c *Client) stream(ctx context.Context, q StatsQuery, each func(Stats)) error {
	resp, err := c.open(ctx, statsPath+"/stream?"+q.encode())
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // what is no type is not the one that is wanted
	switch {
	case missing(resp.StatusCode), resp.StatusCode == http.StatusServiceUnavailable, resp.StatusCode == http.StatusOK && kind != "text/event-stream":
		return ErrNoStream
	case resp.StatusCode != http.StatusOK:
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<16)) // the code says enough
		return answer{resp.StatusCode, body, resp.Header.Get("Location")}.refused()
	}
	return readEvents(resp.Body, each)
}

// open begins a GET whose answer has no end, and so none of the bounds of time of other calls.
func (c *Client) open(ctx context.Context, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, http.NoBody)
	if err != nil {
		return nil, fmt.Errorf("preparing GET %s: %w", c.base+path, err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	endless := c.http
	endless.Timeout = 0
	return endless.Do(req)
}

// readEvents reads Server-Sent Events as this server writes them: each has one line of data.
// (https://html.spec.whatwg.org/multipage/server-sent-events.html)
func readEvents(r io.Reader, each func(Stats)) error {
	const longest = 64 << 20 // 10,000 endpoints take 5 MB
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longest)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue
		}
		var s Stats
		if err := json.Unmarshal(data, &s); err != nil {
			return fmt.Errorf("reading an event: %w", err)
		}
		each(s)
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading the stream of figures: %w", err)
	}
	return fmt.Errorf("reading the stream of figures: %w", io.ErrUnexpectedEOF)
}
