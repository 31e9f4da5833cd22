// Package httpjson is what every handler of the HTTP port does alike: it reads a body that is not
// too long and arrives in time, and answers with JSON, errors as RFC 9457 problems.
package httpjson

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

// MaxBody is the largest body of a request, in bytes.
const MaxBody = 1 << 20

// DefaultBodyTimeout is the time within which a body must have arrived, where nobody says another.
const DefaultBodyTimeout = 10 * time.Second

// ReadBody returns the body, which must have arrived within timeout, or the status and the fault:
// 413 over MaxBody, 408 too late, 400 broken off.
func ReadBody(w http.ResponseWriter, r *http.Request, timeout time.Duration) (body []byte, code int, err error) {
	deadlines := http.NewResponseController(w)
	_ = deadlines.SetReadDeadline(time.Now().Add(timeout)) // where w cannot, the server's own bounds hold
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, MaxBody))
	tooLarge, isTooLarge := errors.AsType[*http.MaxBytesError](err)
	switch {
	case isTooLarge:
		return nil, http.StatusRequestEntityTooLarge, fmt.Errorf("body: is over %d bytes", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, http.StatusRequestTimeout, fmt.Errorf("body: has not arrived within %v", timeout)
	case err != nil:
		return nil, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	_ = deadlines.SetReadDeadline(time.Time{}) // else it would end a request that is held, or at work
	return body, 0, nil
}

// Answer writes v.
func Answer(w http.ResponseWriter, code int, v any) { write(w, code, "application/json", v) }

// Problem writes what is wrong, as RFC 9457 has it.
func Problem(w http.ResponseWriter, code int, detail string) {
	write(w, code, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(code), code, detail})
}

func write(w http.ResponseWriter, code int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // whoever asked has gone: nobody is left to tell
}
