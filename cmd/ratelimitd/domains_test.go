package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const shopFile = `domain: shop
descriptors:
- key: gateway
  value: pay
  rate_limit: {unit: second, requests_per_unit: 50, name: all of pay}
  descriptors:
  - {key: endpoint, value: charge, rate_limit: {unit: second, requests_per_unit: 5}, shadow_mode: true}
  - {key: endpoint, value: refund, descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 1}}]}
  - {key: user, rate_limit: {unit: minute, requests_per_unit: 5, algorithm: sliding_window}}
- {key: ip, value: 10.*, share_threshold: true, rate_limit: {per_seconds: 30, requests_per_unit: 5}}
- {key: gateway, rate_limit: {unlimited: true, replaces: [{name: "all of pay"}]}}
- {key: gateway, value: internal}
- {key: gateway, value: free, rate_limit: {unlimited: true, name: for all}}
- {key: gateway, value: web, descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 7, algorithm: sliding_window}}]}
- {key: user, value: '', descriptors: [{key: gateway, value: web, rate_limit: {unit: second, requests_per_unit: 9}}]}
- key: account
  metadata: {x: 1}
  quota_mode: true
  rate_limit: {unit: year, requests_per_unit: 1}
`

// descriptorDir is a directory with files.
func descriptorDir(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

// port is the address of a port that only the log names.
func (d *daemon) port(tb testing.TB, name string) string {
	tb.Helper()
	addr, _ := logged(tb, d.stderr, "serving")[name].(string)
	return "http://" + addr
}

func post(tb testing.TB, url, body string) (code int, answer string) {
	tb.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(body)) //nolint:noctx // of a test
	if err != nil {
		tb.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		tb.Fatal(err)
	}
	return resp.StatusCode, string(out)
}

func wantIn(tb testing.TB, url, want string) error {
	tb.Helper()
	if _, body := get(tb, url); !strings.Contains(body, want) {
		return fmt.Errorf("%s answers %s, want %s", url, body, want)
	}
	return nil
}

func TestConfigCheck(t *testing.T) {
	dir := descriptorDir(t, map[string]string{"shop.yaml": shopFile, "b.yaml": "domain: b\nall_or_nothing: true\ndescriptors: [{key: \"a\\nb\"}]"})
	want := `b.yaml: domain b, 0 limits, all_or_nothing
  "a\nb"
shop.yaml: domain shop, 10 limits
  gateway=pay: unit=SECOND requests_per_unit=50 name=all of pay
    endpoint=charge: unit=SECOND requests_per_unit=5 shadow_mode
    endpoint=refund
      user: unit=SECOND requests_per_unit=1
    user: unit=MINUTE requests_per_unit=5 algorithm=sliding_window
  ip=10.*: unit=30s requests_per_unit=5 share_threshold
  gateway: unlimited replaces=all of pay
  gateway=internal
  gateway=free: unlimited name=for all
  gateway=web
    user: unit=SECOND requests_per_unit=7 algorithm=sliding_window
  user
    gateway=web: unit=SECOND requests_per_unit=9
  account: unit=YEAR requests_per_unit=1 quota_mode metadata
`
	if got := command(t.Context(), nil, "config", "check", dir); got.code != 0 || got.stdout != want || got.stderr != "" {
		t.Errorf("status %d, stdout\n%swant\n%sstderr %s", got.code, got.stdout, want, got.stderr)
	}
	bad := descriptorDir(t, map[string]string{"a.yaml": "domain: a\ndescriptors: [{key: k, kee: 1}, {value: v}]", "b.yaml": "domain: a"})
	command(t.Context(), nil, "config", "check", bad).wants(t, 1, "", `a.yaml: line 2, column 24: config error, unknown key 'kee'
a.yaml: line 2, column 33: descriptor has empty key
`)
	for _, c := range []struct{ dir, want string }{{t.TempDir(), "holds no file"}, {"/nope", "no such file or directory"}} {
		command(t.Context(), nil, "config", "check", c.dir).wants(t, 1, "", c.want)
	}
}

