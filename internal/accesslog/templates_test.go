package accesslog

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

func TestTemplates(t *testing.T) {
	all := must(newTemplates([]string{
		"/users", "/users/{id}", "GET /users/{id}", "/users/me", "/users/{id}/orders", "POST /users/{id}/orders", "/users/me/{what}", "/files/{rest...}", "/files/a/{$}", "/docs/",
		"/caf%C3%A9/{x}", "/a%2Fb", "  HEAD   /head  ", "GET /head", "/pkg.Service/Method", "/{tenant}/home", "/{$}", "/MiXed", "/50%25",
	}))
	for _, c := range []struct{ method, path, want string }{
		{"PUT", "/users", "/users"},
		{"PUT", "/users/", ""},
		{"PUT", "/users?a=/b", "/users"},
		{"PUT", "/users#f", "/users"},
		{"PUT", "/users#f?g", "/users"},
		{"GET", "/users/42", "GET /users/{id}"},
		{"HEAD", "/users/42", "GET /users/{id}"},
		{"PUT", "/users/42", "/users/{id}"},
		{"", "/users/42", "/users/{id}"},
		{"get", "/users/42", "/users/{id}"},
		{"GET", "/users/me", "/users/me"},
		{"GET", "/users/me/", ""},
		{"GET", "/users/42/", ""},
		{"GET", "/users//orders", ""},
		{"POST", "/users/42/orders", "POST /users/{id}/orders"},
		{"GET", "/users/42/orders", "/users/{id}/orders"},
		{"GET", "/users/me/orders", "/users/me/{what}"}, // a literal first goes before a literal later
		{"GET", "/users/me/orders/1", ""},
		{"GET", "/files", ""},
		{"GET", "/files/", "/files/{rest...}"},
		{"GET", "/files/a/b//c/", "/files/{rest...}"},
		{"GET", "/files/a/", "/files/a/{$}"},
		{"GET", "/files/a", "/files/{rest...}"},
		{"GET", "/docs", ""},
		{"GET", "/docs/", "/docs/"},
		{"GET", "/docs/a/b", "/docs/"},
		{"GET", "/café/1", "/caf%C3%A9/{x}"},
		{"GET", "/caf%c3%a9/1", "/caf%C3%A9/{x}"},
		{"GET", "/%75sers", "/users"},
		{"GET", "/a%2fb", "/a%2Fb"},
		{"GET", "/a/b", ""},
		{"GET", "/50%", "/50%25"},
		{"GET", "/50%25", "/50%25"},
		{"GET", "/%2", ""},
		{"GET", "/%zz", ""},
		{"GET", "/users/%zz", "GET /users/{id}"},
		{"HEAD", "/head", "HEAD /head"},
		{"GET", "/head", "GET /head"},
		{"POST", "/head", ""},
		{"POST", "/pkg.Service/Method", "/pkg.Service/Method"},
		{"POST", "/pkg.Service/Other", ""},
		{"GET", "/acme/home", "/{tenant}/home"},
		{"GET", "/users/home", "GET /users/{id}"},
		{"GET", "//home", ""},
		{"GET", "/", "/{$}"},
		{"GET", "http://shop.test", "/{$}"},
		{"GET", "http://shop.test/users?x", "/users"},
		{"GET", "http://shop.test?x=/users", "/{$}"},
		{"OPTIONS", "*", ""},
		{"CONNECT", "shop.test:443", ""},
		{"GET", "", ""},
		{"GET", "users", ""},
		{"GET", "://", "/{$}"},
		{"GET", "/mixed", ""},
		{"GET", "/MiXed", "/MiXed"},
		{"GET", "/\x00\xff", ""},
		{"GET", "/users/\xff\x00", "GET /users/{id}"},
		{"GET", "/users/" + strings.Repeat("x%20", 10_000), "GET /users/{id}"},
		{"GET", "/" + strings.Repeat("%41", 10_000), ""},
		{"GET", strings.Repeat("/", 10_000), ""},
	} {
		if got := all.match(c.method, c.path); got != c.want {
			t.Errorf("%s %.50q: template %q, want %q", c.method, c.path, got, c.want)
		}
	}
}

func TestRootMatchesEverything(t *testing.T) {
	all := must(newTemplates([]string{"/", "/a/{b}"}))
	for path, want := range map[string]string{"/": "/", "/x/y/z": "/", "/a": "/", "/a/b": "/a/{b}", "/a/b/c": "/", "*": ""} {
		if got := all.match("GET", path); got != want {
			t.Errorf("%q: template %q, want %q", path, got, want)
		}
	}
}

