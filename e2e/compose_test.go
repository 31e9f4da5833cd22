package e2e_test

import (
	"context"
	"fmt"
	"go/version"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// No Docker engine runs in the tests: they read docker-compose.yml as one would, look for all
// that it names, and run its scripts beside real servers.

func loadCompose(tb testing.TB, env types.Mapping) *types.Project {
	tb.Helper()
	root := testenv.Root(tb)
	project, err := loader.LoadWithContext(tb.Context(), types.ConfigDetails{
		WorkingDir: root, ConfigFiles: types.ToConfigFiles([]string{filepath.Join(root, "docker-compose.yml")}), Environment: env,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return project
}

func service(tb testing.TB, p *types.Project, name string) types.ServiceConfig {
	tb.Helper()
	s, err := p.GetService(name)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// environment returns the variables of a service that have a value.
func environment(s types.ServiceConfig) map[string]string {
	env := map[string]string{}
	for name, value := range s.Environment {
		if value != nil {
			env[name] = *value
		}
	}
	return env
}

// settings are the variables that ratelimitd knows, with their defaults.
var settings = sync.OnceValues(func() (map[string]string, error) {
	out, err := exec.Command("go", "run", "../cmd/ratelimitd", "docs", "-").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ratelimitd docs: %w\n%s", err, out)
	}
	known := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(TPS_\\w+)` \\| `--[a-z-]+` \\| (\\S+) ").FindAllStringSubmatch(string(out), -1) {
		known[row[1]] = strings.Trim(row[2], "`")
	}
	return known, nil
})

func knownSettings(tb testing.TB) map[string]string {
	tb.Helper()
	known, err := settings()
	if err != nil {
		tb.Fatal(err)
	}
	if len(known) == 0 {
		tb.Fatal("ratelimitd docs prints no settings")
	}
	return known
}

func TestComposeSettingsExist(t *testing.T) {
	known := knownSettings(t)
	project := loadCompose(t, nil)
	env := environment(service(t, project, "ratelimitd"))
	if len(env) == 0 {
		t.Error("the service ratelimitd sets nothing")
	}
	for name, value := range env {
		if _, ok := known[name]; !ok {
			t.Errorf("the service ratelimitd sets %s=%s, which is no setting", name, value)
		}
	}
	postgres := environment(service(t, project, "postgres"))
	limits := environment(service(t, project, "limits"))
	for _, same := range []struct{ what, a, b, c string }{
		{"database", env["TPS_DB_NAME"], postgres["POSTGRES_DB"], limits["PGDATABASE"]},
		{"user", env["TPS_DB_USER"], postgres["POSTGRES_USER"], limits["PGUSER"]},
		{"password", env["TPS_DB_PASSWORD"], postgres["POSTGRES_PASSWORD"], limits["PGPASSWORD"]},
		{"host", env["TPS_DB_HOST"], "postgres", limits["PGHOST"]},
	} {
		if same.a == "" || same.a != same.b || same.b != same.c {
			t.Errorf("%s: ratelimitd has %q, postgres %q, limits %q", same.what, same.a, same.b, same.c)
		}
	}
}

// Every variable of the file has a default, and is used where it stands.
func TestComposeVariables(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(testenv.Root(t), "docker-compose.yml"))
	if err != nil {
		t.Fatal(err)
	}
	given := types.Mapping{}
	for _, m := range regexp.MustCompile(`\$\{(\w+)([^}]*)\}`).FindAllStringSubmatch(string(body), -1) {
		if !strings.HasPrefix(m[2], ":-") || m[2] == ":-" {
			t.Errorf("%s has no default", m[0])
		}
		given[m[1]] = "from-" + m[1]
	}
	var all []string
	for _, s := range loadCompose(t, given).Services {
		all = append(all, slices.Collect(maps.Values(environment(s)))...)
	}
	for name, value := range given {
		if !slices.ContainsFunc(all, func(v string) bool { return strings.Contains(v, value) }) {
			t.Errorf("%s has no effect on any service", name)
		}
	}
}

func TestComposeFilesExist(t *testing.T) {
	project := loadCompose(t, nil)
	mounts := 0
	for _, s := range project.Services {
		for _, v := range s.Volumes {
			switch v.Type {
			case types.VolumeTypeBind:
				mounts++
				if _, err := os.Stat(v.Source); err != nil {
					t.Errorf("service %s mounts what is not there: %v", s.Name, err)
				}
			case types.VolumeTypeVolume:
				if _, ok := project.Volumes[v.Source]; !ok {
					t.Errorf("service %s uses the volume %s, which is not declared", s.Name, v.Source)
				}
			}
		}
		if s.Build != nil {
			if _, err := os.Stat(filepath.Join(s.Build.Context, s.Build.Dockerfile)); err != nil {
				t.Errorf("service %s is built from what is not there: %v", s.Name, err)
			}
			continue
		}
		if !regexp.MustCompile(`^[a-z0-9/]+:v?\d+\.\d+(\.\d+)?$`).MatchString(s.Image) {
			t.Errorf("service %s: image %q is not pinned to a version", s.Name, s.Image)
		}
	}
	if mounts == 0 {
		t.Error("no service mounts anything")
	}
}

func TestComposePorts(t *testing.T) {
	project := loadCompose(t, nil)
	got := map[string]string{}
	for _, s := range project.Services {
		for _, p := range s.Ports {
			got[p.Published] = fmt.Sprintf("%s:%d", s.Name, p.Target)
			if p.HostIP != "127.0.0.1" {
				t.Errorf("service %s publishes port %s on %q, not on this host alone", s.Name, p.Published, p.HostIP)
			}
		}
	}
	want := map[string]string{
		"8080": "ratelimitd:8080", "8081": "ratelimitd:8081", "10000": "envoy:10000", "9901": "envoy:9901",
		"9090": "prometheus:9090", "3000": "grafana:3000",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("published ports (-want +got):\n%s", diff)
	}
	known := knownSettings(t)
	for setting, port := range map[string]string{"TPS_HTTP_ADDR": ":8080", "TPS_GRPC_ADDR": ":8081"} {
		if known[setting] != port {
			t.Errorf("the default of %s is %s, the file publishes %s", setting, known[setting], port)
		}
	}
}

// checkAddress checks that an address in a file is that of a service.
func checkAddress(t *testing.T, project *types.Project, where, address, port string) {
	t.Helper()
	host, got, err := net.SplitHostPort(address)
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return
	}
	if _, err := project.GetService(host); err != nil || got != port {
		t.Errorf("%s: %s is not port %s of a service of the file", where, address, port)
	}
}