// What can be rows is, the rest is told; the domain must not be one of files any more.
func TestImport(t *testing.T) {
	dir := descriptorDir(t, map[string]string{"shop.yaml": shopFile, "bad.yaml": "domain: x\ny: z"})
	d := start(t)
	dry := d.ratelimitd(t, "limits", "import", dir, "--dry-run")
	dry.wants(t, 1, "not imported: bad.yaml: line 2, column 1: config error, unknown key 'y'\n", "")
	if _, body := get(t, d.api+"/api/v1/limits"); body != `{"limits":[]}`+"\n" {
		t.Errorf("a dry run has written %s", body)
	}
	for range 2 { // again changes nothing
		got := d.ratelimitd(t, "limits", "import", dir)
		got.wants(t, 1, "", "")
		for _, want := range []string{
			"not imported: shop.yaml: shop.gateway_pay.user (unit=MINUTE requests_per_unit=5 algorithm=sliding_window): it does not count per second; `ratelimitd limits set --per-seconds 60 --algorithm sliding_window` makes a row of that window\n",
			"not imported: shop.yaml: shop.ip_10.* (unit=30s requests_per_unit=5 share_threshold): the entry ip=10.* is neither gateway nor endpoint, nor the only key each value of which has the limit\n",
			"not imported: shop.yaml: shop.gateway (unlimited replaces=all of pay): rows replace nothing\n",
			"not imported: shop.yaml: shop.account (unit=YEAR requests_per_unit=1 quota_mode metadata): it names no gateway (gateway)\n",
			"not imported: shop.yaml: shop.user.gateway_web (unit=SECOND requests_per_unit=9): its row is that of another limit, which came before\n",
		} {
			if !strings.Contains(got.stdout, want) {
				t.Errorf("printed\n%swant also %s", got.stdout, want)
			}
		}
		if n := strings.Count(got.stdout, "not imported:"); n != 6 {
			t.Errorf("%d lines of what was not imported, want 6:\n%s", n, got.stdout)
		}
	}
	rows := d.ratelimitd(t, "limits", "list")
	rows.wants(t, 0, "", "")
	for _, want := range [][]string{
		{"shop", "pay", "50", "1", "token_bucket", "0", "true", "false", "all", "of", "pay"},
		{"shop", "pay", "charge", "5", "1", "token_bucket", "0", "true", "true"},
		{"shop", "pay", "refund", "user", "1", "1", "token_bucket", "0", "true", "false"},
		{"shop", "pay", "refund", "1000", "1", "token_bucket", "0", "false", "false"}, // which only leads on to user
		{"shop", "web", "1000", "1", "token_bucket", "0", "false", "false"},
		{"shop", "internal", "1000", "1", "token_bucket", "0", "false", "false"},
		{"shop", "free", "1000", "1", "token_bucket", "0", "false", "false", "for", "all"},
		{"shop", "web", "user", "7", "1", "sliding_window", "0", "true", "false"},
	} {
		if !hasLine(rows.stdout, want) {
			t.Errorf("rows\n%swant also %q", rows.stdout, want)
		}
	}
	if n := lines(rows.stdout); n != 9 {
		t.Errorf("%d lines, want a head and 8 rows:\n%s", n, rows.stdout)
	}

	files := start(t, "TPS_CONFIG_DIR="+descriptorDir(t, map[string]string{"shop.yaml": shopFile}))
	files.ratelimitd(t, "limits", "import", dir).wants(t, 1, "", `domain "shop": a descriptor file names its limits, so that a row would mean nothing`)
}

