package testenv_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// envoyFiles are the configurations that users copy.
var envoyFiles = []string{"envoy.yaml", "envoy-hold.yaml", "envoy-tcp.yaml"}

func readEnvoyFile(tb testing.TB, name string) string {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(testenv.Root(tb), "envoy", name))
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

var elsewhere = testenv.Addresses{Listener: "0.0.0.0:1", Admin: "127.0.0.2:2", Ratelimitd: "ratelimitd:3", Upstream: "upstream:4"}

func TestEnvoyFilesAreValid(t *testing.T) {
	for _, name := range envoyFiles {
		t.Run(name, func(t *testing.T) {
			asItStands := readEnvoyFile(t, name)
			replaced, err := elsewhere.Apply(asItStands)
			if err != nil {
				t.Fatal(err)
			}
			for what, config := range map[string]string{"as it stands": asItStands, "with other addresses": replaced} {
				path := filepath.Join(t.TempDir(), name)
				if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
					t.Fatal(err)
				}
				out, err := exec.CommandContext(t.Context(), testenv.EnvoyBinary(t), "--mode", "validate", "-c", path, "-l", "warning").CombinedOutput()
				if err != nil {
					t.Errorf("%s: envoy --mode validate: %v\n%s", what, err, out)
				}
				if strings.Contains(string(out), "deprecated") {
					t.Errorf("%s: Envoy calls something deprecated:\n%s", what, out)
				}
			}
		})
	}
}

func TestApplyReplacesEveryAddress(t *testing.T) {
	address := regexp.MustCompile(`address: (\S+), port_value: (\d+)`)
	for _, name := range envoyFiles {
		config := readEnvoyFile(t, name)
		replaced, err := elsewhere.Apply(config)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, body, _ := strings.Cut(replaced, "\nnode:") // what is before is the comment that tells of the addresses
		if body == "" {
			t.Fatalf("%s has no line that begins with node:", name)
		}
		got := map[string]int{}
		for _, m := range address.FindAllStringSubmatch(body, -1) {
			got[m[1]+":"+m[2]]++
		}
		want := map[string]int{"0.0.0.0:1": 1, "127.0.0.2:2": 1, "ratelimitd:3": 2, "upstream:4": 1}
		for a, n := range want {
			if got[a] != n {
				t.Errorf("%s: address %s comes %d times, want %d", name, a, got[a], n)
			}
			delete(got, a)
		}
		if len(got) > 0 {
			t.Errorf("%s: addresses are left: %v", name, got)
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	config := readEnvoyFile(t, "envoy.yaml")
	noPort := elsewhere
	noPort.Upstream = "upstream"
	if _, err := noPort.Apply(config); err == nil || !strings.Contains(err.Error(), "8000") {
		t.Errorf("an address without a port: error %v, want one that names port 8000", err)
	}
	if _, err := elsewhere.Apply(strings.ReplaceAll(config, "port_value: 9901 ", "port_value: 9902 ")); err == nil || !strings.Contains(err.Error(), "9901") {
		t.Errorf("a configuration without the admin: error %v, want one that names port 9901", err)
	}
}

// Whoever changes one of the files is to see that the other one is to be changed as well: they
// differ only where a hold needs it.
func TestEnvoyFilesDifferOnlyByHolds(t *testing.T) {
	comment := regexp.MustCompile(`\s*#.*`)
	lines := func(name string) map[string]int {
		n := map[string]int{}
		for line := range strings.Lines(readEnvoyFile(t, name)) {
			if code := comment.ReplaceAllString(strings.TrimRight(line, "\n"), ""); code != "" {
				n[code]++
			}
		}
		return n
	}
	plain, hold := lines("envoy.yaml"), lines("envoy-hold.yaml")
	forHolds := regexp.MustCompile(`timeout|max_interval|circuit_breakers`)
	for _, pair := range [2][2]map[string]int{{plain, hold}, {hold, plain}} {
		for line, n := range pair[0] {
			if pair[1][line] != n && !forHolds.MatchString(line) {
				t.Errorf("a line comes %d times in one file and %d times in the other:\n%s", n, pair[1][line], line)
			}
		}
	}
}

// Both gRPC clusters must notice a ratelimitd that is stopping, and nothing may fail open for a
// connection that was lost.
func TestEnvoyFilesAskForHealthAndRetry(t *testing.T) {
	const check = "health_checks: [{ timeout: 0.5s, interval: 0.5s, no_traffic_interval: 0.5s, unhealthy_threshold: 2, healthy_threshold: 1, grpc_health_check: {} }]"
	for _, name := range envoyFiles {
		config := readEnvoyFile(t, name)
		if n := strings.Count(config, check); n != 2 {
			t.Errorf("%s has the health check %d times, want 2", name, n)
		}
		if n := strings.Count(config, `retry_on: "connect-failure,refused-stream,reset"`); n != 1 {
			t.Errorf("%s has the retry policy %d times, want 1", name, n)
		}
	}
}
