package collector

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// Config says where the collector is.
type Config struct {
	URL     string        // http(s)://host:port, and a prefix of the path where a proxy wants one
	Token   string        // one with the role write; empty = none
	Timeout time.Duration // of one request with its answer; 0 = 30 s
}

const (
	defaultTimeout = 30 * time.Second
	// mostBody is how long a body may be as it is sent, in bytes; the other side takes no more.
	mostBody = 1 << 20
	// mostTransactions the other side takes at once.
	mostTransactions = 10_000
)

// Client sends batches. Write may be called by any number of goroutines.
type Client struct {
	endpoint url.URL // without a query
	token    string
	http     http.Client
	zips     sync.Pool // *gzip.Writer: each is a megabyte
}

// New returns a Client that has connected to nothing yet. Errors do not repeat the URL, which may hold
// a password, nor the token.
func New(cfg Config) (*Client, error) {
	endpoint, err := parseURL(cfg.URL)
	if err != nil {
		return nil, err
	}
	if strings.ContainsFunc(cfg.Token, func(c rune) bool { return c < ' ' || c > '~' }) {
		return nil, errors.New("the token has characters that fit in no header")
	}
	if cfg.Timeout < 0 {
		return nil, fmt.Errorf("the timeout %s is below 0", cfg.Timeout)
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// Only with HTTP/1 a connection of which nothing comes any more ends with its request.
	transport.Protocols = new(http.Protocols)
	transport.Protocols.SetHTTP1(true)
	return &Client{endpoint: *endpoint, token: cfg.Token, zips: sync.Pool{New: newZip}, http: http.Client{
		Transport: transport, Timeout: cfg.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

func parseURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, errors.New("is no URL such as https://central:8080") // what url says may repeat a password
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https", u.Hostname() == "":
		return nil, errors.New("is not http(s)://host:port")
	case u.User != nil:
		return nil, errors.New("has a user or password; it takes a token instead")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, errors.New("has a query or fragment")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("has the port %q, which is not within 1 to 65535", port)
		}
	}
	return u.JoinPath("/api/v1/transactions"), nil
}

// Write sends a batch and returns, once it is stored, how many of its transactions were not there
// before: the last ones. A [*traffic.RefusedError] says that the other side will never take the batch
// as it is; after any other error it may be sent again. A batch that is too large for one request
// goes in two: after an error the first of them may be stored.
func (c *Client) Write(ctx context.Context, b traffic.Batch) (fresh int, err error) {
	switch n := len(b.Transactions); {
	case n == 0:
		return 0, nil
	case n > mostTransactions:
		return c.writeHalves(ctx, b)
	}
	body := c.encode(b.Transactions)
	if len(body) > mostBody && len(b.Transactions) > 1 {
		return c.writeHalves(ctx, b)
	}
	fresh, err = c.send(ctx, &b, body)
	if err != nil {
		c.http.CloseIdleConnections() // to look the address up again: there may be another by now
		return 0, fmt.Errorf("sending %d transactions to the collector %s: %w", len(b.Transactions), c.endpoint.Host, err)
	}
	return fresh, nil
}

func (c *Client) writeHalves(ctx context.Context, b traffic.Batch) (fresh int, err error) {
	first := b
	first.Transactions = b.Transactions[:len(b.Transactions)/2]
	for _, half := range [2]traffic.Batch{first, b.From(first.Next())} {
		n, err := c.Write(ctx, half)
		if err != nil {
			return 0, err
		}
		fresh += n
	}
	return fresh, nil
}

func (c *Client) send(ctx context.Context, b *traffic.Batch, body []byte) (fresh int, err error) {
	to := c.endpoint
	to.RawQuery = url.Values{"server": {b.Server}, "run": {b.Run}, "first": {strconv.FormatInt(b.First, 10)}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("Content-Encoding", "gzip")
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if whole, ok := errors.AsType[*url.Error](err); ok {
			err = whole.Err // the caller names the address
		}
		return 0, err
	}
	defer resp.Body.Close()
	const mostAnswer = 1 << 16
	answer, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer))
	if err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	return read(resp, answer, len(b.Transactions))
}

// read finds in an answer how many of n transactions were new.
func read(resp *http.Response, answer []byte, n int) (fresh int, err error) {
	if resp.StatusCode != http.StatusOK {
		return 0, refusal(resp, answer)
	}
	var a struct {
		Accepted *int `json:"accepted"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return 0, fmt.Errorf("reading the answer: %w", err)
	}
	if a.Accepted == nil || *a.Accepted < 0 || *a.Accepted > n {
		return 0, fmt.Errorf("the answer is not that of a ratelimitd: %s", cut(string(answer)))
	}
	return *a.Accepted, nil
}

// refusal says why the batch was not taken, as the other side or a proxy before it tells.
func refusal(resp *http.Response, answer []byte) error {
	said := strings.TrimSpace(fmt.Sprintf("it answered %d %s", resp.StatusCode, http.StatusText(resp.StatusCode)))
	var p struct {
		Detail string `json:"detail"`
	}
	err := errors.New(said)
	switch location := resp.Header.Get("Location"); {
	case json.Unmarshal(answer, &p) == nil && p.Detail != "":
		err = fmt.Errorf("%s: %s", said, cut(p.Detail))
	case location != "":
		err = fmt.Errorf("%s: it points to %s, which is not followed", said, cut(location))
	}
	switch resp.StatusCode {
	case http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnprocessableEntity:
		return &traffic.RefusedError{Err: err}
	}
	return err
}

// cut is what others say, in the length of a line.
func cut(s string) string {
	const longest = 300
	if len(s) <= longest {
		return s
	}
	end := longest
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

// encode returns NDJSON in gzip. It is not to be written over: a request may be read for a while after
// its answer.
func (c *Client) encode(ts []traffic.Transaction) []byte {
	var body bytes.Buffer // which takes all, so that nothing below can fail
	z := c.zips.Get().(*gzip.Writer)
	defer c.zips.Put(z)
	z.Reset(&body)
	const chunk, longestRow = 32 << 10, 2 << 10
	lines := make([]byte, 0, chunk+longestRow)
	for i := range ts {
		if lines = append(traffic.AppendJSON(lines, &ts[i]), '\n'); len(lines) >= chunk {
			_, _ = z.Write(lines)
			lines = lines[:0]
		}
	}
	_, _ = z.Write(lines)
	_ = z.Close()
	return body.Bytes()
}

func newZip() any {
	z, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // a level that there is
	return z
}
