//go:build e2e

package e2e_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const gatewayListener = "default/eg/http"

// gatewayBase is what Envoy Gateway 1.9 makes of a Gateway with one listener for HTTP, as far as the
// patches see it: the bootstrap of envoy.yaml without its filter, its rate limits and its cluster
// ratelimitd, and with the connection manager in the default filter chain.
func gatewayBase(tb testing.TB) (base, listener map[string]any) {
	tb.Helper()
	base = yamlDocuments(tb, "envoy/envoy.yaml")[0]
	hcm := connectionManager(tb, base)
	filters := at[[]any](tb, hcm, "http_filters")
	hcm["http_filters"] = filters[len(filters)-1:] // the router
	delete(at[map[string]any](tb, hcm, "route_config", "virtual_hosts", 0, "routes", 0, "route"), "rate_limits")
	static := at[map[string]any](tb, base, "static_resources")
	static["clusters"] = at[[]any](tb, static, "clusters")[1:]
	listener = at[map[string]any](tb, static, "listeners", 0)
	listener["name"] = gatewayListener
	listener["default_filter_chain"] = at[map[string]any](tb, listener, "filter_chains", 0)
	delete(listener, "filter_chains")
	return base, listener
}

// added is v with value at the place that a JSON pointer names, as the operation add of RFC 6902
// does it.
func added(v any, pointer []string, value any) (any, error) {
	if len(pointer) == 0 {
		return value, nil
	}
	step, last := pointer[0], len(pointer) == 1
	switch v := v.(type) {
	case map[string]any:
		if _, ok := v[step]; !ok && !last {
			return nil, fmt.Errorf("there is no %s", step)
		}
		inner, err := added(v[step], pointer[1:], value)
		v[step] = inner
		return v, err
	case []any:
		i, err := strconv.Atoi(step)
		switch {
		case err != nil || i < 0 || i > len(v) || (i == len(v) && !last):
			return nil, fmt.Errorf("there is no element %s of %d", step, len(v))
		case last:
			return slices.Insert(v, i, value), nil
		}
		v[i], err = added(v[i], pointer[1:], value)
		return v, err
	}
	return nil, fmt.Errorf("nothing is below %s", step)
}

// applyPatches does what Envoy Gateway does with the EnvoyPatchPolicy of the file.
func applyPatches(tb testing.TB, base, listener map[string]any) (filter, cluster map[string]any) {
	tb.Helper()
	for _, doc := range yamlDocuments(tb, "envoy/envoy-gateway.yaml") {
		if doc["kind"] != "EnvoyPatchPolicy" {
			continue
		}
		for i := range at[[]any](tb, doc, "spec", "jsonPatches") {
			patch := at[map[string]any](tb, doc, "spec", "jsonPatches", i)
			path, value := at[string](tb, patch, "operation", "path"), at[map[string]any](tb, patch, "operation", "value")
			what := strings.Join([]string{at[string](tb, patch, "operation", "op"), at[string](tb, patch, "type"), at[string](tb, patch, "name")}, " ")
			switch {
			case what == "add type.googleapis.com/envoy.config.listener.v3.Listener "+gatewayListener && strings.HasPrefix(path, "/"):
				if _, err := added(listener, strings.Split(path[1:], "/"), value); err != nil {
					tb.Fatalf("%s: %v", path, err)
				}
				filter = value
			case what == "add type.googleapis.com/envoy.config.cluster.v3.Cluster ratelimitd" && path == "":
				static := at[map[string]any](tb, base, "static_resources")
				static["clusters"] = append(at[[]any](tb, static, "clusters"), value)
				cluster = value
			default:
				tb.Fatalf("the test knows no patch %s at %q", what, path)
			}
		}
	}
	return filter, cluster
}

// What Envoy Gateway would make of the EnvoyPatchPolicy in envoy/envoy-gateway.yaml is a configuration
// that Envoy takes, and its parts name each other.
func TestEnvoyGatewayPatchesAreValid(t *testing.T) {
	base, listener := gatewayBase(t)
	filter, cluster := applyPatches(t, base, listener)
	filters := at[[]any](t, listener, "default_filter_chain", "filters", 0, "typed_config", "http_filters")
	if len(filters) != 2 || at[string](t, filters[0], "name") != "ratelimitd" {
		t.Fatalf("the filters are %v, want ratelimitd and the router", filters)
	}
	body, err := yaml.Marshal(base)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "envoy.yaml")
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), testenv.EnvoyBinary(t), "--mode", "validate", "-c", path).CombinedOutput(); err != nil {
		t.Errorf("Envoy does not take the patches: %v\n%s", err, out)
	}
	calls := at[string](t, filter, "typed_config", "rate_limit_service", "grpc_service", "envoy_grpc", "cluster_name")
	if name := at[string](t, cluster, "name"); calls != name {
		t.Errorf("the filter calls %s, the cluster is %s", calls, name)
	}
}

// Envoy Gateway names a listener after namespace, Gateway and listener.
func TestEnvoyGatewayNamesMatch(t *testing.T) {
	for _, doc := range yamlDocuments(t, "envoy/envoy-gateway.yaml") {
		switch doc["kind"] {
		case "Gateway":
			names := []string{at[string](t, doc, "metadata", "namespace"), at[string](t, doc, "metadata", "name"), at[string](t, doc, "spec", "listeners", 0, "name")}
			if got := strings.Join(names, "/"); got != gatewayListener {
				t.Errorf("Envoy Gateway calls the listener %s, the patch %s", got, gatewayListener)
			}
		case "EnvoyPatchPolicy":
			if at[string](t, doc, "metadata", "namespace")+"/"+at[string](t, doc, "spec", "targetRef", "name") != "default/eg" {
				t.Errorf("the patches are for %v, not for the Gateway default/eg", doc["spec"])
			}
		}
	}
}
