package verify_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	envoygateway "github.com/envoyproxy/gateway/api/v1alpha1"
	"github.com/google/go-cmp/cmp"
	contour "github.com/projectcontour/contour/apis/projectcontour/v1"
	contouralpha "github.com/projectcontour/contour/apis/projectcontour/v1alpha1"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	istiomesh "istio.io/api/mesh/v1alpha1"
	istionetworking "istio.io/api/networking/v1alpha3"
	istiotelemetry "istio.io/api/telemetry/v1alpha1"
	apps "k8s.io/api/apps/v1"
	autoscaling "k8s.io/api/autoscaling/v2"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
	gateway "sigs.k8s.io/gateway-api/apis/v1"
	gatewaybeta "sigs.k8s.io/gateway-api/apis/v1beta1"
	sigsyaml "sigs.k8s.io/yaml"
)

const (
	helmPackage = "helm.sh/helm/v3/cmd/helm@v3.22.0"
	kubeVersion = "1.30.0"
	root        = "../.."
	chart       = root + "/deploy/helm/ratelimitd"
)

// helm runs the command line, built by go run and cached like any build.
func helm(tb testing.TB, args ...string) (string, error) {
	tb.Helper()
	cmd := exec.Command("go", append([]string{"run", helmPackage}, args...)...)
	dir, err := filepath.Abs(tb.TempDir())
	if err != nil {
		tb.Fatal(err)
	}
	cmd.Env = append(os.Environ(), "HELM_CACHE_HOME="+dir, "HELM_CONFIG_HOME="+dir, "HELM_DATA_HOME="+dir, "GOFLAGS=-mod=mod")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%w: %s", err, stderr.String())
	}
	return stdout.String(), nil
}

// values are the three ways in which the chart is used, and some that it refuses.
var values = map[string][]string{
	"embedded": {"persistence.enabled=true", "descriptors.configMapName=limits"},
	"postgres": {"database.secretName=db", "apiTokens.secretName=tokens", "replicas=2", "serviceMonitor.enabled=true", "networkPolicy.enabled=true", "autoscaling.enabled=true", "env.TPS_DEFAULT_MAX_TPS=500"},
	"mtls":     {"tls.secretName=tls", "tls.clientCA=true", "serviceMonitor.enabled=true", "drain.delaySeconds=10", "drain.timeSeconds=60"},
}

func render(tb testing.TB, set []string) (string, error) {
	tb.Helper()
	return helm(tb, "template", "edge", chart, "--namespace", "ratelimitd", "--kube-version", kubeVersion, "--set", strings.Join(set, ","))
}

