// Package client talks to the HTTP API of a running ratelimitd, for its own command line.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/certs"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Client calls one server.
type Client struct {
	base  string
	token string
	http  http.Client
}

// New returns a Client of a server such as http://localhost:8080. token may be empty.
func New(server, token string) *Client {
	if !strings.Contains(server, "://") {
		server = "http://" + server
	}
	const longestHold = 30 * time.Minute // of a decision
	return &Client{base: strings.TrimRight(server, "/"), token: token, http: http.Client{
		Timeout: longestHold + 5*time.Minute,
		// A redirect makes a GET of PUT and DELETE, whose answer would look like a success.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// UseTLS names PEM files for an https server: the authority of its certificate (empty = those of the
// system), and a certificate and key to show (both empty = none). Errors name the file.
func (c *Client) UseTLS(ca, cert, key string) error {
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	cfg, err := certs.Client(ca, cert, key)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = cfg
	c.http.Transport = transport
	return nil
}

// ListLimits returns every row, sorted by key.
func (c *Client) ListLimits(ctx context.Context) ([]limits.Row, error) {
	var out struct {
		Limits []limits.Row `json:"limits"`
	}
	err := c.call(ctx, http.MethodGet, "/api/v1/limits", nil, &out)
	if err == nil && out.Limits == nil {
		err = fmt.Errorf("reading the answer of %s: it holds no limits", c.base+"/api/v1/limits")
	}
	return out.Limits, err
}

// PutLimit writes one whole row and returns it as stored.
func (c *Client) PutLimit(ctx context.Context, row limits.Row) (limits.Row, error) {
	var out limits.Row
	body, err := json.Marshal(row)
	if err != nil {
		return out, fmt.Errorf("encoding the limit: %w", err)
	}
	err = c.call(ctx, http.MethodPut, "/api/v1/limits", body, &out)
	if err == nil && out.Gateway != row.Gateway {
		err = fmt.Errorf("reading the answer of %s: it is not the limit that was sent", c.base+"/api/v1/limits")
	}
	return out, err
}

// DeleteLimit removes the row of exactly this key.
func (c *Client) DeleteLimit(ctx context.Context, key limits.Key) error {
	q := url.Values{"domain": {key.Domain}, "gateway": {key.Gateway}, "endpoint": {key.Endpoint}, "per": {key.Per}, "per_seconds": {strconv.FormatInt(key.Seconds(), 10)}}
	return c.call(ctx, http.MethodDelete, "/api/v1/limits?"+q.Encode(), nil, nil)
}

// Decision is the answer to Check.
type Decision struct {
	Allowed bool
	Body    json.RawMessage // RateLimitResponse as proto3 JSON
}

// Check asks for a decision on a RateLimitRequest in proto3 JSON.
func (c *Client) Check(ctx context.Context, request []byte) (Decision, error) {
	a, err := c.do(ctx, http.MethodPost, "/json", request)
	if err != nil {
		return Decision{}, err
	}
	if a.code != http.StatusOK && a.code != http.StatusTooManyRequests {
		return Decision{}, a.refused()
	}
	return Decision{Allowed: a.code == http.StatusOK, Body: a.body}, nil
}

// Explain asks how a RateLimitRequest in proto3 JSON would be decided, and returns the answer of
// POST /api/v1/explain.
func (c *Client) Explain(ctx context.Context, request []byte) (json.RawMessage, error) {
	var body json.RawMessage
	err := c.call(ctx, http.MethodPost, "/api/v1/explain", request, &body)
	return body, err
}

// call reads the answer into out; where that is nil, the answer must have no content.
func (c *Client) call(ctx context.Context, method, path string, in []byte, out any) error {
	a, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	want := http.StatusOK
	if out == nil {
		want = http.StatusNoContent
	}
	if a.code != want {
		return a.refused()
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(a.body, out); err != nil {
		return fmt.Errorf("reading the answer of %s %s: %w", method, c.base+path, err)
	}
	return nil
}

// answer is what a server has sent.
type answer struct {
	code     int
	body     []byte
	location string // where a redirect points
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 30

func (c *Client) do(ctx context.Context, method, path string, in []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(in))
	if err != nil {
		return answer{}, fmt.Errorf("preparing %s %s: %w", method, c.base+path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return answer{}, fmt.Errorf("reading the answer of %s %s: %w", method, c.base+path, err)
	}
	return answer{resp.StatusCode, body, resp.Header.Get("Location")}, nil
}

// refused turns an answer that was not wanted into an error.
func (a answer) refused() error {
	said := strings.TrimSpace(fmt.Sprintf("the server answered %d %s", a.code, http.StatusText(a.code)))
	var p struct {
		Detail string `json:"detail"`
	}
	switch err := json.Unmarshal(a.body, &p); {
	case err == nil && p.Detail != "":
		return fmt.Errorf("%s: %s", said, p.Detail)
	case a.location != "":
		return fmt.Errorf("%s: it points to %s", said, a.location)
	case a.code < http.StatusBadRequest:
		return fmt.Errorf("%s, as ratelimitd never does here", said)
	}
	return errors.New(said)
}
