package client_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// store keeps limits in a table, and nowhere else.
type store struct{ current *limits.Current }

func (s *store) Put(_ context.Context, l limits.Limit, _ string) (limits.Limit, error) {
	l.Version = s.current.Load().ID() + 1
	return l, s.change(limits.Change{Key: l.Key, Limit: &l})
}

func (s *store) Delete(_ context.Context, key limits.Key, _ string) error {
	if s.current.Load().Find(key) == nil {
		return limits.ErrNotFound
	}
	return s.change(limits.Change{Key: key})
}

func (s *store) change(c limits.Change) error {
	now := s.current.Load()
	next, err := now.Apply([]limits.Change{c}, limits.Stamp{ID: now.ID() + 1})
	if err == nil {
		s.current.Store(next)
	}
	return err
}

// api is the real API over no limits. Decisions are refused for the gateway "full".
func api(tb testing.TB, tokens string) http.Handler {
	tb.Helper()
	parsed, err := admin.ParseTokens(tokens)
	if err != nil {
		tb.Fatal(err)
	}
	empty, err := limits.NewTable(nil, nil, limits.Stamp{ID: 1})
	if err != nil {
		tb.Fatal(err)
	}
	current := new(limits.Current)
	current.Store(empty)
	return admin.New(admin.Config{Tokens: parsed}, admin.Deps{
		Store: &store{current}, Current: current, Gatherer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		JSON: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			if strings.Contains(string(body), "full") {
				w.WriteHeader(http.StatusTooManyRequests)
			}
			_, _ = io.WriteString(w, `{"method":"`+r.Method+`","type":"`+r.Header.Get("Content-Type")+`"}`)
		}),
	})
}

func serve(tb testing.TB, h http.Handler) string {
	tb.Helper()
	s := httptest.NewServer(h)
	tb.Cleanup(s.Close)
	return s.URL
}

func TestLimitsThroughTheAPI(t *testing.T) {
	c := client.New(serve(t, api(t, "")), "")
	if got, err := c.ListLimits(t.Context()); err != nil || len(got) != 0 {
		t.Fatalf("without limits: %v, %v", got, err)
	}
	odd := limits.Key{Domain: "d&x=1", Gateway: "sh op/ö?*", Endpoint: "/pay+%20", Per: "us#er"}
	for _, row := range []limits.Row{
		{Gateway: "shop"},
		{Domain: odd.Domain, Gateway: odd.Gateway, Endpoint: &odd.Endpoint, Per: &odd.Per, MaxTPS: new(int64(7)), Enabled: new(false), Burst: new(int64(3)), MaxWaitMS: new(int64(9)), Shadow: new(true), Note: new("a\nb")},
	} {
		want, err := row.Limit()
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.PutLimit(t.Context(), row)
		if err != nil {
			t.Fatalf("%+v: %v", row, err)
		}
		stored, err := got.Limit()
		if want.Version = stored.Version; err != nil || stored != want || stored.Version == 0 {
			t.Errorf("put %+v\n got %+v, %v\nwant %+v", row, stored, err, want)
		}
	}
	got, err := c.ListLimits(t.Context())
	if err != nil || len(got) != 2 || got[0].Gateway != "shop" || got[1].Gateway != odd.Gateway {
		t.Errorf("list: %+v, %v", got, err)
	}
	if err := c.DeleteLimit(t.Context(), odd); err != nil {
		t.Errorf("delete: %v", err)
	}
	if err := c.DeleteLimit(t.Context(), odd); err == nil || !strings.Contains(err.Error(), "404 Not Found: ") {
		t.Errorf("deleting it again: %v, want a 404 with its reason", err)
	}
	if got, err = c.ListLimits(t.Context()); err != nil || len(got) != 1 {
		t.Errorf("list after the delete: %+v, %v", got, err)
	}
}

func TestARefusalTellsTheReason(t *testing.T) {
	c := client.New(serve(t, api(t, "")), "")
	_, err := c.PutLimit(t.Context(), limits.Row{Gateway: "shop", MaxTPS: new(int64(-1))})
	want := "the server answered 422 Unprocessable Entity: max_tps -1: is not within 0 to 1000000000"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTheTokenIsShown(t *testing.T) {
	url := serve(t, api(t, "write:s3cret"))
	if _, err := client.New(url, "s3cret").PutLimit(t.Context(), limits.Row{Gateway: "shop"}); err != nil {
		t.Errorf("with the token: %v", err)
	}
	for _, token := range []string{"", "wrong"} {
		if _, err := client.New(url, token).ListLimits(t.Context()); err == nil || !strings.Contains(err.Error(), "answered 401 Unauthorized") {
			t.Errorf("with the token %q: %v, want 401", token, err)
		}
	}
	_, err := client.New(url, "s3cret\n").ListLimits(t.Context()) // as from a file
	if err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("a token that fits in no header: %v, want an error without it", err)
	}
}

func TestCheck(t *testing.T) {
	c := client.New(serve(t, api(t, "")), "")
	for request, allowed := range map[string]bool{`{"gateway":"free"}`: true, `{"gateway":"full"}`: false} {
		got, err := c.Check(t.Context(), []byte(request))
		want := client.Decision{Allowed: allowed, Body: json.RawMessage(`{"method":"POST","type":"application/json"}`)}
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", request, err, diff)
		}
	}
}