func TestChartIsLinted(t *testing.T) {
	for name, set := range values {
		if out, err := helm(t, "lint", "--strict", chart, "--kube-version", kubeVersion, "--set", strings.Join(set, ",")); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// object returns the type of a manifest that its reader would decode it into.
func object(tb testing.TB, kind string) any {
	tb.Helper()
	switch kind {
	case "v1/Service":
		return new(core.Service)
	case "v1/ServiceAccount":
		return new(core.ServiceAccount)
	case "v1/PersistentVolumeClaim":
		return new(core.PersistentVolumeClaim)
	case "apps/v1/Deployment":
		return new(apps.Deployment)
	case "autoscaling/v2/HorizontalPodAutoscaler":
		return new(autoscaling.HorizontalPodAutoscaler)
	case "policy/v1/PodDisruptionBudget":
		return new(policy.PodDisruptionBudget)
	case "networking.k8s.io/v1/NetworkPolicy":
		return new(networking.NetworkPolicy)
	case "monitoring.coreos.com/v1/ServiceMonitor":
		return new(monitoring.ServiceMonitor)
	case "projectcontour.io/v1/HTTPProxy":
		return new(contour.HTTPProxy)
	case "projectcontour.io/v1alpha1/ExtensionService":
		return new(contouralpha.ExtensionService)
	case "projectcontour.io/v1alpha1/ContourConfiguration":
		return new(contouralpha.ContourConfiguration)
	case "networking.istio.io/v1alpha3/EnvoyFilter":
		return new(istionetworking.EnvoyFilter)
	case "telemetry.istio.io/v1/Telemetry":
		return new(istiotelemetry.Telemetry)
	case "gateway.envoyproxy.io/v1alpha1/EnvoyProxy":
		return new(envoygateway.EnvoyProxy)
	case "gateway.envoyproxy.io/v1alpha1/EnvoyPatchPolicy":
		return new(envoygateway.EnvoyPatchPolicy)
	case "gateway.networking.k8s.io/v1/Gateway":
		return new(gateway.Gateway)
	case "gateway.networking.k8s.io/v1beta1/ReferenceGrant":
		return new(gatewaybeta.ReferenceGrant)
	}
	tb.Fatalf("the test knows no type of %s", kind)
	return nil
}

// decode reads every manifest strictly, and returns them by kind.
func decode(tb testing.TB, manifests string) map[string][]any {
	tb.Helper()
	all := map[string][]any{}
	for reader := yaml.NewYAMLReader(bufioReader(manifests)); ; {
		doc, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			tb.Fatal(err)
		}
		var head struct{ APIVersion, Kind string }
		if err := sigsyaml.Unmarshal(doc, &head); err != nil {
			tb.Fatalf("%v in:\n%s", err, doc)
		}
		if head.Kind == "" {
			continue // comments alone
		}
		kind := head.APIVersion + "/" + head.Kind
		into := object(tb, kind)
		if err := decodeStrictly(doc, into); err != nil {
			tb.Errorf("%s: %v in:\n%s", kind, err, doc)
		}
		all[head.Kind] = append(all[head.Kind], into)
	}
}

// decodeStrictly refuses unknown fields. The types of Istio are protobuf messages, whose own reader
// of JSON passes unknown fields over.
func decodeStrictly(doc []byte, into any) error {
	message, ok := into.(proto.Message)
	if !ok {
		return sigsyaml.UnmarshalStrict(doc, into)
	}
	var whole struct {
		APIVersion, Kind string
		Metadata         core.ObjectReference
		Spec             map[string]any
	}
	if err := sigsyaml.UnmarshalStrict(doc, &whole); err != nil {
		return err
	}
	spec, err := sigsyaml.Marshal(whole.Spec)
	if err != nil {
		return err
	}
	body, err := sigsyaml.YAMLToJSON(spec)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(body, message)
}

func TestRenderedManifests(t *testing.T) {
	wanted := map[string][]string{
		"embedded": {"Deployment", "PersistentVolumeClaim", "PodDisruptionBudget", "Service", "ServiceAccount"},
		"postgres": {"Deployment", "HorizontalPodAutoscaler", "NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "ServiceMonitor"},
		"mtls":     {"Deployment", "PodDisruptionBudget", "Service", "ServiceAccount", "ServiceMonitor"},
	}
	for name, set := range values {
		t.Run(name, func(t *testing.T) {
			manifests, err := render(t, set)
			if err != nil {
				t.Fatal(err)
			}
			all := decode(t, manifests)
			if diff := cmp.Diff(wanted[name], slices.Sorted(maps.Keys(all))); diff != "" {
				t.Errorf("kinds (-want +got):\n%s", diff)
			}
			checkPod(t, all["Deployment"][0].(*apps.Deployment), name)
		})
	}
}

// checkPod checks what a pod of ratelimitd relies on.
func checkPod(t *testing.T, d *apps.Deployment, name string) {
	t.Helper()
	pod := d.Spec.Template.Spec
	container := pod.Containers[0]
	grace, scheme := int64(30), core.URISchemeHTTP
	if name == "mtls" {
		grace, scheme = 65, core.URISchemeHTTPS
	}
	if *pod.TerminationGracePeriodSeconds != grace || container.Lifecycle != nil {
		t.Errorf("the pod has %d s to end, want TPS_DRAIN_TIME and 5 s = %d, and no hook: %v", *pod.TerminationGracePeriodSeconds, grace, container.Lifecycle)
	}
	if *pod.EnableServiceLinks || !*container.SecurityContext.ReadOnlyRootFilesystem || !*pod.SecurityContext.RunAsNonRoot {
		t.Error("service links are on, the root is writable, or root is allowed")
	}
	for _, probe := range []*core.Probe{container.ReadinessProbe, container.LivenessProbe, container.StartupProbe} {
		if probe.HTTPGet == nil || probe.HTTPGet.Scheme != scheme {
			t.Errorf("a probe is %+v, want httpGet by %s", probe, scheme)
		}
	}
	descriptors := slices.ContainsFunc(container.Env, func(v core.EnvVar) bool { return v.Name == "TPS_CONFIG_DIR" && v.Value == "/descriptors" }) &&
		slices.ContainsFunc(container.VolumeMounts, func(m core.VolumeMount) bool { return m.MountPath == "/descriptors" && m.ReadOnly }) &&
		slices.ContainsFunc(pod.Volumes, func(v core.Volume) bool { return v.ConfigMap != nil && v.ConfigMap.Name == "limits" })
	if descriptors != (name == "embedded") {
		t.Errorf("descriptor files are mounted: %t", descriptors)
	}
	for _, v := range container.Env {
		secret := slices.Contains([]string{"TPS_DATABASE_URL", "TPS_API_TOKENS"}, v.Name)
		if secret && (v.Value != "" || v.ValueFrom == nil || v.ValueFrom.SecretKeyRef == nil) {
			t.Errorf("%s does not come from a Secret: %+v", v.Name, v)
		}
	}
}

func TestChartRefuses(t *testing.T) {
	for set, want := range map[string]string{
		"persistence.enabled=true,replicas=2": "one volume is for one process",
		"tls.clientCA=true":                   "tls.clientCA: needs tls.secretName",
		"drain.delaySeconds=60":               "drain.delaySeconds: is a part of drain.timeSeconds",
		"replica=3":                           "replica",
		"replicas=many":                       "replicas",
		"env.PATH=/":                          "PATH",
		"env.TPS_CONFIG_DIR=/etc":             "env.TPS_CONFIG_DIR: is not for env; the chart sets it by descriptors.configMapName",
		"env.TPS_DB_PASSWORD=s3cret":          "env.TPS_DB_PASSWORD: is not for env; the chart sets it by database.secretName",
	} {
		assertRefused(t, want, "--set", set)
	}
	for _, name := range ownVariables(t) {
		assertRefused(t, "env."+name+": is not for env", "--set", "env."+name+"=1")
	}
	assertRefused(t, "/env/TPS_MAX_SERIES", "--values", valuesFile(t, "env: { TPS_MAX_SERIES: 1.5 }"))
}

func assertRefused(tb testing.TB, want string, args ...string) {
	tb.Helper()
	_, err := helm(tb, append([]string{"template", "edge", chart, "--kube-version", kubeVersion}, args...)...)
	if err == nil || !strings.Contains(err.Error(), want) {
		tb.Errorf("%v: got %v, want an error with %q", args, err, want)
	}
}

// ownVariables are those that the template of the pod sets itself.
func ownVariables(tb testing.TB) (names []string) {
	tb.Helper()
	body, err := os.ReadFile(chart + "/templates/deployment.yaml")
	if err != nil {
		tb.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`name: (TPS_[A-Z_]+)`).FindAllStringSubmatch(string(body), -1) {
		names = append(names, m[1])
	}
	if len(names) < 10 {
		tb.Fatalf("only %v were found", names)
	}
	return names
}

func valuesFile(tb testing.TB, body string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "values.yaml")
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

// Numbers of a file come as floats, which is no matter of --set.
func TestEnvOfAValuesFile(t *testing.T) {
	file := valuesFile(t, `env: { TPS_MAX_BUCKETS: 5000000, TPS_DEFAULT_MAX_TPS: 1_000_000_000, TPS_MAX_WAITERS: 7, GOGC: -1, TPS_MAX_SERIES: "2000000", TPS_MIGRATE: false, TPS_POLL_INTERVAL: 1.5s }`)
	manifests, err := helm(t, "template", "edge", chart, "--kube-version", kubeVersion, "--values", file)
	if err != nil {
		t.Fatal(err)
	}
	got, own := map[string]string{}, ownVariables(t)
	for _, v := range decode(t, manifests)["Deployment"][0].(*apps.Deployment).Spec.Template.Spec.Containers[0].Env {
		if !slices.Contains(own, v.Name) {
			got[v.Name] = v.Value
		}
	}
	want := map[string]string{
		"TPS_MAX_BUCKETS": "5000000", "TPS_DEFAULT_MAX_TPS": "1000000000", "TPS_MAX_WAITERS": "7", "GOGC": "-1",
		"TPS_MAX_SERIES": "2000000", "TPS_MIGRATE": "false", "TPS_POLL_INTERVAL": "1.5s",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("env (-want +got):\n%s", diff)
	}
}

func TestFilesOfControlPlanes(t *testing.T) {
	for file, want := range map[string][]string{
		"istio.yaml":         {"Deployment", "EnvoyFilter", "Service", "Telemetry"},
		"contour.yaml":       {"ContourConfiguration", "ExtensionService", "HTTPProxy", "Service"},
		"envoy-gateway.yaml": {"EnvoyPatchPolicy", "EnvoyProxy", "Gateway", "ReferenceGrant"},
	} {
		body, err := os.ReadFile(filepath.Join(root, "envoy", file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, slices.Sorted(maps.Keys(decode(t, string(body))))); diff != "" {
			t.Errorf("%s: kinds (-want +got):\n%s", file, diff)
		}
	}
}

// Without grpc-status in the access log an upstream's own gRPC error counts as a success.
func TestControlPlanesLogGRPCStatus(t *testing.T) {
	want := []string{"grpc-status"}
	provider := meshConfig(t).GetExtensionProviders()[0].GetEnvoyHttpAls()
	headers, trailers := provider.GetAdditionalResponseHeadersToLog(), provider.GetAdditionalResponseTrailersToLog()
	if !slices.Equal(headers, want) || !slices.Equal(trailers, want) {
		t.Errorf("istio.yaml logs the headers %v and the trailers %v, want %v", headers, trailers, want)
	}
	body, err := os.ReadFile(filepath.Join(root, "envoy", "envoy-gateway.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	proxy := decode(t, string(body))["EnvoyProxy"][0].(*envoygateway.EnvoyProxy)
	log := proxy.Spec.Telemetry.AccessLog.Settings[0].Sinks[0].ALS.HTTP
	if !slices.Equal(log.ResponseHeaders, want) || !slices.Equal(log.ResponseTrailers, want) {
		t.Errorf("envoy-gateway.yaml logs the headers %v and the trailers %v, want %v", log.ResponseHeaders, log.ResponseTrailers, want)
	}
}

// meshConfig is what a comment of istio.yaml says about the configuration of the mesh.
func meshConfig(tb testing.TB) *istiomesh.MeshConfig {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(root, "envoy", "istio.yaml"))
	if err != nil {
		tb.Fatal(err)
	}
	_, comment, ok := strings.Cut(string(body), "in meshConfig:\n#\n")
	if !ok {
		tb.Fatal("istio.yaml says nothing of the meshConfig")
	}
	comment, _, _ = strings.Cut(comment, "\napiVersion:")
	doc, err := sigsyaml.YAMLToJSON([]byte(strings.ReplaceAll("\n"+comment, "\n#", "\n")))
	if err != nil {
		tb.Fatal(err)
	}
	config := new(istiomesh.MeshConfig)
	if err := protojson.Unmarshal(doc, config); err != nil {
		tb.Fatalf("%v in:\n%s", err, doc)
	}
	return config
}

// The checks above are only as good as this: an unknown field is an error, whatever the type.
func TestUnknownFieldsAreFound(t *testing.T) {
	for kind, doc := range map[string]string{
		"v1/Service":         "spec: { prots: [] }",
		"apps/v1/Deployment": "spec: { template: { spec: { enableServiceLink: false } } }",
		"monitoring.coreos.com/v1/ServiceMonitor":          "spec: { endpoint: [] }",
		"projectcontour.io/v1/HTTPProxy":                   "spec: { virtualHosts: {} }",
		"networking.istio.io/v1alpha3/EnvoyFilter":         "spec: { configPatch: [] }",
		"telemetry.istio.io/v1/Telemetry":                  "spec: { accessLoging: [] }",
		"gateway.envoyproxy.io/v1alpha1/EnvoyProxy":        "spec: { telemetry: { accessLogs: {} } }",
		"gateway.envoyproxy.io/v1alpha1/EnvoyPatchPolicy":  "spec: { jsonPatch: [] }",
		"gateway.networking.k8s.io/v1/Gateway":             "spec: { listener: [] }",
		"gateway.networking.k8s.io/v1beta1/ReferenceGrant": "spec: { form: [] }",
	} {
		if err := decodeStrictly([]byte(doc), object(t, kind)); err == nil {
			t.Errorf("%s: %s was taken", kind, doc)
		}
	}
}

func bufioReader(s string) *bufio.Reader { return bufio.NewReader(strings.NewReader(s)) }
