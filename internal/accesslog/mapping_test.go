package accesslog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// told is an entry that tells a name in every way there is.
func told() entry {
	return entry{
		cluster: "cluster", route: "route", method: "GET", authority: "Host.Test:8443", path: "/users/7?x=1",
		tagGateway: "tag-gw", tagEndpoint: "tag-ep", decision: decision{gateway: "dec-gw", endpoint: "dec-ep"},
	}
}

func TestSourcesOfNames(t *testing.T) {
	without := func(change func(*entry)) entry {
		e := told()
		change(&e)
		return e
	}
	noDecision := without(func(e *entry) { e.decision = decision{} })
	templates := []string{"/users/{id}"}
	for name, c := range map[string]struct {
		cfg               MappingConfig
		entry             entry
		gateway, endpoint string
	}{
		"the decision by default":                          {MappingConfig{PathTemplates: templates}, told(), "dec-gw", "dec-ep"},
		"a decision about the gateway as a whole":          {MappingConfig{PathTemplates: templates}, without(func(e *entry) { e.decision.endpoint = "" }), "dec-gw", ""},
		"tags after that":                                  {MappingConfig{PathTemplates: templates}, noDecision, "tag-gw", "tag-ep"},
		"a path where the tag tells no endpoint":           {MappingConfig{PathTemplates: templates}, without(func(e *entry) { e.decision, e.tagEndpoint = decision{}, "-" }), "tag-gw", "/users/{id}"},
		"no route where the gateway is tagged":             {MappingConfig{}, without(func(e *entry) { e.decision, e.tagEndpoint = decision{}, "" }), "tag-gw", ""},
		"a route where the endpoint is not to be a tag":    {MappingConfig{Endpoint: []string{"decision", "route"}}, noDecision, "tag-gw", "route"},
		"a route before the tag":                           {MappingConfig{Endpoint: []string{"route", "tag"}}, noDecision, "tag-gw", "route"},
		"a route with a cluster":                           {MappingConfig{}, without(func(e *entry) { e.decision, e.tagGateway, e.tagEndpoint = decision{}, "-", "-" }), "cluster", "route"},
		"a path goes before the route":                     {MappingConfig{PathTemplates: templates}, without(func(e *entry) { e.decision, e.tagGateway, e.tagEndpoint = decision{}, "", "" }), "cluster", "/users/{id}"},
		"a path that no template has":                      {MappingConfig{Endpoint: []string{"path"}, PathTemplates: []string{"/carts/{id}"}}, noDecision, "tag-gw", ""},
		"a path without any template":                      {MappingConfig{Endpoint: []string{"path"}}, noDecision, "tag-gw", ""},
		"the authority":                                    {MappingConfig{Gateway: []string{"authority", "cluster"}}, told(), "host.test", "tag-ep"},
		"no authority":                                     {MappingConfig{Gateway: []string{"authority", "cluster"}}, without(func(e *entry) { e.authority = ":80" }), "cluster", "tag-ep"},
		"the decision's endpoint goes with its gateway":    {MappingConfig{Gateway: []string{"cluster"}, Endpoint: []string{"decision", "route"}}, told(), "cluster", "route"},
		"whoever leaves the decision out wants none of it": {MappingConfig{Gateway: []string{"decision"}, Endpoint: []string{"path"}, PathTemplates: templates}, told(), "dec-gw", "/users/{id}"},
		"a source before the decision":                     {MappingConfig{Gateway: []string{"tag", "decision"}}, told(), "tag-gw", "tag-ep"},
		"nothing":                                          {MappingConfig{PathTemplates: templates}, entry{}, "-", ""},
	} {
		gateway, endpoint := must(NewMapping(c.cfg)).names(&c.entry)
		if gateway != c.gateway || endpoint != c.endpoint {
			t.Errorf("%s: mapping %+v of %+v: %q, %q; want %q, %q", name, c.cfg, c.entry, gateway, endpoint, c.gateway, c.endpoint)
		}
	}
}