// What only leads on becomes a disabled row, where nobody else has a row for it.
func TestImportOfWhatLeadsOn(t *testing.T) {
	dir := descriptorDir(t, map[string]string{"a.yaml": `
domain: shop
descriptors:
- key: gateway
  value: pay
  descriptors: [{key: endpoint, value: charge, rate_limit: {unit: second, requests_per_unit: 5}}]
- {key: cluster, value: pay, rate_limit: {unit: second, requests_per_unit: 50}}
- key: gateway
  value: own
  descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 2}}]
- key: gateway
  value: open
  descriptors: [{key: user, rate_limit: {unit: second, requests_per_unit: 3}}]
- {key: gateway, rate_limit: {unit: second, requests_per_unit: 7}}
`})
	d := start(t)
	d.ratelimitd(t, "limits", "set", "--domain", "shop", "--gateway", "own", "--max-tps", "9").wants(t, 0, "", "")
	for range 2 {
		if got := d.ratelimitd(t, "limits", "import", dir, "--gateway-keys", "gateway,cluster"); got.code != 0 || strings.Contains(got.stdout, "not imported") {
			t.Errorf("status %d: %s%s", got.code, got.stdout, got.stderr)
		}
	}
	for name, want := range map[string]string{"pay": `"limit":"pay"`, "own": `"limit":"own"`, "open": "", "other": `"limit":"*"`} {
		_, body := post(t, d.api+"/json", `{"domain":"shop","descriptors":[{"entries":[{"key":"gateway","value":"`+name+`"}]}]}`)
		if strings.Contains(body, `"limit":`) != (want != "") || !strings.Contains(body, want) {
			t.Errorf("gateway %s: %s, want %s", name, body, want)
		}
	}
}

// hasLine tells whether a line begins with these words, but for those of columns in between.
func hasLine(text string, words []string) bool {
	for line := range strings.Lines(text) {
		left := words
		for word := range strings.FieldsSeq(line) {
			if len(left) > 0 && word == left[0] {
				left = left[1:]
			}
		}
		if len(left) == 0 {
			return true
		}
	}
	return false
}

// A file that is bad from the start keeps /readyz at no, and nothing else from serving.
func TestServeWithABadFile(t *testing.T) {
	dir := descriptorDir(t, map[string]string{"shop.yaml": shopFile, "bad.yaml": "domain: bad\nx: y"})
	d := launch(t, "TPS_CONFIG_DIR="+dir)
	testenv.Eventually(t, patience, "the limits file", func() error { return wantIn(t, d.api+"/healthcheck", "OK") })
	if code, body := get(t, d.api+"/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, "bad.yaml: line 2, column 1: config error, unknown key 'x'") {
		t.Errorf("/readyz: %d %s", code, body)
	}
	if code, body := post(t, d.api+"/json", `{"domain":"shop","descriptors":[{"entries":[{"key":"ip","value":"10.1.1.1"}]}]}`); code != http.StatusOK || !strings.Contains(body, `"limitRemaining":4`) {
		t.Errorf("%d %s", code, body)
	}
	if err := os.Remove(filepath.Join(dir, "bad.yaml")); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, "ready", func() error { return wantIn(t, d.api+"/readyz", `"status":"ready"`) })
}

