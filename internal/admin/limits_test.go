package admin_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

func decode[T any](tb testing.TB, body string) (v T) {
	tb.Helper()
	if err := json.Unmarshal([]byte(body), &v); err != nil {
		tb.Fatalf("decoding %q: %v", body, err)
	}
	return v
}

func TestPutAndGetBack(t *testing.T) {
	s := start(t, options{})
	got := s.put(t, `{"gateway":"shop","endpoint":"pay","per":"user","domain":"edge","max_tps":7,"enabled":false,"burst":9,"max_wait_ms":250,"shadow":true,"note":"why"}`)
	got.want(t, http.StatusOK, `"domain":"edge","gateway":"shop","endpoint":"pay","per":"user","max_tps":7,"enabled":false,"burst":9,"max_wait_ms":250,"shadow":true,"note":"why"`)
	stored := decode[limits.Row](t, got.body)
	if stored.Version < 1 || stored.CreatedAt == nil || stored.UpdatedAt == nil {
		t.Errorf("stored is %s", got.body)
	}
	list := s.get(t, "/api/v1/limits")
	if want := `{"limits":[` + strings.TrimSpace(got.body) + "]}\n"; list.body != want {
		t.Errorf("the list is %s, want %s", list.body, want)
	}
	// The row can be sent back as it is, and is the same then.
	if again := s.put(t, strings.TrimSpace(got.body)); again.body != got.body {
		t.Errorf("sent back it is %s, was %s", again.body, got.body)
	}
	// It is whole: what is not said falls back to its default.
	bare := decode[limits.Row](t, s.put(t, `{"gateway":"shop","endpoint":"pay","per":"user","domain":"edge"}`).body)
	if *bare.MaxTPS != 1000 || !*bare.Enabled || bare.Burst != nil || *bare.MaxWaitMS != 0 || *bare.Shadow || *bare.Note != "" {
		t.Errorf("without other columns it is %+v", bare)
	}
	if !bare.CreatedAt.Equal(*stored.CreatedAt) || bare.Version <= stored.Version {
		t.Errorf("the row became version %d of %v, was %d of %v", bare.Version, bare.CreatedAt, stored.Version, stored.CreatedAt)
	}
}

// Absent, null and empty are the same row.
func TestNullAbsentEmpty(t *testing.T) {
	s := start(t, options{})
	for i, body := range []string{
		`{"gateway":"shop","max_tps":1}`,
		`{"gateway":"shop","domain":null,"endpoint":null,"per":null,"max_tps":2}`,
		`{"gateway":"shop","domain":"","endpoint":"","per":"","max_tps":3}`,
	} {
		s.put(t, body).want(t, http.StatusOK, fmt.Sprintf(`"domain":"","gateway":"shop","endpoint":null,"per":null,"max_tps":%d,`, i+1))
		if n := s.current.Load().Len(); n != 1 {
			t.Fatalf("after %s there are %d rows", body, n)
		}
	}
	for _, query := range []string{"gateway=shop", "gateway=shop&domain=&endpoint=&per="} {
		s.put(t, `{"gateway":"shop"}`).want(t, http.StatusOK, "")
		s.do(t, request{method: http.MethodDelete, path: "/api/v1/limits?" + query}).want(t, http.StatusNoContent, "")
		if n := s.current.Load().Len(); n != 0 {
			t.Fatalf("after DELETE of %s there are %d rows", query, n)
		}
	}
}

