//go:build e2e

package e2e_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// yamlDocuments reads every document of a YAML file.
func yamlDocuments(tb testing.TB, file string) (all []map[string]any) {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(testenv.Root(tb), file))
	if err != nil {
		tb.Fatal(err)
	}
	for dec := yaml.NewDecoder(bytes.NewReader(body)); ; {
		var doc map[string]any
		err := dec.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			tb.Fatalf("%s: %v", file, err)
		}
		if doc != nil {
			all = append(all, doc)
		}
	}
}

// at walks down maps (by key) and lists (by index), and ends the test where there is nothing.
func at[T any](tb testing.TB, v any, path ...any) T {
	tb.Helper()
	for i, step := range path {
		switch step := step.(type) {
		case string:
			m, _ := v.(map[string]any)
			v = m[step]
		case int:
			l, _ := v.([]any)
			if step >= len(l) {
				tb.Fatalf("%v: there is nothing", path[:i+1])
			}
			v = l[step]
		}
	}
	found, ok := v.(T)
	if !ok {
		tb.Fatalf("%v: is a %T", path, v)
	}
	return found
}

const istioCluster = "outbound|8081||ratelimitd.ratelimitd.svc.cluster.local"

// istioBase is what Istio has before the patches: the bootstrap of envoy.yaml without its filter
// and its rate limits, and with the cluster that Istio makes of the Service.
func istioBase(tb testing.TB) map[string]any {
	tb.Helper()
	base := yamlDocuments(tb, "envoy/envoy.yaml")[0]
	hcm := connectionManager(tb, base)
	filters := at[[]any](tb, hcm, "http_filters")
	hcm["http_filters"] = filters[len(filters)-1:] // the router
	delete(at[map[string]any](tb, hcm, "route_config", "virtual_hosts", 0, "routes", 0, "route"), "rate_limits")
	at[map[string]any](tb, base, "static_resources", "clusters", 0)["name"] = istioCluster
	return base
}

func connectionManager(tb testing.TB, base map[string]any) map[string]any {
	tb.Helper()
	return at[map[string]any](tb, base, "static_resources", "listeners", 0, "filter_chains", 0, "filters", 0, "typed_config")
}

// applyFilters does what istiod does with the EnvoyFilters of the file, and returns how many
// patches there were.
func applyFilters(tb testing.TB, base map[string]any, docs []map[string]any) (patches int) {
	tb.Helper()
	hcm := connectionManager(tb, base)
	for _, doc := range docs {
		if doc["kind"] != "EnvoyFilter" {
			continue
		}
		for i := range at[[]any](tb, doc, "spec", "configPatches") {
			patch := at[map[string]any](tb, doc, "spec", "configPatches", i)
			value := at[map[string]any](tb, patch, "patch", "value")
			switch what := at[string](tb, patch, "applyTo") + " " + at[string](tb, patch, "patch", "operation"); what {
			case "HTTP_FILTER INSERT_BEFORE":
				at[string](tb, patch, "match", "listener", "filterChain", "filter", "subFilter", "name")
				hcm["http_filters"] = slices.Insert(at[[]any](tb, hcm, "http_filters"), 0, any(value))
			case "VIRTUAL_HOST MERGE":
				host := at[map[string]any](tb, hcm, "route_config", "virtual_hosts", 0)
				maps.Copy(host, value)
			default:
				tb.Fatalf("the test knows no patch %s", what)
			}
			patches++
		}
	}
	return patches
}

// What istiod would make of envoy/istio.yaml is a configuration that Envoy takes.
func TestIstioPatchesAreValid(t *testing.T) {
	docs := yamlDocuments(t, "envoy/istio.yaml")
	base := istioBase(t)
	if n := applyFilters(t, base, docs); n != 2 {
		t.Fatalf("there are %d patches, want 2", n)
	}
	body, err := yaml.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testenv.EnvoyBinary(t), "--mode", "validate", "-c", path).CombinedOutput(); err != nil {
		t.Errorf("Envoy does not take the patches: %v\n%s", err, out)
	}
	filter := at[map[string]any](t, connectionManager(t, base), "http_filters", 0, "typed_config", "rate_limit_service", "grpc_service", "envoy_grpc")
	if filter["cluster_name"] != istioCluster {
		t.Errorf("the filter calls %v, want Istio's own cluster %s", filter["cluster_name"], istioCluster)
	}
}

// Istio reads a port's protocol from its name, and builds the name of the cluster from Service,
// namespace and port.
func TestIstioServiceMatchesItsCluster(t *testing.T) {
	service := yamlDocuments(t, "envoy/istio.yaml")[0]
	name, namespace := at[string](t, service, "metadata", "name"), at[string](t, service, "metadata", "namespace")
	if got := "outbound|8081||" + name + "." + namespace + ".svc.cluster.local"; got != istioCluster {
		t.Errorf("Istio would call the cluster %s, want %s", got, istioCluster)
	}
	if port := at[map[string]any](t, service, "spec", "ports", 0); port["name"] != "grpc-ratelimit" || port["port"] != 8081 {
		t.Errorf("the first port is %v, want grpc-ratelimit 8081", port)
	}
}

// The annotation keeps the counter by which the alert RatelimitdFailsOpen knows.
func TestIstioKeepsTheCounterOfFailingOpen(t *testing.T) {
	for _, doc := range yamlDocuments(t, "envoy/istio.yaml") {
		if doc["kind"] != "Deployment" {
			continue
		}
		var config struct {
			ProxyStatsMatcher struct {
				InclusionRegexps []string `yaml:"inclusionRegexps"`
			} `yaml:"proxyStatsMatcher"`
		}
		text := at[string](t, doc, "spec", "template", "metadata", "annotations", "proxy.istio.io/config")
		dec := yaml.NewDecoder(bytes.NewReader([]byte(text)))
		dec.KnownFields(true)
		if err := dec.Decode(&config); err != nil {
			t.Fatal(err)
		}
		const counter = "cluster.outbound|80||shop.default.svc.cluster.local.ratelimit.rls.failure_mode_allowed"
		if !slices.ContainsFunc(config.ProxyStatsMatcher.InclusionRegexps, func(r string) bool { return matchesWhole(t, r, counter) }) {
			t.Errorf("none of %q keeps %s", config.ProxyStatsMatcher.InclusionRegexps, counter)
		}
		return
	}
	t.Error("there is no Deployment with the annotation")
}

// matchesWhole tells whether a regular expression of Envoy, which has to match all, does.
func matchesWhole(tb testing.TB, expr, s string) bool {
	tb.Helper()
	re, err := regexp.Compile("^(?:" + expr + ")$")
	if err != nil {
		tb.Fatal(err)
	}
	return re.MatchString(s)
}
