package admin

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
)

// Role is what a token allows. Write includes read.
type Role string

// The roles of tokens.
const (
	RoleRead  Role = "read"
	RoleWrite Role = "write"
)

// Token is one bearer token of the API.
type Token struct {
	Role Role
	hash [sha256.Size]byte
}

// LogValue keeps tokens out of logs.
func (t Token) LogValue() slog.Value { return slog.StringValue(string(t.Role) + ":***") }

// ParseTokens reads `role:token` pairs, separated by commas. Only an empty s gives none: a
// list of nothing but commas would open the API to this host by mistake. Errors do not repeat
// the tokens.
func ParseTokens(s string) ([]Token, error) {
	var tokens []Token
	var errs []error
	for i, pair := range strings.Split(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, secret, _ := strings.Cut(pair, ":")
		role, secret := Role(strings.TrimSpace(name)), strings.TrimSpace(secret)
		switch {
		case secret == "":
			errs = append(errs, fmt.Errorf("entry %d: is not role:token", i+1))
		case role != RoleRead && role != RoleWrite: // which may be a part of the token
			errs = append(errs, fmt.Errorf("entry %d: its role is not read or write", i+1))
		default:
			tokens = append(tokens, Token{role, sha256.Sum256([]byte(secret))})
		}
	}
	if s != "" && tokens == nil && errs == nil {
		errs = append(errs, errors.New("holds no role:token"))
	}
	return tokens, errors.Join(errs...)
}

// forwarded are the headers by which a request shows that it came through somebody else.
const forwarded = "X-Forwarded-For, X-Forwarded-Host, Forwarded, X-Real-Ip, Via"

// probes are the paths that answer without a client certificate: a kubelet has none.
var probes = []string{"/healthz", "/readyz", "/healthcheck"} //nolint:gochecknoglobals // a constant list

// withCertificate refuses whoever has shown no verified certificate, but for probes.
func withCertificate(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if (r.TLS == nil || len(r.TLS.VerifiedChains) == 0) && !slices.Contains(probes, r.URL.Path) {
			httpjson.Problem(w, http.StatusForbidden, "this needs a client certificate of an authority in TPS_TLS_CLIENT_CA")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// needs wraps handlers that take a role.
func (a *api) needs(need Role) func(http.HandlerFunc) http.Handler {
	return func(handler http.HandlerFunc) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if a.allow(w, r, need) {
				handler(w, r)
			}
		})
	}
}

// allow answers the request itself and returns false where the role is missing.
func (a *api) allow(w http.ResponseWriter, r *http.Request, need Role) bool {
	if len(a.tokens) > 0 {
		return a.allowToken(w, r, need)
	}
	if need == RoleRead {
		return true
	}
	if err := thisHostAlone(r); err != nil {
		httpjson.Problem(w, http.StatusForbidden, "without TPS_API_TOKENS writes are for this host alone: "+err.Error())
		return false
	}
	return true
}

// allowToken is allow where tokens are set; the challenges are those of RFC 6750.
func (a *api) allowToken(w http.ResponseWriter, r *http.Request, need Role) bool {
	const challenge = `Bearer realm="ratelimitd"`
	role, given := a.role(r)
	switch {
	case !given:
		w.Header().Set("WWW-Authenticate", challenge)
		httpjson.Problem(w, http.StatusUnauthorized, "this needs a token of TPS_API_TOKENS: Authorization: Bearer <token>")
	case role == "":
		w.Header().Set("WWW-Authenticate", challenge+`, error="invalid_token"`)
		httpjson.Problem(w, http.StatusUnauthorized, "the token is none of TPS_API_TOKENS")
	case need == RoleWrite && role != RoleWrite:
		w.Header().Set("WWW-Authenticate", challenge+`, error="insufficient_scope"`)
		httpjson.Problem(w, http.StatusForbidden, "the token's role is read; this needs write")
	default:
		return true
	}
	return false
}

// role returns the role of the token that a request gives, empty where that is none of ours. It
// compares every token, so that the time taken tells nothing.
func (a *api) role(r *http.Request) (role Role, given bool) {
	scheme, secret, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || secret == "" {
		return "", false
	}
	hash := sha256.Sum256([]byte(secret))
	for i := range a.tokens {
		if subtle.ConstantTimeCompare(hash[:], a.tokens[i].hash[:]) == 1 && role != RoleWrite {
			role = a.tokens[i].Role
		}
	}
	return role, true
}

// The types of bodies. A page in a browser may send neither to another host than its own without asking
// that one first (CORS), which is why others do not do where there are no tokens.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
)

// typeOf is one of the types above, whatever name a header has for it; empty for any other.
func typeOf(header string) string {
	kind, _, err := mime.ParseMediaType(header)
	if err != nil {
		return ""
	}
	switch kind {
	case typeJSON, typeNDJSON:
		return kind
	case "application/ndjson", "application/jsonl", "application/x-jsonlines":
		return typeNDJSON
	}
	return ""
}

// thisHostAlone says why a request is not one that somebody on this host made by hand. A
// sidecar delivers from 127.0.0.6, and a page in a browser reaches localhost under the name of
// its own host: neither may write.
func thisHostAlone(r *http.Request) error {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return fmt.Errorf("the peer %q is no address", r.RemoteAddr)
	}
	if addr := peer.Addr().Unmap().WithZone(""); addr != netip.AddrFrom4([4]byte{127, 0, 0, 1}) && addr != netip.IPv6Loopback() {
		return fmt.Errorf("the peer %s is not 127.0.0.1 or ::1", addr)
	}
	if !loopbackName(r.Host) {
		return fmt.Errorf("the host %q is not localhost, 127.0.0.1 or [::1]", r.Host)
	}
	for name := range strings.SplitSeq(forwarded, ", ") {
		if _, there := r.Header[http.CanonicalHeaderKey(name)]; there {
			return fmt.Errorf("the header %s says that the request was forwarded", name)
		}
	}
	if r.ContentLength != 0 {
		if typeOf(r.Header.Get("Content-Type")) == "" {
			return fmt.Errorf("the content type %q is not %s or %s", r.Header.Get("Content-Type"), typeJSON, typeNDJSON)
		}
	}
	return nil
}

func loopbackName(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil { // no port
		name = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return strings.EqualFold(name, "localhost") || name == "127.0.0.1" || name == "::1"
}