// What stands in a body, and the one answer to it.
func TestPutBodies(t *testing.T) {
	s := start(t, options{})
	column := func(name, value string) string { return `{"gateway":"shop","` + name + `":` + value + `}` }
	const noNumber = ": is no whole number"
	long := strings.Repeat("x", 256)
	tests := []struct {
		body string
		code int
		want string
	}{
		{column("max_tps", "0"), 200, `"max_tps":0`},
		{column("max_tps", "-0"), 200, `"max_tps":0`},
		{column("max_tps", "1000000000"), 200, `"max_tps":1000000000`},
		{column("max_tps", "null"), 200, `"max_tps":1000`},
		{column("burst", "null"), 200, `"burst":null`},
		{column("enabled", "null"), 200, `"enabled":true`},
		{column("note", `"two\nlines"`), 200, `"note":"two\nlines"`},
		{column("endpoint", `"\u00e9 \ud83d\udcb3 \\ud83d"`), 200, `"endpoint":"é 💳 \\ud83d"`},
		{column("endpoint", `"/api/*"`), 200, `"endpoint":"/api/*"`},
		{column("version", `"ignored"`), 200, `"version":`},
		{column("created_at", "[1]"), 200, `"created_at":"20`},
		{column("updated_at", "7"), 200, `"updated_at":"20`},
		{" \r\n\t" + row + "\n", 200, `"max_tps":5`},

		{"", 400, "body: is empty"},
		{" \n", 400, "body: is empty"},
		{"max_tps=5", 400, "body: is not JSON: at byte 1: invalid character 'm'"},
		{`{"gateway":"shop"`, 400, "body: is not JSON: at byte 17: unexpected end"},
		{row + row, 400, "body: is not JSON: at byte 31: invalid character '{' after top-level value"},
		{`{"gateway":"shop",}`, 400, "body: is not JSON"},
		{`{'gateway':'shop'}`, 400, "body: is not JSON"},
		{column("max_tps", "05"), 400, "body: is not JSON"},
		{column("max_tps", "+5"), 400, "body: is not JSON"},
		{column("max_tps", "0x5"), 400, "body: is not JSON"},
		{column("max_tps", "NaN"), 400, "body: is not JSON"},
		{"\ufeff" + row, 400, "body: is not JSON"},
		{column("note", "\"\xff\""), 400, "body: is not UTF-8"},
		{column("note", "\"a\nb\""), 400, "body: is not JSON"},
		{strings.Repeat("[", 20000), 400, "exceeded max depth"},

		{"null", 422, `body "null": is no JSON object`},
		{"[]", 422, `body "[]": is no JSON object`},
		{"[" + row + "]", 422, "is no JSON object"},
		{`"shop"`, 422, "is no JSON object"},
		{"5", 422, `body "5": is no JSON object`},
		{"{}", 422, `gateway "": is empty`},
		{`{"gateway":null}`, 422, `gateway "": is empty`},
		{`{"gateway":5}`, 422, "gateway 5: is no text"},
		{`{"gateway":["shop"]}`, 422, `gateway ["shop"]: is no text`},
		{`{"gateway":{}}`, 422, "gateway {}: is no text"},
		{`{"gateway":true}`, 422, "gateway true: is no text"},
		{`{"gateway":"` + long + `"}`, 422, "(256 bytes): is longer than 255 bytes"},
		{`{"gateway":"a\u0000"}`, 422, `gateway "a\x00": has a control character`},
		{column("endpoint", `"\ud83d"`), 422, `endpoint "\ud83d": has one half of a surrogate pair`},
		{column("endpoint", `"\udcb3\ud83d"`), 422, "has one half of a surrogate pair"},
		{column("endpoint", `"\ud83dx\udcb3"`), 422, "has one half of a surrogate pair"},
		{column("max_tps", "1.5"), 422, "max_tps 1.5" + noNumber},
		{column("max_tps", "5.0"), 422, "max_tps 5.0" + noNumber},
		{column("max_tps", "1e3"), 422, "max_tps 1e3" + noNumber},
		{column("max_tps", "1e400"), 422, "max_tps 1e400" + noNumber},
		{column("max_tps", `"5"`), 422, `max_tps "5"` + noNumber},
		{column("max_tps", "true"), 422, "max_tps true" + noNumber},
		{column("max_tps", "[5]"), 422, "max_tps [5]" + noNumber},
		{column("max_tps", "9223372036854775808"), 422, "max_tps 9223372036854775808" + noNumber},
		{column("max_tps", strings.Repeat("9", 300)), 422, "max_tps " + strings.Repeat("9", 64) + "…" + noNumber},
		{column("max_tps", "-1"), 422, "max_tps -1: is not within 0 to 1000000000"},
		{column("max_tps", "1000000001"), 422, "max_tps 1000000001: is not within 0 to 1000000000"},
		{column("burst", "0"), 422, "burst 0: is not within 1 to 1000000000"},
		{column("burst", "-1"), 422, "burst -1: is not within 1 to 1000000000"},
		{column("max_wait_ms", "1800001"), 422, "max_wait_ms 1800001: is not within 0 to 1800000"},
		{column("max_wait_ms", `"5s"`), 422, `max_wait_ms "5s"` + noNumber},
		{column("enabled", `"true"`), 422, `enabled "true": is not true or false`},
		{column("enabled", "1"), 422, "enabled 1: is not true or false"},
		{column("shadow", `""`), 422, `shadow "": is not true or false`},
		{column("note", `"`+strings.Repeat("x", 4097)+`"`), 422, "(4097 bytes): is longer than 4096 bytes"},
		{column("max_tsp", "5"), 422, `field "max_tsp": is no column of a limit`},
		{column("MAX_TPS", "5"), 422, `field "MAX_TPS": is no column of a limit`},
		{column("", "5"), 422, `field "": is no column of a limit`},
		{column(long, "5"), 422, `field "` + long[:64] + `"…: is no column of a limit`},
		{column("gateway", `"bank"`), 422, `gateway "bank": comes twice`},
		{`{"gateway":"shop","g\u0061teway":"bank"}`, 422, `gateway "bank": comes twice`},
		{`{"max_tps":-1,"burst":0}`, 422, `gateway "": is empty; max_tps -1: is not within 0 to 1000000000; burst 0: is not`},
		{`{"gateway":"x","a":1,"enabled":2}`, 422, `field "a": is no column of a limit; enabled 2: is not true or false`},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprintf("%.60s", tt.body), func(t *testing.T) {
			before := s.current.Load()
			got := s.put(t, tt.body)
			if tt.code == http.StatusOK {
				got.want(t, tt.code, tt.want)
				return
			}
			if tt.body == "" { // a request without a body has no content type either
				got = s.do(t, request{method: http.MethodPut, path: "/api/v1/limits"})
			}
			got.wantProblem(t, tt.code, tt.want)
			if s.current.Load() != before {
				t.Error("the limits have changed")
			}
		})
	}
}