// The container builds what is here, with a Go that go.mod takes.
func TestDockerfile(t *testing.T) {
	root := testenv.Root(t)
	read := func(name string) string {
		body, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(body)
	}
	dockerfile, ignored := read("Dockerfile"), read(".dockerignore")
	for _, m := range regexp.MustCompile(`(?m)^COPY ([^-].*) \S+$`).FindAllStringSubmatch(dockerfile, -1) {
		for path := range strings.FieldsSeq(m[1]) {
			if _, err := os.Stat(filepath.Join(root, path)); err != nil {
				t.Errorf("the Dockerfile copies what is not there: %v", err)
			}
			if !strings.Contains(ignored, "\n!"+path+"\n") {
				t.Errorf(".dockerignore keeps %s from the Dockerfile", path)
			}
		}
	}
	image := regexp.MustCompile(`(?m)^FROM golang:(\S+) `).FindStringSubmatch(dockerfile)
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindStringSubmatch(read("go.mod"))
	if image == nil || wanted == nil || version.Compare("go"+image[1], "go"+wanted[1]) < 0 {
		t.Errorf("the Dockerfile builds with Go %v, go.mod wants %v", image, wanted)
	}
	for _, line := range []string{"USER 65532:65532", "EXPOSE 8080 8081", "FROM scratch"} {
		if !strings.Contains(dockerfile, "\n"+line+"\n") {
			t.Errorf("the Dockerfile has no line %q", line)
		}
	}
}

// script is what a service runs in a shell, with the file's own names replaced.
func script(tb testing.TB, s types.ServiceConfig, replace ...string) []string {
	tb.Helper()
	if !slices.Equal(s.Entrypoint, []string{"sh", "-ec"}) || len(s.Command) != 1 {
		tb.Fatalf("service %s runs %q %q, not one script of sh -ec", s.Name, s.Entrypoint, s.Command)
	}
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(s.Command[0], replace[i]) {
			tb.Fatalf("the script of service %s has no %q:\n%s", s.Name, replace[i], s.Command[0])
		}
	}
	// As in the file: a dollar that the shell is to see is written twice.
	text := strings.ReplaceAll(s.Command[0], "$$", "$")
	return []string{"-ec", strings.NewReplacer(replace...).Replace(text)}
}

// What sed makes of the file of envoy/ is what testenv.Addresses makes of it, so that the tests
// with a real Envoy are about the very same configuration.
func TestComposeEnvoyConfiguration(t *testing.T) {
	envoy := service(t, loadCompose(t, nil), "envoy")
	mount := envoy.Volumes[0]
	const file = "envoy-hold.yaml"
	made := filepath.Join(t.TempDir(), "envoy.yaml")
	args := script(t, envoy, mount.Target+"/"+file, filepath.Join(mount.Source, file), "/tmp/envoy.yaml", made, "exec envoy", "echo envoy")
	out, err := exec.CommandContext(t.Context(), "sh", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("the script of envoy: %v\n%s", err, out)
	}
	got, err := os.ReadFile(made)
	if err != nil {
		t.Fatal(err)
	}
	asItStands, err := os.ReadFile(filepath.Join(mount.Source, file))
	if err != nil {
		t.Fatal(err)
	}
	want, err := testenv.Addresses{Listener: "0.0.0.0:10000", Admin: "0.0.0.0:9901", Ratelimitd: "ratelimitd:8081", Upstream: "upstream:80"}.Apply(string(asItStands))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("the configuration of Envoy (-want +got):\n%s", diff)
	}
	for _, name := range []string{"ratelimitd", "upstream"} {
		service(t, loadCompose(t, nil), name)
	}
}

