package admin

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const (
	// mostUnpacked is how long the body of transactions may be without its compression, in bytes.
	mostUnpacked = 32 << 20
	longestLine  = 1 << 20
	// mostReading is how many bodies are read at once. Each takes memory for its transactions, and
	// time of the processors that decisions need.
	mostReading = 4
)

// form is how a body is written.
type form struct{ lines, gzip bool }

func formOf(r *http.Request) (f form, err error) {
	given := r.Header.Get("Content-Type")
	kind := typeOf(given)
	if kind == "" {
		return f, fmt.Errorf("the content type %s is not %s or %s", quote(given), typeJSON, typeNDJSON)
	}
	f.lines = kind == typeNDJSON
	switch encoding := strings.Join(r.Header.Values("Content-Encoding"), ","); strings.ToLower(encoding) {
	case "", "identity":
	case "gzip", "x-gzip":
		f.gzip = true
	default:
		return f, fmt.Errorf("the content encoding %s is not gzip", quote(encoding))
	}
	return f, nil
}

// transactionsBody collects what is in a body.
type transactionsBody struct {
	parse        func([]byte, time.Time) (traffic.Transaction, error)
	now          time.Time
	most         int
	transactions []traffic.Transaction
	lines        *lineCounts // nil where it is no access log
}

// lineCounts say what became of the lines of an access log that are no transactions.
type lineCounts struct {
	Ignored   int      `json:"ignored"` // they are not the end of a request or connection
	Malformed int      `json:"malformed"`
	Errors    []string `json:"errors"` // the first ones
}

// readTransactions reads a body that has arrived. codeOf tells the status of an error.
func (a *api) readTransactions(ctx context.Context, from *sender, f form, body []byte) (*transactionsBody, error) {
	select {
	case a.reading <- struct{}{}:
		defer func() { <-a.reading }()
	case <-ctx.Done():
		return nil, fmt.Errorf("body: %w", ctx.Err())
	}
	b := &transactionsBody{parse: traffic.ParseJSON, now: time.Now(), most: mostTransactions}
	if from.relayed {
		b.parse, b.most = traffic.ParseRelayedJSON, mostRelayed
	}
	if from.accessLog {
		b.lines = &lineCounts{Errors: []string{}}
	}
	text, err := f.unpack(body)
	switch {
	case err != nil:
		return nil, fmt.Errorf("body: is not gzip: %w", err)
	case from.accessLog && !f.lines:
		return nil, &limits.FieldError{Field: "format", Value: quote("access-log"), Reason: "goes with the content type " + typeNDJSON + " only"}
	case from.accessLog:
		return b, b.readLog(httpjson.NewLines(text, longestLine), a.Line)
	case f.lines:
		return b, b.readLines(httpjson.NewLines(text, longestLine))
	}
	return b, b.readJSON(bufio.NewReader(text))
}

// unpack returns the text of a body, which ends with an *http.MaxBytesError beyond mostUnpacked bytes:
// a megabyte can stand for a gigabyte.
func (f form) unpack(body []byte) (io.Reader, error) {
	if !f.gzip {
		return bytes.NewReader(body), nil
	}
	text, err := gzip.NewReader(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	return http.MaxBytesReader(nil, text, mostUnpacked), nil
}

// errTooMany is answered with 413.
var errTooMany = errors.New("has too many transactions")

// codeOf is the status of what readTransactions says: 413 where there is too much of it, 422 for a
// transaction that cannot be, 400 for what is no JSON or no gzip.
func codeOf(err error) int {
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	_, badField := errors.AsType[*traffic.FieldError](err)
	_, badQuery := errors.AsType[*limits.FieldError](err)
	switch {
	case tooLarge, errors.Is(err, errTooMany), errors.Is(err, httpjson.ErrLongLine):
		return http.StatusRequestEntityTooLarge
	case badField, badQuery:
		return http.StatusUnprocessableEntity
	}
	return http.StatusBadRequest
}

// unread says why a body could not be read to its end.
func unread(err error) error {
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return fmt.Errorf("body: is over %d bytes unpacked: %w", tooLarge.Limit, err)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("body: %w", err)
}

func (b *transactionsBody) add(raw []byte) error {
	if len(b.transactions) == b.most {
		return fmt.Errorf("%w: at most %d are taken at once", errTooMany, b.most)
	}
	t, err := b.parse(raw, b.now)
	if err == nil {
		b.transactions = append(b.transactions, t)
	}
	return err
}

// eachLine calls each with the lines that are not blank, and their numbers from 1 on. A line that is too
// long comes as its error.
func eachLine(lines *httpjson.Lines, each func(n int, line []byte, err error) error) error {
	for n := 1; ; n++ {
		line, err := lines.Next()
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil && !errors.Is(err, httpjson.ErrLongLine):
			return unread(err)
		case err == nil && len(bytes.TrimSpace(line)) == 0:
			continue
		}
		if err := each(n, line, err); err != nil {
			return err
		}
	}
}

