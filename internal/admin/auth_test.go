package admin_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

const row = `{"gateway":"shop","max_tps":5}`

// Without tokens writes are for this host alone. Each condition has a case that it refuses.
func TestThisHostAlone(t *testing.T) {
	s := start(t, options{listen: "0.0.0.0:0"})
	_, port, err := net.SplitHostPort(s.addr)
	if err != nil {
		t.Fatal(err)
	}
	s.addr = "127.0.0.1:" + port
	header := func(name, value string) request { return request{header: map[string]string{name: value}} }
	tests := []struct {
		name    string
		request request
		refused string // empty = taken
	}{
		{"as curl sends it", request{}, ""},
		{"localhost with a port", request{host: "localhost:" + port}, ""},
		{"any port", request{host: "LocalHost:1"}, ""},
		{"by address", request{host: "127.0.0.1:" + port}, ""},
		{"by address of IPv6", request{host: "[::1]:8080"}, ""},
		{"by address of IPv6 without a port", request{host: "[::1]"}, ""},
		{"content type with a charset", header("Content-Type", "application/json; charset=utf-8"), ""},
		{"NDJSON", header("Content-Type", "application/x-ndjson"), ""},
		{"Istio's sidecar", request{from: "127.0.0.6"}, "the peer 127.0.0.6 is not 127.0.0.1 or ::1"},
		{"another loopback address", request{from: "127.0.0.2"}, "the peer 127.0.0.2 is not"},
		{"another host name", request{host: "ratelimitd.example"}, `the host "ratelimitd.example" is not localhost`},
		{"a name that leads here", request{host: "localhost.example:8080"}, `the host "localhost.example:8080" is not localhost`},
		{"another loopback name", request{host: "127.0.0.2"}, `the host "127.0.0.2" is not`},
		{"the unspecified address", request{host: "0.0.0.0:8080"}, `the host "0.0.0.0:8080" is not`},
		{"rubbish as host", request{host: "localhost:1:2"}, `the host "localhost:1:2" is not`},
		{"X-Forwarded-For", header("X-Forwarded-For", "127.0.0.1"), "the header X-Forwarded-For says"},
		{"X-Forwarded-For, empty", header("X-Forwarded-For", ""), "the header X-Forwarded-For says"},
		{"X-Forwarded-Host", header("X-Forwarded-Host", "localhost"), "the header X-Forwarded-Host says"},
		{"Forwarded", header("Forwarded", "for=127.0.0.1"), "the header Forwarded says"},
		{"X-Real-IP", header("X-Real-IP", "127.0.0.1"), "the header X-Real-Ip says"},
		{"Via", header("Via", "1.1 proxy"), "the header Via says"},
		{"a form's content type", header("Content-Type", "application/x-www-form-urlencoded"), `the content type "application/x-www-form-urlencoded" is not application/json`},
		{"plain text", header("Content-Type", "text/plain"), `the content type "text/plain" is not application/json`},
		{"no content type", request{bare: true}, `the content type "" is not application/json`},
		{"rubbish as content type", header("Content-Type", "application/json; ="), `the content type "application/json; =" is not application/json`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			put := tt.request
			put.method, put.path, put.body = http.MethodPut, "/api/v1/limits", `{"gateway":"`+tt.name+`"}`
			got := s.do(t, put)
			if tt.refused == "" {
				got.want(t, http.StatusOK, tt.name)
			} else {
				got.wantProblem(t, http.StatusForbidden, "without TPS_API_TOKENS writes are for this host alone: "+tt.refused)
			}
			if listed := strings.Contains(s.get(t, "/api/v1/limits").body, tt.name); listed != (tt.refused == "") {
				t.Errorf("the row is listed: %v", listed)
			}
			if strings.Contains(tt.refused, "content type") {
				return // DELETE has no body
			}
			remove := tt.request
			remove.method, remove.path, remove.bare = http.MethodDelete, "/api/v1/limits?gateway=none", true
			if got := s.do(t, remove); (got.code == http.StatusForbidden) != (tt.refused != "") {
				t.Errorf("DELETE is answered with %d %s", got.code, got.body)
			}
		})
	}
}