func TestHosts(t *testing.T) {
	for authority, want := range map[string]string{
		"": "", "-": "", "shop.test": "shop.test", "SHOP.Test:443": "shop.test", "[::1]:80": "::1", "[2001:DB8::1]": "2001:db8::1", "::1": "::1", ":80": "", "[": "", "a:b": "a", "É.test": "é.test",
	} {
		if got := hostOf(authority); got != want {
			t.Errorf("host of %q: %q, want %q", authority, got, want)
		}
	}
	if got := len(hostOf(strings.Repeat("X", 10<<20))); got > 256 {
		t.Errorf("a host of 10 MiB became one of %d bytes", got)
	}
}

func TestFaultsOfMappings(t *testing.T) {
	for _, c := range []struct {
		cfg  MappingConfig
		want []string
	}{
		{MappingConfig{Gateway: []string{"host"}}, []string{`gateway source "host": is not one of decision, tag, cluster, authority`}},
		{MappingConfig{Gateway: []string{"path"}}, []string{`gateway source "path": is not one of`}},
		{MappingConfig{Endpoint: []string{"cluster"}}, []string{`endpoint source "cluster": is not one of decision, tag, path, route`}},
		{MappingConfig{Endpoint: []string{"tag", "", "tag"}}, []string{`endpoint source "": is not one of`, `endpoint source "tag": comes twice`}},
		{MappingConfig{Gateway: []string{"x"}, Endpoint: []string{"y"}, PathTemplates: []string{"z", "/ok", "/a/{"}}, []string{`gateway source "x"`, `endpoint source "y"`, `path template "z"`, `path template "/a/{"`}},
	} {
		_, err := NewMapping(c.cfg)
		if err == nil {
			t.Errorf("mapping %+v: no error, want %q", c.cfg, c.want)
			continue
		}
		lines := strings.Split(err.Error(), "\n")
		if len(lines) != len(c.want) {
			t.Errorf("mapping %+v: %d faults, want %d: %v", c.cfg, len(lines), len(c.want), err)
			continue
		}
		for i, want := range c.want {
			if !strings.HasPrefix(lines[i], want) {
				t.Errorf("mapping %+v: fault %d is %q, want %q", c.cfg, i, lines[i], want)
			}
		}
	}
}

// What the client asked for is read only where a name can come from it.
func TestRequestsAreReadWhereTheyName(t *testing.T) {
	for _, c := range []struct {
		cfg  MappingConfig
		want bool
	}{
		{MappingConfig{}, false},
		{MappingConfig{PathTemplates: []string{"/"}}, true},
		{MappingConfig{PathTemplates: []string{"/a"}, Endpoint: []string{"route"}}, false},
		{MappingConfig{Gateway: []string{"authority"}}, true},
	} {
		m := receiver(t, c.cfg)
		var got string
		m.visitor.entry = func(e *entry) { got = e.path }
		if err := m.UnmarshalWire(marshal(t, httpLogs(logged()))); err != nil {
			t.Fatal(err)
		}
		if (got != "") != c.want {
			t.Errorf("mapping %+v: path %q was read, want one: %t", c.cfg, got, c.want)
		}
	}
}

// A name that comes by any source is made fit to be stored, through the stream too.
func TestNamesOfAnySourceAreCleaned(t *testing.T) {
	m := must(NewMapping(MappingConfig{Gateway: []string{"authority"}, Endpoint: []string{"route"}}))
	n := namer{mapping: m}
	e := entry{authority: "a\x00\xff:80", route: "\r\n" + strings.Repeat("r", 300)}
	got := n.transaction(&e, receivedAt)
	assertStorable(t, got)
	if want := "a\ufffd\ufffd"; got.Gateway != want {
		t.Errorf("gateway %q, want %q", got.Gateway, want)
	}
	if diff := cmp.Diff(255, len(got.Endpoint)); diff != "" {
		t.Errorf("length of the endpoint: %s", diff)
	}
}