func (b *transactionsBody) readLines(lines *httpjson.Lines) error {
	return eachLine(lines, func(n int, line []byte, err error) error {
		if err == nil {
			err = b.add(line)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
		return nil
	})
}

// readLog reads lines of an access log: what is bad is counted.
func (b *transactionsBody) readLog(lines *httpjson.Lines, parse func([]byte) (traffic.Transaction, bool, error)) error {
	read := 0
	return eachLine(lines, func(n int, line []byte, err error) error {
		if read++; read > b.most {
			return fmt.Errorf("line %d: %w: at most %d lines are taken at once", n, errTooMany, b.most)
		}
		var t traffic.Transaction
		counted := false
		if err == nil {
			t, counted, err = parse(line)
		}
		switch {
		case err != nil:
			b.lines.malformed(n, err)
		case counted:
			b.transactions = append(b.transactions, t)
		default:
			b.lines.Ignored++
		}
		return nil
	})
}

func (c *lineCounts) malformed(n int, err error) {
	const shown, longest = 10, 200
	if c.Malformed++; c.Malformed > shown {
		return
	}
	text := oneLine(err)
	if len(text) > longest {
		text = text[:longest] + "…"
	}
	c.Errors = append(c.Errors, fmt.Sprintf("line %d: %s", n, text))
}

// readJSON reads one transaction, an array of them, or {"transactions": […]}.
func (b *transactionsBody) readJSON(text *bufio.Reader) error {
	first, err := firstByte(text)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(text)
	if first == '[' {
		err = b.readArray(dec)
	} else {
		err = b.readObject(dec)
	}
	if err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return notJSON(err, "has more than one JSON value")
	}
	return nil
}

// firstByte looks at the first byte that is no white space.
func firstByte(text *bufio.Reader) (byte, error) {
	for {
		c, err := text.ReadByte()
		switch {
		case errors.Is(err, io.EOF):
			return 0, errors.New("body: is empty")
		case err != nil:
			return 0, unread(err)
		case c != ' ' && c != '\t' && c != '\r' && c != '\n':
			return c, text.UnreadByte()
		}
	}
}

// notJSON says what is wrong with the text of a decoder; err may be nil.
func notJSON(err error, otherwise string) error {
	syntax, isSyntax := errors.AsType[*json.SyntaxError](err)
	switch {
	case err == nil:
		return errors.New("body: " + otherwise)
	case isSyntax:
		return fmt.Errorf("body: is not JSON: at byte %d: %w", syntax.Offset, err)
	}
	return unread(err)
}

func (b *transactionsBody) readArray(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return notJSON(err, "")
	}
	var raw json.RawMessage
	for i := 0; dec.More(); i++ {
		if err := dec.Decode(&raw); err != nil {
			return notJSON(err, "")
		}
		if err := b.add(raw); err != nil {
			return fmt.Errorf("transactions[%d]: %w", i, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return notJSON(err, "")
	}
	return nil
}

// readObject reads one transaction, or an array whose name is the first of an object: what comes beside
// is refused either way.
func (b *transactionsBody) readObject(dec *json.Decoder) error {
	var object json.RawMessage
	if err := dec.Decode(&object); err != nil {
		return notJSON(err, "")
	}
	inner := json.NewDecoder(bytes.NewReader(object))
	brace, _ := inner.Token() // of a valid text, as are those below
	name, _ := inner.Token()
	if brace != json.Delim('{') || name != "transactions" {
		return b.add(object)
	}
	if value := bytes.TrimLeft(object[inner.InputOffset():], ": \t\r\n"); value[0] != '[' {
		_ = inner.Decode(&object)
		return &limits.FieldError{Field: "transactions", Value: cut(object), Reason: "is no JSON array"}
	}
	if err := b.readArray(inner); err != nil {
		return err
	}
	if more, _ := inner.Token(); more != json.Delim('}') {
		return &limits.FieldError{Field: "field", Value: quote(fmt.Sprint(more)), Reason: "is not known beside transactions"}
	}
	return nil
}