func TestThisHostAloneOnIPv6(t *testing.T) {
	if lis, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "[::1]:0"); err != nil {
		t.Fatalf("this test needs the IPv6 loopback (sysctl net.ipv6.conf.lo.disable_ipv6=0): %v", err)
	} else if err := lis.Close(); err != nil {
		t.Fatal(err)
	}
	for _, listen := range []string{"[::1]:0", "[::]:0"} {
		s := start(t, options{listen: listen})
		_, port, err := net.SplitHostPort(s.addr)
		if err != nil {
			t.Fatal(err)
		}
		s.addr = "[::1]:" + port
		s.put(t, row).want(t, http.StatusOK, `"shop"`)
		if listen == "[::]:0" { // where an IPv4 peer is shown as ::ffff:127.0.0.1
			s.addr = "127.0.0.1:" + port
			s.put(t, row).want(t, http.StatusOK, `"shop"`)
			s.do(t, request{method: http.MethodPut, path: "/api/v1/limits", body: row, from: "127.0.0.6"}).wantProblem(t, http.StatusForbidden, "127.0.0.6")
		}
	}
}

// Everybody may read where there are no tokens; nobody's health check needs one where there are.
func TestWhoMayRead(t *testing.T) {
	elsewhere := map[string]string{"X-Forwarded-For": "192.0.2.1"}
	open := start(t, options{})
	tokens, err := admin.ParseTokens("read:reader,write:writer")
	if err != nil {
		t.Fatal(err)
	}
	guarded := start(t, options{cfg: admin.Config{Tokens: tokens}})
	for path, isAPI := range map[string]bool{
		"/api/v1/limits": true, "/api/v1/limits/active": true, "/api/v1/stats": true,
		"/healthz": false, "/readyz": false, "/healthcheck": false, "/metrics": false, "/json": false,
	} {
		get := request{method: http.MethodGet, path: path, host: "ratelimitd.example", header: elsewhere}
		open.do(t, get).want(t, http.StatusOK, "")
		got := guarded.do(t, get)
		if want := map[bool]int{true: http.StatusUnauthorized, false: http.StatusOK}[isAPI]; got.code != want {
			t.Errorf("GET %s without a token: %d, want %d", path, got.code, want)
		}
		for _, token := range []string{"reader", "writer"} {
			get.header = map[string]string{"Authorization": "Bearer " + token}
			guarded.do(t, get).want(t, http.StatusOK, "")
		}
	}
}

func TestTokens(t *testing.T) {
	tokens, err := admin.ParseTokens("read:reader, write:writer ,write:two:parts,read:both,write:both")
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, options{cfg: admin.Config{Tokens: tokens}})
	const challenge = `Bearer realm="ratelimitd"`
	tests := []struct {
		authorization string
		code          int
		challenge     string
	}{
		{"", 401, challenge},
		{"writer", 401, challenge},
		{"Basic writer", 401, challenge},
		{"Bearer", 401, challenge},
		{"Bearer  ", 401, challenge},
		{"Bearer nobody", 401, challenge + `, error="invalid_token"`},
		{"Bearer write:writer", 401, challenge + `, error="invalid_token"`},
		{"Bearer WRITER", 401, challenge + `, error="invalid_token"`},
		{"Bearer write", 401, challenge + `, error="invalid_token"`},
		{"Bearer reader", 403, challenge + `, error="insufficient_scope"`},
		{"Bearer writer", 200, ""},
		{"bearer  writer ", 200, ""},
		{"Bearer two:parts", 200, ""},
		{"Bearer both", 200, ""},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%q", tt.authorization), func(t *testing.T) {
			// From somewhere else, and of another content type: with a token that does not matter.
			put := request{method: http.MethodPut, path: "/api/v1/limits", body: row, host: "ratelimitd.example", bare: true, header: map[string]string{"Via": "1.1 proxy"}}
			if tt.authorization != "" {
				put.header["Authorization"] = tt.authorization
			}
			got := s.do(t, put)
			if got.code != tt.code || got.header.Get("WWW-Authenticate") != tt.challenge {
				t.Errorf("the answer is %d, challenge %q: %s", got.code, got.header.Get("WWW-Authenticate"), got.body)
			}
			if got.code != http.StatusOK {
				got.wantProblem(t, tt.code, "token")
			}
		})
	}
	local := s.put(t, row)
	local.wantProblem(t, http.StatusUnauthorized, "Authorization: Bearer")
}

