package client

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// Upload is a part of what somebody has measured.
type Upload struct {
	Lines     []byte // NDJSON: transactions, or lines of Envoy's access log
	AccessLog bool   // they are the latter
	Key       string // idempotency key: what was sent with it before is not taken again; empty = none
}

// Taken says what a server has made of an Upload.
type Taken struct {
	Accepted  int  `json:"accepted"`
	Duplicate bool `json:"duplicate"` // all of it was there before
	// Of an access log also:
	Ignored   int      `json:"ignored"` // lines of no finished request
	Malformed int      `json:"malformed"`
	Errors    []string `json:"errors"` // of the first that are malformed: "line 7: …", by their place in Lines
}

// TemporaryError says that the same request may go well later.
type TemporaryError struct {
	Err   error
	After time.Duration // how long the server asks to wait; 0 = it does not say
}

func (e *TemporaryError) Error() string { return e.Err.Error() }

// Unwrap returns what went wrong.
func (e *TemporaryError) Unwrap() error { return e.Err }

const transactionsPath = "/api/v1/transactions"

// SendTransactions brings an upload to the server. The error is a [TemporaryError] where there was no
// answer, or one that may be different later, and an [UnknownError] where the server is too old.
func (c *Client) SendTransactions(ctx context.Context, u Upload) (Taken, error) {
	path := transactionsPath
	if u.AccessLog {
		path += "?format=access-log"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+path, bytes.NewReader(packed(u.Lines)))
	if err != nil {
		return Taken{}, fmt.Errorf("preparing POST %s: %w", c.base+path, err)
	}
	for name, value := range map[string]string{"Content-Type": "application/x-ndjson", "Content-Encoding": "gzip", "Idempotency-Key": u.Key} {
		if value != "" {
			req.Header.Set(name, value)
		}
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return Taken{}, &TemporaryError{Err: err}
	}
	defer resp.Body.Close()
	return c.taken(resp)
}

func packed(lines []byte) []byte {
	var b bytes.Buffer // which takes all, so that nothing below can fail
	z := gzip.NewWriter(&b)
	_, _ = z.Write(lines)
	_ = z.Close()
	return b.Bytes()
}

func (c *Client) taken(resp *http.Response) (Taken, error) {
	const most = 1 << 20
	body, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return Taken{}, &TemporaryError{Err: fmt.Errorf("reading the answer of POST %s: %w", c.base+transactionsPath, err)}
	}
	a := answer{resp.StatusCode, body, resp.Header.Get("Location")}
	switch {
	case missing(a.code):
		return Taken{}, &UnknownError{c.base, "POST " + transactionsPath}
	case mayChange(a.code):
		seconds, _ := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16) // where it is a date, 0
		return Taken{}, &TemporaryError{a.refused(), time.Duration(seconds) * time.Second}
	case a.code != http.StatusOK:
		return Taken{}, a.refused()
	}
	var t struct {
		*Taken
		Accepted *int `json:"accepted"`
	}
	t.Taken = new(Taken)
	if err := json.Unmarshal(a.body, &t); err != nil {
		return Taken{}, fmt.Errorf("reading the answer of POST %s: %w", c.base+transactionsPath, err)
	}
	if t.Accepted == nil {
		return Taken{}, errors.New("reading the answer of POST " + c.base + transactionsPath + ": it does not say what was accepted")
	}
	t.Taken.Accepted = *t.Accepted
	return *t.Taken, nil
}

// mayChange tells of codes that are about this moment, here or at a proxy on the way.
func mayChange(code int) bool {
	return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout
}
