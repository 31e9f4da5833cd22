package client_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// taker is the real API, which passes on what it takes. It is away while err is not nil.
func taker(tb testing.TB, got chan<- traffic.Batch, err error) http.Handler {
	tb.Helper()
	tokens, parseErr := admin.ParseTokens("write:s3cret")
	if parseErr != nil {
		tb.Fatal(parseErr)
	}
	return admin.New(admin.Config{Tokens: tokens}, admin.Deps{
		Gatherer: prometheus.NewRegistry(), JSON: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler),
		Offer: func(_ context.Context, ts []traffic.Transaction) error {
			got <- traffic.Batch{Transactions: append([]traffic.Transaction(nil), ts...)}
			return err
		},
		Receive: func(_ context.Context, b traffic.Batch) (int, error) {
			got <- b
			return len(b.Transactions) - 1, err
		},
		Line: func(line []byte) (traffic.Transaction, bool, error) {
			if string(line) == "bad" {
				return traffic.Transaction{}, false, errors.New("is bad")
			}
			return traffic.Transaction{Gateway: string(line)}, string(line) != "other", nil
		},
	})
}

func TestSendTransactions(t *testing.T) {
	got := make(chan traffic.Batch, 1)
	c := client.New(serve(t, taker(t, got, nil)), "s3cret")
	taken, err := c.SendTransactions(t.Context(), client.Upload{Lines: []byte("a\nb\n\nbad\nother"), AccessLog: true, Key: "k 1"})
	want := client.Taken{Accepted: 1, Ignored: 1, Malformed: 1, Errors: []string{"line 4: is bad"}}
	if diff := cmp.Diff(want, taken); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	if b := <-got; b.Run != "key:k 1" || len(b.Transactions) != 2 || b.Transactions[1].Gateway != "b" {
		t.Errorf("the server got %+v", b)
	}
	taken, err = c.SendTransactions(t.Context(), client.Upload{Lines: []byte(`{"gateway":"a"}` + "\n")})
	if b := <-got; err != nil || taken.Accepted != 1 || b.Run != "" || len(b.Transactions) != 1 {
		t.Errorf("%+v, %v; the server got %+v", taken, err, b)
	}
}

func TestTransactionsThatAreNotTaken(t *testing.T) {
	answer := func(code int, body string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		})
	}
	for name, c := range map[string]struct {
		handler   http.Handler
		token     string
		temporary bool
		after     time.Duration
		want      string
	}{
		"a store that is away": {taker(t, make(chan traffic.Batch, 1), errors.New("no database")), "s3cret", true, time.Second, "503 Service Unavailable: no database"},
		"no token":             {taker(t, nil, nil), "", false, 0, "401 Unauthorized: "},
		"a proxy":              {answer(502, ""), "", true, 7 * time.Second, "502 Bad Gateway"},
		"too many requests":    {answer(429, ""), "", true, 7 * time.Second, "429 Too Many Requests"},
		"a body that was late": {answer(408, ""), "", true, 7 * time.Second, "408 Request Timeout"},
		"a bad request":        {answer(422, `{"detail":"line 1: is bad"}`), "", false, 0, "422 Unprocessable Entity: line 1: is bad"},
		"an older server":      {answer(404, ""), "", false, 0, "has no POST /api/v1/transactions: it is an older ratelimitd"},
		"another service":      {answer(200, `{"malformed":1}`), "", false, 0, "it does not say what was accepted"},
		"a page":               {answer(200, `<html>`), "", false, 0, "invalid character '<'"},
	} {
		_, err := client.New(serve(t, c.handler), c.token).SendTransactions(t.Context(), client.Upload{Lines: []byte(`{"gateway":"a"}`), Key: "k"})
		temporary, is := errors.AsType[*client.TemporaryError](err)
		if err == nil || !strings.Contains(err.Error(), c.want) || is != c.temporary || (is && temporary.After != c.after) {
			t.Errorf("%s: temporary %v, %v; want %v, %s", name, is, err, c.temporary, c.want)
		}
	}
	_, err := client.New("http://127.0.0.1:1", "").SendTransactions(t.Context(), client.Upload{})
	if _, is := errors.AsType[*client.TemporaryError](err); !is || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("where nobody listens: %v", err)
	}
	if _, err = client.New("http://a b", "").SendTransactions(t.Context(), client.Upload{}); err == nil || errors.As(err, new(*client.TemporaryError)) {
		t.Errorf("an address that is none: %v", err)
	}
}