func TestPutLargeBodies(t *testing.T) {
	s := start(t, options{})
	const largest = 1 << 20
	fill := func(n int) string { return row + strings.Repeat(" ", n-len(row)) }
	s.put(t, fill(largest)).want(t, http.StatusOK, "shop")
	s.put(t, fill(largest+1)).wantProblem(t, http.StatusRequestEntityTooLarge, "body: is over 1048576 bytes")
	// Chunked, so that no header tells the length.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPut, "http://"+s.addr+"/api/v1/limits", io.MultiReader(strings.NewReader(fill(largest+1))))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Transport{DisableKeepAlives: true}).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a chunked body is answered with %d", resp.StatusCode)
	}
}

// A body that does not come is not waited for; the time that the store takes is not counted.
func TestPutSlowly(t *testing.T) {
	s := start(t, options{cfg: admin.Config{BodyTimeout: 50 * time.Millisecond}})
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // what it still holds is of no interest
	if _, err := fmt.Fprintf(conn, "PUT /api/v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	reply{resp.StatusCode, resp.Header, string(body)}.wantProblem(t, http.StatusRequestTimeout, "body: has not arrived within 50ms")

	hanging := &fake{gone: make(chan struct{})}
	s = start(t, options{store: hanging, cfg: admin.Config{BodyTimeout: time.Millisecond}})
	conn, err = new(net.Dialer).DialContext(t.Context(), "tcp", s.addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "PUT /api/v1/limits HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(row), row); err != nil {
		t.Fatal(err)
	}
	select {
	case <-hanging.gone:
		t.Error("the request was ended while the store worked")
	case <-time.After(100 * time.Millisecond):
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	<-hanging.gone // of a caller who has gone the store hears
}

func TestDelete(t *testing.T) {
	s := start(t, options{})
	s.put(t, `{"domain":"edge","gateway":"a b/*","endpoint":"é&=","per":"user"}`).want(t, http.StatusOK, "")
	const key = "domain=edge&gateway=a+b%2F%2a&endpoint=%C3%A9%26%3D&per=user"
	tests := []struct {
		query string
		code  int
		want  string
	}{
		{"domain=edge&gateway=a+b%2F%2a&endpoint=%C3%A9%26%3D", 404, `gateway "a b/*", endpoint "é&=", per ""): no such limit`},
		{"", 422, `gateway "": is empty`},
		{"gateway=", 422, `gateway "": is empty`},
		{"gateway=a%00", 422, `gateway "a\x00": has a control character`},
		{"gateway=%ff", 422, `gateway "\xff": is not valid UTF-8`},
		{"gateway=" + strings.Repeat("x", 256), 422, "is longer than 255 bytes"},
		{"gateway=shop&gateway=bank", 422, "query parameter gateway: comes 2 times"},
		{"gatway=shop", 422, `query parameter "gatway": is none of [domain gateway endpoint per per_seconds]`},
		{"Gateway=shop", 422, `query parameter "Gateway": is none of`},
		{"gateway=%zz", 422, `query "gateway=%zz": invalid URL escape`},
		{"gateway=a;b", 422, "invalid semicolon"},
	}
	for _, tt := range tests {
		t.Run(tt.query, func(t *testing.T) {
			s.do(t, request{method: http.MethodDelete, path: "/api/v1/limits?" + tt.query}).wantProblem(t, tt.code, tt.want)
			if s.current.Load().Len() != 1 {
				t.Error("the row is gone")
			}
		})
	}
	got := s.do(t, request{method: http.MethodDelete, path: "/api/v1/limits?" + key})
	if got.code != http.StatusNoContent || got.body != "" || s.current.Load().Len() != 0 {
		t.Errorf("DELETE: %d %q; %d rows are left", got.code, got.body, s.current.Load().Len())
	}
	s.do(t, request{method: http.MethodDelete, path: "/api/v1/limits?" + key}).wantProblem(t, http.StatusNotFound, "no such limit")
}

func TestListIsSorted(t *testing.T) {
	s := start(t, options{})
	if got := s.get(t, "/api/v1/limits"); got.body != "{\"limits\":[]}\n" || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("the empty list is %s of %s", got.body, got.header.Get("Content-Type"))
	}
	for _, body := range []string{
		`{"gateway":"b"}`, `{"gateway":"a","endpoint":"z"}`, `{"gateway":"a","endpoint":"y","per":"k"}`, `{"gateway":"a","endpoint":"y"}`,
		`{"gateway":"a"}`, `{"domain":"edge","gateway":"a"}`, `{"gateway":"a*"}`,
	} {
		s.put(t, body).want(t, http.StatusOK, "")
	}
	var got []string
	for _, r := range decode[struct{ Limits []limits.Row }](t, s.get(t, "/api/v1/limits").body).Limits {
		l, err := r.Limit()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, l.Domain+" "+l.Label())
	}
	want := []string{" a", " a/y", " a/y{k}", " a/z", " a*", " b", "edge a"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestActive(t *testing.T) {
	s := start(t, options{})
	for _, body := range []string{
		`{"gateway":"g","max_tps":500}`, `{"gateway":"g","endpoint":"e","max_tps":100}`, `{"gateway":"only","endpoint":"e*","max_tps":0,"shadow":true}`,
		`{"gateway":"off","enabled":false}`, `{"gateway":"g","endpoint":"off","enabled":false}`, `{"gateway":"each","per":"user"}`,
		`{"domain":"edge","gateway":"g","max_tps":7}`,
	} {
		s.put(t, body).want(t, http.StatusOK, "")
	}
	for query, want := range map[string]string{
		"":             `{"gateway_limits":{"g":500},"endpoint_limits":{"g":{"e":100},"only":{"e*":0}}}`,
		"?domain=":     `{"gateway_limits":{"g":500},"endpoint_limits":{"g":{"e":100},"only":{"e*":0}}}`,
		"?domain=edge": `{"gateway_limits":{"g":7},"endpoint_limits":{}}`, // without those of the common domain
		"?domain=none": `{"gateway_limits":{},"endpoint_limits":{}}`,
	} {
		if got := s.get(t, "/api/v1/limits/active"+query); got.body != want+"\n" {
			t.Errorf("active%s is %s, want %s", query, got.body, want)
		}
	}
	s.get(t, "/api/v1/limits/active?domian=edge").wantProblem(t, http.StatusUnprocessableEntity, `query parameter "domian"`)
}

// Before the first load there is no list, which is not the same as an empty one.
func TestNothingLoaded(t *testing.T) {
	s := start(t, options{empty: true})
	for _, path := range []string{"/api/v1/limits", "/api/v1/limits/active"} {
		s.get(t, path).wantProblem(t, http.StatusServiceUnavailable, "no limits were loaded yet")
	}
}

// awayError is one of those that the stores have.
type awayError bool

func (awayError) Error() string       { return "the store is away" }
func (e awayError) Unavailable() bool { return bool(e) }

func TestStoreErrors(t *testing.T) {
	tests := []struct {
		name string
		err  error
		code int
		log  string // of a fault that an operator should hear of
	}{
		{"not found", fmt.Errorf("x: %w", limits.ErrNotFound), 404, ""},
		{"out of bounds", errors.Join(&limits.FieldError{Field: "burst", Value: "0", Reason: "is bad"}), 422, ""},
		{"away", fmt.Errorf("x: %w", awayError(true)), 503, "level=WARN"},
		{"not away", awayError(false), 500, "level=ERROR"},
		{"unknown", errors.New("x"), 500, "level=ERROR"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := start(t, options{store: &fake{err: tt.err}})
			s.put(t, row).wantProblem(t, tt.code, tt.err.Error())
			s.do(t, request{method: http.MethodDelete, path: "/api/v1/limits?gateway=shop"}).wantProblem(t, tt.code, tt.err.Error())
			logged := s.logs.String()
			if (tt.log == "") != (logged == "") || !strings.Contains(logged, tt.log) {
				t.Errorf("logged is %q, want %q", logged, tt.log)
			}
		})
	}
}