func TestFaultsOfTemplates(t *testing.T) {
	for text, want := range map[string]string{
		"":                             "is neither a path nor",
		"users":                        "is neither a path nor",
		"shop.test/users":              "is neither a path nor",
		"GET":                          "is neither a path nor",
		"get /users":                   "is neither a path nor",
		"GET /users /x":                "is neither a path nor",
		"/users?x=1":                   "is neither a path nor",
		"/users#x":                     "is neither a path nor",
		"/a//b":                        `segment "": is in no path`,
		"/a/../b":                      `segment "..": is in no path`,
		"/a/.":                         `segment ".": is in no path`,
		"/a/{x":                        `segment "{x": is neither a text nor a {name}`,
		"/a/x}":                        `segment "x}": is neither a text nor a {name}`,
		"/a/{}":                        `segment "{}": is neither a text nor a {name}`,
		"/a/b{x}":                      `segment "b{x}": is neither a text nor a {name}`,
		"/a/{x}{y}":                    `segment "{x}{y}": is neither a text nor a {name}`,
		"/a/{...}":                     `segment "{...}": is neither a text nor a {name}`,
		"/a/{x...}/b":                  `segment "{x...}": is neither a text nor a {name}`,
		"/a/{$}/b":                     `segment "{$}": is neither a text nor a {name}`,
		"/a/%zz":                       `segment "%zz": invalid URL escape`,
		"/a/\x00":                      "is not valid UTF-8, or has a control character",
		"/a/\xff":                      "is not valid UTF-8, or has a control character",
		"/" + strings.Repeat("a", 255): "is longer than 255 bytes",
		"/first":                       `matches what "/first" matches`,
		"/b/{y}":                       `matches what "/b/{x}" matches`,
		"/c/":                          `matches what "/c/{x...}" matches`,
		"GET  /d":                      `matches what "GET /d" matches`,
	} {
		_, err := newTemplates([]string{"/first", "/b/{x}", "/c/{x...}", "GET /d", text})
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "path template ") {
			t.Errorf("template %.40q: error %v, want %q", text, err, want)
		}
	}
}

// anyTemplate draws templates and paths of so few segments that they meet often.
func anyTemplate(t *rapid.T) string {
	method := rapid.SampledFrom([]string{"", "", "GET ", "POST ", "HEAD "}).Draw(t, "method")
	segments := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c%2Fd", "{x}", "{y}"}), 0, 4).Draw(t, "segments")
	for i, s := range segments { // ServeMux wants names that differ
		if s[0] == '{' {
			segments[i] = "{" + string(rune('p'+i)) + "}"
		}
	}
	end := rapid.SampledFrom([]string{"", "", "", "/", "/{$}", "/{rest...}"}).Draw(t, "end")
	if path := strings.Join(append([]string{""}, segments...), "/"); path+end != "" {
		return method + path + end
	}
	return method + "/"
}

// Wherever ServeMux takes templates, and finds one without cleaning the path first, it is this one.
func TestTemplatesLikeServeMux(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mux := http.NewServeMux()
		var taken []string
		for _, text := range rapid.SliceOfNDistinct(rapid.Custom(anyTemplate), 1, 8, rapid.ID[string]).Draw(t, "templates") {
			if register(mux, text) {
				taken = append(taken, text)
			}
		}
		all, err := newTemplates(taken)
		if err != nil {
			t.Fatalf("templates %q: %v, but ServeMux takes them", taken, err)
		}
		for range 20 {
			path := "/" + strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c%2Fd", "c%2fd", "d", "%61"}), 0, 5).Draw(t, "path"), "/")
			if path != "/" && rapid.Bool().Draw(t, "slash") {
				path += "/"
			}
			method := rapid.SampledFrom([]string{"GET", "POST", "HEAD", "PUT"}).Draw(t, "method")
			want, asksForSlash := muxMatch(mux, method, path)
			if got := all.match(method, path); !asksForSlash && got != want {
				t.Fatalf("templates %q, %s %s: %q, ServeMux has %q", taken, method, path, got, want)
			}
		}
	})
}

// register is false for a template that ServeMux does not take beside the others.
func register(mux *http.ServeMux, text string) (ok bool) {
	defer func() { ok = recover() == nil }()
	mux.Handle(text, http.NotFoundHandler())
	return true
}

// muxMatch asks ServeMux. asksForSlash: it knows the path with a slash at its end alone, and redirects.
func muxMatch(mux *http.ServeMux, method, path string) (pattern string, asksForSlash bool) {
	r := httptest.NewRequest(method, "/", http.NoBody)
	r.URL = must(url.Parse(path))
	handler, pattern := mux.Handler(r)
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return pattern, w.Code/100 == 3
}

func FuzzTemplates(f *testing.F) {
	for _, template := range []string{"/users/{id}", "GET /files/{rest...}", "/a%2Fb/{$}", "/", "/a/{x", "x"} {
		for _, path := range []string{"/users/42?x", "/files/a/b", "http://h/a%2fb/", "%", "/%", "/%zz/{", "*"} {
			f.Add(template, "/{any}/{thing}", "GET", path)
		}
	}
	f.Fuzz(func(t *testing.T, first, second, method, path string) {
		all, err := newTemplates([]string{first, second})
		got := all.match(method, path)
		if err == nil && got != "" && traffic.Clean(got) != got {
			t.Errorf("templates %q and %q, %s %q: %q cannot be stored", first, second, method, path, got)
		}
		if again := all.match(method, path+"?query"); !strings.ContainsAny(path, "?#") && again != got && path != "" && path[0] == '/' {
			t.Errorf("templates %q and %q, %s %q: %q, with a query %q", first, second, method, path, got, again)
		}
	})
}
