// Package client talks to the HTTP API of a running ratelimitd, for its own command line.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

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
	return &Client{base: strings.TrimRight(server, "/"), token: token, http: http.Client{Timeout: 35 * time.Minute}}
}

// UseTLS names PEM files for an https server: the authority of its certificate (empty = those of the
// system), and a certificate and key to show (both empty = none). Errors name the file.
func (c *Client) UseTLS(ca, cert, key string) error {
	if ca == "" && cert == "" && key == "" {
		return nil
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if ca != "" {
		body, err := os.ReadFile(ca) //nolint:gosec // the operator names the file
		if err != nil {
			return fmt.Errorf("reading the authority: %w", err)
		}
		if cfg.RootCAs = x509.NewCertPool(); !cfg.RootCAs.AppendCertsFromPEM(body) {
			return fmt.Errorf("reading the authority: %s holds no certificate", ca)
		}
	}
	if cert != "" || key != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("reading the client certificate %q and key %q: %w", cert, key, err)
		}
		cfg.Certificates = []tls.Certificate{pair}
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
	return out, err
}

// DeleteLimit removes the row of exactly this key.
func (c *Client) DeleteLimit(ctx context.Context, key limits.Key) error {
	q := url.Values{"domain": {key.Domain}, "gateway": {key.Gateway}, "endpoint": {key.Endpoint}, "per": {key.Per}}
	return c.call(ctx, http.MethodDelete, "/api/v1/limits?"+q.Encode(), nil, nil)
}

// Decision is the answer to Check.
type Decision struct {
	Allowed bool
	Body    json.RawMessage // RateLimitResponse as proto3 JSON
}

// Check asks for a decision on a RateLimitRequest in proto3 JSON.
func (c *Client) Check(ctx context.Context, request []byte) (Decision, error) {
	code, body, err := c.do(ctx, http.MethodPost, "/json", request)
	if err != nil {
		return Decision{}, err
	}
	if code != http.StatusOK && code != http.StatusTooManyRequests {
		return Decision{}, refused(code, body)
	}
	return Decision{Allowed: code == http.StatusOK, Body: body}, nil
}

func (c *Client) call(ctx context.Context, method, path string, in []byte, out any) error {
	code, body, err := c.do(ctx, method, path, in)
	if err != nil {
		return err
	}
	if code >= 300 {
		return refused(code, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("reading the answer of %s %s: %w", method, c.base+path, err)
	}
	return nil
}

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 30

func (c *Client) do(ctx context.Context, method, path string, in []byte) (code int, body []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(in))
	if err != nil {
		return 0, nil, fmt.Errorf("preparing %s %s: %w", method, c.base+path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return 0, nil, fmt.Errorf("reading the answer of %s %s: %w", method, c.base+path, err)
	}
	return resp.StatusCode, body, nil
}

// refused turns a problem into an error.
func refused(code int, body []byte) error {
	var p struct {
		Detail string `json:"detail"`
	}
	if err := json.Unmarshal(body, &p); err != nil || p.Detail == "" {
		return fmt.Errorf("the server answered %d %s", code, http.StatusText(code))
	}
	return fmt.Errorf("the server answered %d %s: %s", code, http.StatusText(code), p.Detail)
}