// The script of the service limits makes the rows once, and leaves alone what was changed since.
func TestComposeLimits(t *testing.T) {
	database := testenv.Database(t)
	conn := testenv.Connect(t, database)
	address, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	run := func() {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "sh", script(t, service(t, loadCompose(t, nil), "limits"))...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "PGHOST=" + address.Hostname(), "PGPORT=" + address.Port(),
			"PGUSER=" + address.User.Username(), "PGDATABASE=" + strings.TrimPrefix(address.Path, "/"),
		}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("the script of limits: %v\n%s", err, out)
		}
	}
	rows := func() []string {
		t.Helper()
		found, err := conn.Query(t.Context(), "SELECT concat_ws(' ', gateway, endpoint, max_tps, max_wait_ms) FROM tps_limits ORDER BY 1")
		if err != nil {
			t.Fatal(err)
		}
		texts, err := pgx.CollectRows(found, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return texts
	}
	run()
	want := []string{"gw-main 100 0", "gw-main pay 10 0", "gw-main report 5 2000"}
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Fatalf("rows at first (-want +got):\n%s", diff)
	}
	if _, err := conn.Exec(t.Context(), "UPDATE tps_limits SET max_tps = 20 WHERE endpoint = 'pay'"); err != nil {
		t.Fatal(err)
	}
	run()
	want[1] = "gw-main pay 20 0"
	if diff := cmp.Diff(want, rows()); diff != "" {
		t.Errorf("rows after a change and a second start (-want +got):\n%s", diff)
	}
}

// The load reaches every endpoint that has a limit, and the gateway without an endpoint.
func TestComposeLoad(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	upstream := testenv.StartUpstream(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen[strings.Join(r.Header["X-Endpoint"], ",")+strconv.Itoa(len(r.Header["X-Endpoint"]))]++
	}))
	args := script(t, service(t, loadCompose(t, nil), "load"), "envoy:10000", upstream.Addr)
	load := testenv.StartServer(t, nil, "/bin/sh", args...)
	testenv.Eventually(t, 30*time.Second, "the load", func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, endpoint := range []string{"pay1", "report1", "0"} {
			if seen[endpoint] < 3 {
				return fmt.Errorf("requests by endpoint and number of its headers are %v; the load prints:\n%s", seen, load.Output())
			}
		}
		return nil
	})
	load.Kill()
	if len(seen) != 3 {
		t.Errorf("requests by endpoint and number of its headers are %v, want pay1, report1 and 0 only", seen)
	}
}

func TestPrometheusConfiguration(t *testing.T) {
	root, project := testenv.Root(t), loadCompose(t, nil)
	path := filepath.Join(root, "prometheus", "prometheus.yml")
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "config", path).CombinedOutput(); err != nil {
		t.Errorf("promtool check config: %v\n%s", err, out)
	}
	var config struct {
		Rules  []string `yaml:"rule_files"`
		Scrape []struct {
			Static []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	readYAML(t, path, &config)
	ports := []string{"8080", "9901"}
	if len(config.Scrape) != len(ports) {
		t.Fatalf("there are %d jobs, want %d", len(config.Scrape), len(ports))
	}
	for i, port := range ports {
		checkAddress(t, project, path, config.Scrape[i].Static[0].Targets[0], port)
	}
	mounts := map[string]string{}
	for _, v := range service(t, project, "prometheus").Volumes {
		mounts[v.Target] = v.Source
	}
	if got := mounts["/etc/prometheus"]; got != filepath.Dir(path) {
		t.Errorf("the service prometheus has %q at /etc/prometheus, want the directory of %s", got, path)
	}
	for _, file := range config.Rules {
		seen := filepath.Join("/etc/prometheus", file)
		if got, want := filepath.Join(mounts[filepath.Dir(seen)], filepath.Base(seen)), filepath.Join(root, filepath.FromSlash(alertsFile)); got != want {
			t.Errorf("the service prometheus finds the rules %s in %s, want %s", seen, got, want)
		}
	}
	if len(config.Rules) != 1 {
		t.Errorf("%s loads the rules %v, want one file", path, config.Rules)
	}
}

func readYAML(tb testing.TB, path string, into any) {
	tb.Helper()
	body, err := os.ReadFile(path)
	if err == nil {
		err = yaml.Unmarshal(body, into)
	}
	if err != nil {
		tb.Fatalf("%s: %v", path, err)
	}
}