// TestAnswersOfOthers: what does not come from ratelimitd is no success.
func TestAnswersOfOthers(t *testing.T) {
	answer := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, body)
		}
	}
	moved := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/elsewhere" {
			_, _ = io.WriteString(w, `{"limits":[]}`)
			return
		}
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	}
	for _, c := range []struct {
		what                     string
		handler                  http.HandlerFunc
		list, put, remove, check string
	}{
		{"a page", answer(200, "<html>"), "invalid character '<'", "invalid character '<'", "200 OK, as ratelimitd never does here", ""},
		{"another service", answer(200, "{}"), "holds no limits", "is not the limit that was sent", "200 OK, as ratelimitd never does here", ""},
		{"no content", answer(204, ""), "204 No Content, as", "204 No Content, as", "", "204 No Content, as"},
		{"a redirect", moved, "302 Found: it points to /elsewhere", "302 Found: it points to /elsewhere", "302 Found: it points to /elsewhere", "302 Found: it points to /elsewhere"},
		{"a proxy's error", answer(502, "upstream is away"), "answered 502 Bad Gateway", "answered 502 Bad Gateway", "answered 502 Bad Gateway", "answered 502 Bad Gateway"},
		{"a problem", answer(503, `{"title":"t","detail":"no limits yet"}`), "503 Service Unavailable: no limits yet", "no limits yet", "no limits yet", "no limits yet"},
		{"a number of its own", answer(599, "x"), "answered 599", "answered 599", "answered 599", "answered 599"},
	} {
		api := client.New(serve(t, c.handler), "")
		want := func(call, text string, err error) {
			if (err == nil) != (text == "") || (err != nil && !strings.Contains(err.Error(), text)) {
				t.Errorf("%s: %s: %v, want %q", c.what, call, err, text)
			}
		}
		_, err := api.ListLimits(t.Context())
		want("list", c.list, err)
		_, err = api.PutLimit(t.Context(), limits.Row{Gateway: "shop"})
		want("put", c.put, err)
		want("delete", c.remove, api.DeleteLimit(t.Context(), limits.Key{Gateway: "shop"}))
		_, err = api.Check(t.Context(), []byte("{}"))
		want("check", c.check, err)
	}
}

func TestAnswerThatBreaksOff(t *testing.T) {
	c := client.New(serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		_, _ = io.WriteString(w, `{"limits":[`)
	})), "")
	if got, err := c.ListLimits(t.Context()); !errors.Is(err, io.ErrUnexpectedEOF) || !strings.Contains(err.Error(), "reading the answer of GET http://") {
		t.Errorf("got %v, %v, want an unexpected end of the answer", got, err)
	}
}

func TestNobodyThere(t *testing.T) {
	url := "http://127.0.0.1:1"
	if _, err := client.New(url, "").ListLimits(t.Context()); err == nil || !strings.Contains(err.Error(), url+"/api/v1/limits") {
		t.Errorf("got %v, want an error that names %s", err, url)
	}
	if _, err := client.New("http://a b", "").ListLimits(t.Context()); err == nil || !strings.Contains(err.Error(), "preparing GET http://a b/api/v1/limits: ") {
		t.Errorf("an address that is none: %v", err)
	}
}

func TestCallsEndWithTheirContext(t *testing.T) {
	asked := make(chan struct{})
	c := client.New(serve(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})), "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-asked
		cancel()
	}()
	if _, err := c.ListLimits(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}

func TestServerWithoutScheme(t *testing.T) {
	url := serve(t, api(t, ""))
	for _, server := range []string{url, url + "/", strings.TrimPrefix(url, "http://"), strings.TrimPrefix(url, "http://") + "//"} {
		if _, err := client.New(server, "").ListLimits(t.Context()); err != nil {
			t.Errorf("%q: %v", server, err)
		}
	}
}

func TestTLS(t *testing.T) {
	mine, other := testenv.NewAuthority(t, "mine"), testenv.NewAuthority(t, "other")
	s := httptest.NewUnstartedServer(api(t, ""))
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // refused handshakes
	pair, err := tls.X509KeyPair(mine.Pair(t, "server", time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AddCert(mine.Cert)
	s.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	s.StartTLS()
	t.Cleanup(s.Close)

	dir := t.TempDir()
	file := func(name string, body []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, body, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, otherCA := file("ca", mine.PEM), file("other-ca", other.PEM)
	certPEM, keyPEM := mine.Pair(t, "client", time.Hour)
	cert, key := file("cert", certPEM), file("key", keyPEM)
	missing := filepath.Join(dir, "missing")
	for _, c := range []struct {
		what, ca, cert, key string
		files, call         string // errors
	}{
		{what: "good", ca: ca, cert: cert, key: key},
		{what: "no client certificate", ca: ca, call: "certificate required"},
		{what: "another authority", ca: otherCA, cert: cert, key: key, call: "unknown authority"},
		{what: "the system's authorities", cert: cert, key: key, call: "unknown authority"},
		{what: "no files", call: "unknown authority"},
		{what: "no such authority", ca: missing, files: "reading the authority: open " + missing},
		{what: "a key as authority", ca: key, files: "reading the authority: " + key + " holds no certificate"},
		{what: "no key", ca: ca, cert: cert, files: `reading the client certificate "` + cert + `" and key ""`},
		{what: "no certificate", ca: ca, key: key, files: `reading the client certificate "" and key "` + key + `"`},
		{what: "the wrong way round", ca: ca, cert: key, key: cert, files: "reading the client certificate"},
	} {
		api := client.New(s.URL, "")
		err := api.UseTLS(c.ca, c.cert, c.key)
		if (err == nil) != (c.files == "") || (err != nil && !strings.Contains(err.Error(), c.files)) {
			t.Errorf("%s: files: %v, want %q", c.what, err, c.files)
		}
		if err != nil {
			continue
		}
		_, err = api.ListLimits(t.Context())
		if (err == nil) != (c.call == "") || (err != nil && !strings.Contains(err.Error(), c.call)) {
			t.Errorf("%s: call: %v, want %q", c.what, err, c.call)
		}
	}
}