// A directory of files decides, is shown, reloaded, and told of by readiness.
func TestServeDescriptorFiles(t *testing.T) {
	testenv.InOneWindow(t, testenv.Year)
	dir := descriptorDir(t, map[string]string{"shop.yaml": shopFile})
	rows := descriptorDir(t, map[string]string{"limits.yaml": "limits: [{domain: shop, gateway: pay}, {domain: other, gateway: pay}]"})
	d := start(t, "TPS_CONFIG_DIR="+dir, "TPS_METRICS_ADDR=127.0.0.1:0", "TPS_RESPONSE_HEADERS=true", "TPS_LIMITS_FILE="+rows+"/limits.yaml")
	ask := func(want int, text string) {
		t.Helper()
		code, body := post(t, d.api+"/json", `{"domain":"shop","descriptors":[{"entries":[{"key":"account","value":"ann"}]}]}`)
		if code != want || !strings.Contains(body, text) {
			t.Errorf("%d %s, want %d with %s", code, body, want, text)
		}
	}
	ask(http.StatusOK, "RateLimit-Remaining")
	ask(http.StatusTooManyRequests, "OVER_LIMIT")
	logged(t, d.stderr, "rows of tps_limits mean nothing: descriptor files name their domains")
	if code, body := get(t, d.port(t, "metrics")+"/metrics"); code != http.StatusOK || !strings.Contains(body, "\nratelimitd_descriptor_domains 1\n") {
		t.Errorf("the port of metrics: %d, without the domain", code)
	}
	if code, body := get(t, d.port(t, "debug")+"/rlconfig"); code != http.StatusOK || !strings.HasPrefix(body, "shop.gateway_pay: unit=SECOND requests_per_unit=50, shadow_mode: false, quota_mode: false, name=all of pay\nshop.gateway_pay.endpoint_charge: ") || !strings.Contains(body, "\nshop.account: unit=YEAR") {
		t.Errorf("/rlconfig: %d %s", code, body)
	}
	if code, body := get(t, d.api+"/api/v1/buckets"); code != http.StatusOK || !strings.Contains(body, `"limit":"account=ann;w=31536000"`) {
		t.Errorf("/api/v1/buckets: %d %s", code, body)
	}
	if err := os.WriteFile(filepath.Join(dir, "shop.yaml"), []byte("domain: shop\ndescriptors: [{key: account, rate_limit: {unit: year, requests_per_unit: 5}}]"), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, "the new file", func() error {
		return wantIn(t, d.port(t, "debug")+"/rlconfig", "shop.account: unit=YEAR requests_per_unit=5, shadow_mode: false, quota_mode: false\n")
	})
	ask(http.StatusOK, `"limitRemaining":2`)
	if err := os.WriteFile(filepath.Join(dir, "new.yaml"), []byte("domain: new\nx: y"), 0o600); err != nil {
		t.Fatal(err)
	}
	testenv.Eventually(t, patience, "the file that never loaded", func() error {
		return wantIn(t, d.api+"/readyz", "config error, unknown key 'x'")
	})
	if code, _ := get(t, d.api+"/readyz"); code != http.StatusOK {
		t.Errorf("/readyz answers %d to a bad file that came later", code)
	}
	if code, body := get(t, d.api+"/metrics"); code != http.StatusOK || !strings.Contains(body, "\nratelimitd_descriptor_files_bad 1\n") {
		t.Errorf("/metrics: %d, without the bad file", code)
	}
}

// Of a domain everything is shown, in the order of the file.
func TestDomainText(t *testing.T) {
	dir := descriptorDir(t, map[string]string{"a.yaml": `domain: a
all_or_nothing: true
descriptors:
- {key: plain, rate_limit: {unit: second, requests_per_unit: 3}}
- key: up
  value: x*
  value_to_metric: true
  share_threshold: true
  descriptors:
  - {key: down, shadow_mode: true, detailed_metric: true, metadata: {m: 1}, rate_limit: {per_seconds: 30, requests_per_unit: 1, algorithm: token_bucket, name: n, replaces: [{name: o}]}}
- {key: free, rate_limit: {unlimited: true}}
- {key: "line\nend"}
`})
	files, err := descriptors.ReadDir(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for d := range descriptors.Update(nil, files).Domains() {
		writeDomain(&got, d)
	}
	want := `a: all_or_nothing
a.plain: unit=SECOND requests_per_unit=3, shadow_mode: false, quota_mode: false
a.up_x*.down: unit=30s requests_per_unit=1, shadow_mode: true, quota_mode: false, algorithm=token_bucket, metadata, name=n, replaces=o, detailed_metric
a.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false, unlimited
"a.line\nend": no limit
`
	if got.String() != want {
		t.Errorf("/rlconfig shows\n%swant\n%s", got.String(), want)
	}
	command(t.Context(), nil, "config", "check", dir).wants(t, 0, `a.yaml: domain a, 3 limits, all_or_nothing
  plain: unit=SECOND requests_per_unit=3
  up=x*: share_threshold value_to_metric
    down: unit=30s requests_per_unit=1 shadow_mode algorithm=token_bucket metadata name=n replaces=o detailed_metric
  free: unlimited
  "line\nend"
`, "")
}