func TestParseTokens(t *testing.T) {
	tests := []struct {
		in   string
		want []admin.Role
		err  string
	}{
		{"", nil, ""},
		{"read:a", []admin.Role{"read"}, ""},
		{" write : a , read:b,", []admin.Role{"write", "read"}, ""},
		{" ", nil, "holds no role:token"},
		{",", nil, "holds no role:token"},
		{"s3cret", nil, "entry 1: is not role:token"},
		{"read:", nil, "entry 1: is not role:token"},
		{"read:a,s3cret:b", []admin.Role{"read"}, "entry 2: its role is not read or write"},
		{"READ:s3cret", nil, "entry 1: its role is not read or write"},
		{":s3cret,x", nil, "entry 1: its role is not read or write\nentry 2: is not role:token"},
	}
	for _, tt := range tests {
		got, err := admin.ParseTokens(tt.in)
		message := ""
		if err != nil {
			message = err.Error()
		}
		if message != tt.err || len(got) != len(tt.want) {
			t.Errorf("ParseTokens(%q) = %v, %q, want %v, %q", tt.in, got, message, tt.want, tt.err)
			continue
		}
		for i := range got {
			if got[i].Role != tt.want[i] {
				t.Errorf("ParseTokens(%q)[%d].Role = %q, want %q", tt.in, i, got[i].Role, tt.want[i])
			}
		}
	}
}

// A token must not get into a log or an error by accident.
func TestTokensStaySecret(t *testing.T) {
	tokens, err := admin.ParseTokens("write:s3cret")
	if err != nil {
		t.Fatal(err)
	}
	for _, shown := range []string{fmt.Sprintf("%v %+v", tokens, tokens), tokens[0].LogValue().String()} {
		if strings.Contains(shown, "s3cret") {
			t.Errorf("a token shows as %s", shown)
		}
	}
}

// Where client certificates are asked for, only probes do without. (The handshake, which verifies
// certificates, is tested in internal/certs and through the whole server.)
func TestClientCertificates(t *testing.T) {
	table, err := limits.NewTable(nil, nil, limits.Stamp{ID: 1})
	if err != nil {
		t.Fatal(err)
	}
	deps := admin.Deps{Current: new(limits.Current), Gatherer: prometheus.NewRegistry(), JSON: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler)}
	deps.Current.Store(table)
	handler := admin.New(admin.Config{ClientCertificates: true}, deps)
	verified := &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{}}}}
	tests := []struct {
		path      string
		client    *tls.ConnectionState
		forbidden bool
	}{
		{"/healthz", nil, false},
		{"/readyz", &tls.ConnectionState{}, false},
		{"/healthcheck", &tls.ConnectionState{}, false},
		{"/metrics", &tls.ConnectionState{}, true},
		{"/json", &tls.ConnectionState{}, true},
		{"/healthz/", &tls.ConnectionState{}, true},
		{"/api/v1/limits", nil, true},
		{"/api/v1/limits", &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}, true},
		{"/api/v1/limits", verified, false},
		{"/metrics", verified, false},
	}
	for _, tt := range tests {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, tt.path, http.NoBody)
		r.TLS = tt.client
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, r)
		if (w.Code == http.StatusForbidden) != tt.forbidden || (tt.forbidden && !strings.Contains(w.Body.String(), "this needs a client certificate")) {
			t.Errorf("GET %s with %+v is answered with %d %s; forbidden: want %v", tt.path, tt.client, w.Code, w.Body, tt.forbidden)
		}
	}
}
