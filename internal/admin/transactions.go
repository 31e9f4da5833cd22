package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const (
	// mostTransactions is how many transactions, or lines of an access log, one request may bring.
	mostTransactions = 100_000
	// mostRelayed is how many another ratelimitd sends at once.
	mostRelayed = 10_000
	// longestStore is how long it may take to store them: less than others wait for the answer.
	longestStore = 25 * time.Second
)

// Idempotency keys are runs, which all replicas have in common: whoever tries again may reach another
// one. The prefix keeps them apart from other runs. Their server is whoever takes them.
const (
	keyHeader  = "Idempotency-Key"
	keyPrefix  = "key:"
	longestKey = 255
)

// postTransactions takes what others have measured: all of the transactions of a body or, where one
// of them is bad, none. Of a body of lines of Envoy's access log it takes the good ones.
func (a *api) postTransactions(w http.ResponseWriter, r *http.Request) {
	from, err := senderOf(r)
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	form, err := formOf(r)
	if err != nil {
		httpjson.Problem(w, http.StatusUnsupportedMediaType, err.Error())
		return
	}
	body, code, err := httpjson.ReadBody(w, r, a.bodyTimeout)
	if err != nil {
		httpjson.Problem(w, code, err.Error())
		return
	}
	got, err := a.readTransactions(r.Context(), &from, form, body)
	if err != nil {
		httpjson.Problem(w, codeOf(err), oneLine(err))
		return
	}
	result, err := a.take(r.Context(), &from, got.transactions)
	if err != nil {
		a.notTaken(w, r, err)
		return
	}
	got.answer(w, result)
}

// sender says who numbers the transactions of a request, and what they look like.
type sender struct {
	traffic.Source // zero = nobody
	first          int64
	relayed        bool // by another ratelimitd, which has measured them
	accessLog      bool // lines of Envoy's access log in place of transactions
}

// senderOf reads the query and the idempotency key.
func senderOf(r *http.Request) (s sender, err error) {
	query, err := only(r.URL.RawQuery, "server", "run", "first", "format")
	if err != nil {
		return s, err
	}
	keys := r.Header.Values(keyHeader)
	switch s.accessLog = query["format"] == "access-log"; {
	case query["format"] != "" && !s.accessLog:
		return s, &limits.FieldError{Field: "format", Value: quote(query["format"]), Reason: "is not access-log"}
	case query["server"] != "" || query["run"] != "" || query["first"] != "":
		if len(keys) > 0 || s.accessLog {
			return s, errors.New("query: server, run and first number transactions already; with them goes no " + keyHeader + " and no format")
		}
		s.relayed = true
		s.Source, s.first, err = sourceOf(query)
	case len(keys) > 0:
		s.Source, err = sourceOfKey(keys)
	}
	return s, err
}

// sourceOf reads what another ratelimitd says of itself. Its run may be a key that was given to it.
func sourceOf(query map[string]string) (s traffic.Source, first int64, err error) {
	const mostFirst = math.MaxInt64 - mostTransactions
	first, err = strconv.ParseInt(query["first"], 10, 64)
	if err != nil || first < 0 || first > mostFirst {
		err = &limits.FieldError{Field: "first", Value: quote(query["first"]), Reason: fmt.Sprintf("is not within 0 to %d", int64(mostFirst))}
	}
	s = traffic.Source{Server: query["server"], Run: query["run"]}
	return s, first, errors.Join(checkText("server", s.Server, traffic.MaxName), checkText("run", s.Run, len(keyPrefix)+longestKey), err)
}

func checkText(field, s string, longest int) error {
	if s == "" || len(s) > longest || !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return &limits.FieldError{Field: field, Value: quote(s), Reason: fmt.Sprintf("is not 1 to %d bytes of text", longest)}
	}
	return nil
}

func sourceOfKey(keys []string) (traffic.Source, error) {
	printable := func(c rune) bool { return c >= ' ' && c <= '~' }
	key := keys[0]
	switch {
	case len(keys) > 1:
		return traffic.Source{}, fmt.Errorf("header %s: comes %d times", keyHeader, len(keys))
	case key == "" || len(key) > longestKey || strings.ContainsFunc(key, func(c rune) bool { return !printable(c) }):
		return traffic.Source{}, &limits.FieldError{Field: "header " + keyHeader, Value: quote(key), Reason: fmt.Sprintf("is not 1 to %d printable characters of ASCII", longestKey)}
	}
	return traffic.Source{Run: keyPrefix + key}, nil
}

// taken is the answer to a request.
type taken struct {
	Accepted  int  `json:"accepted"`
	Duplicate bool `json:"duplicate"` // all of it was here before
}

// take brings transactions to where they are counted and stored.
func (a *api) take(ctx context.Context, from *sender, ts []traffic.Transaction) (taken, error) {
	ctx, cancel := context.WithTimeout(ctx, longestStore)
	defer cancel()
	switch {
	case len(ts) == 0:
		return taken{}, nil
	case from.Source == traffic.Source{}:
		if err := a.Offer(ctx, ts); err != nil {
			return taken{}, err
		}
		return taken{Accepted: len(ts)}, nil
	}
	fresh, err := a.Receive(ctx, traffic.Batch{Source: from.Source, First: from.first, Transactions: ts})
	return taken{Accepted: fresh, Duplicate: fresh == 0}, err
}

// notTaken answers where transactions could not be stored: with 503, if it may be different soon.
func (a *api) notTaken(w http.ResponseWriter, r *http.Request, err error) {
	a.Log.DebugContext(r.Context(), "transactions were not taken", slog.Any("error", err)) // the recorder warns
	if _, refused := errors.AsType[*traffic.RefusedError](err); refused {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	var never interface{ TooMany() bool }
	if errors.As(err, &never) && never.TooMany() {
		httpjson.Problem(w, http.StatusRequestEntityTooLarge, oneLine(err))
		return
	}
	w.Header().Set("Retry-After", "1")
	httpjson.Problem(w, http.StatusServiceUnavailable, oneLine(err))
}

// answer writes what was taken; of an access log also what was not.
func (b *transactionsBody) answer(w http.ResponseWriter, t taken) {
	if b.lines == nil {
		httpjson.Answer(w, http.StatusOK, t)
		return
	}
	httpjson.Answer(w, http.StatusOK, struct {
		taken
		*lineCounts
	}{t, b.lines})
}
