package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestVersion(t *testing.T) {
	got := command(t.Context(), nil, "version")
	got.wants(t, 0, "ratelimitd ", "")
	if words := strings.Fields(got.stdout); len(words) < 3 || !strings.HasPrefix(words[len(words)-1], "go1.") || lines(got.stdout) != 1 {
		t.Errorf("got %q, want one line with a version and that of Go", got.stdout)
	}
}

func TestHelpTeaches(t *testing.T) {
	got := command(t.Context(), nil, "--help")
	got.wants(t, 0, "ratelimitd limits set --gateway shop --max-tps 100", "")
	for _, want := range []string{"serve", "migrate", "limits list", "limits set", "limits delete", "check", "version", "the flag wins"} {
		if !strings.Contains(got.stdout, want) {
			t.Errorf("--help does not tell of %q:\n%s", want, got.stdout)
		}
	}
	if strings.Contains(got.stdout, "docs") {
		t.Errorf("--help tells of a command that is not for operators:\n%s", got.stdout)
	}
	help := command(t.Context(), nil, "serve", "--help")
	help.wants(t, 0, "", "")
	text := strings.Join(strings.Fields(help.stdout), " ") // as if a line had no end
	for _, c := range given {
		if !strings.Contains(text, flagOf(c.name)+"=") || !strings.Contains(text, "("+c.name) {
			t.Errorf("serve --help does not tell of %s and %s", flagOf(c.name), c.name)
		}
	}
	if !strings.Contains(text, "(TPS_GRPC_ADDR, default :8081)") {
		t.Errorf("serve --help tells no default:\n%s", help.stdout)
	}
}

func TestBadCommands(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"srve"}, "unexpected argument srve"},
		{[]string{"serve", "now"}, "unexpected argument now"},
		{[]string{"--grpc-adr=:1"}, "unknown flag --grpc-adr"},
		{[]string{"limits"}, `expected one of "list", "set", "delete"`},
		{[]string{"limits", "set"}, "missing flags: --gateway=STRING"},
		{[]string{"limits", "set", "--gateway=g", "--max-tps=many"}, `--max-tps: expected a valid 64 bit int but got "many"`},
		{[]string{"limits", "list", "-o", "xml"}, `--output must be one of "table","json"`},
		{[]string{"check"}, `expected "<entries> ..."`},
	} {
		got := command(t.Context(), nil, c.args...)
		got.wants(t, 2, "", c.want)
		if got.stdout != "" || lines(got.stderr) != 1 || !strings.Contains(got.stderr, "ratelimitd --help tells more") {
			t.Errorf("%q: stdout %q, stderr %q; want one line that names --help", c.args, got.stdout, got.stderr)
		}
	}
}

func TestMigrate(t *testing.T) {
	command(t.Context(), nil, "migrate").wants(t, 1, "", "ratelimitd: migrate needs a database: set TPS_DATABASE_URL or TPS_DB_HOST\n")
	env := []string{"TPS_DATABASE_URL=" + testenv.EmptyDatabase(t), "TPS_ODD=1"}
	for range 2 { // the second time there is nothing to do
		command(t.Context(), env, "migrate").wants(t, 0, "", "TPS_ODD is no setting of ratelimitd")
	}
}

func TestDocsWritesBetweenTheMarkers(t *testing.T) {
	metrics := tableOfMetrics(t)
	file := filepath.Join(t.TempDir(), "README.md")
	write := func(body string) {
		if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const page = "before\n<!-- settings:begin -->\n%s<!-- settings:end -->\nbetween\n<!-- metrics:begin -->\n%s<!-- metrics:end -->\nafter\n"
	write(fmt.Sprintf(page, "old\n", ""))
	for range 2 {
		command(t.Context(), nil, "docs", file).wants(t, 0, "", "")
		got, err := os.ReadFile(file)
		if want := fmt.Sprintf(page, settingsTable(), metrics); err != nil || string(got) != want {
			t.Errorf("%v, got\n%s\nwant\n%s", err, got, want)
		}
	}
	command(t.Context(), nil, "docs", "-").wants(t, 0, settingsTable(), "")
	write("no markers <!-- metrics:begin -->")
	command(t.Context(), nil, "docs", file).wants(t, 1, "", file+" has no markers")
	command(t.Context(), nil, "docs", file+".missing").wants(t, 1, "", "writing tables: open "+file+".missing")
}

func tableOfMetrics(tb testing.TB) string {
	tb.Helper()
	table, err := metricsTable()
	if err != nil {
		tb.Fatal(err)
	}
	return table
}

// The table of metrics has those of every part, also of the ones that an embedded server lacks, and
// those that have no child yet.
func TestMetricsTable(t *testing.T) {
	table := tableOfMetrics(t)
	for _, row := range []string{
		"| `ratelimitd_build_info` | gauge | `version` | ",
		"| `ratelimitd_decisions_total` | counter | `code`, `domain`, `endpoint`, `gateway` | ",
		"| `ratelimitd_limits_load_errors_total` | counter | `reason` | ",
		"| `ratelimitd_postgres_up` | gauge |  | ",
		"| `ratelimitd_recorder_written_total` | counter | `sink` | ",
		"| `ratelimitd_tls_certificate_expiry_timestamp_seconds` | gauge | `use` | ",
		"| `ratelimitd_transaction_duration_seconds` | histogram | `domain`, `endpoint`, `gateway` | ",
	} {
		if !strings.Contains(table, row) {
			t.Errorf("there is no %s in\n%s", row, table)
		}
	}
}

// TestDocumentsHaveTheTables is the check of `make verify`, here for whoever runs the tests only.
func TestDocumentsHaveTheTables(t *testing.T) {
	for file, table := range map[string]string{
		"README.md":          "<!-- settings:begin -->\n" + settingsTable() + "<!-- settings:end -->",
		"docs/operations.md": "<!-- metrics:begin -->\n" + tableOfMetrics(t) + "<!-- metrics:end -->",
	} {
		body, err := os.ReadFile(filepath.Join(testenv.Root(t), filepath.FromSlash(file)))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(body), table) {
			t.Errorf("a table in %s is old: make generate writes it", file)
		}
	}
}

func TestLimitsAndCheck(t *testing.T) {
	d := start(t, "TPS_DEFAULT_MAX_TPS=0")
	header := "DOMAIN  GATEWAY  ENDPOINT  PER  MAX_TPS  PER_SECONDS  ALGORITHM  BURST  MAX_WAIT_MS  ENABLED  SHADOW  VERSION  NOTE\n"
	if got := d.ratelimitd(t, "limits", "list"); got.code != 0 || got.stdout != header {
		t.Errorf("list of none: %+v", got)
	}
	d.ratelimitd(t, "check", "gateway=shop").wants(t, 0, "OK\nno limit applies\n", "")
	set := d.ratelimitd(t, "limits", "set", "--gateway=shop", "--endpoint=pay", "--max-tps=2", "--burst=1", "--note=a\tb\n\x1b[31mred")
	want := "DOMAIN  GATEWAY  ENDPOINT  PER  MAX_TPS  PER_SECONDS  ALGORITHM     BURST  MAX_WAIT_MS  ENABLED  SHADOW  VERSION  NOTE\n" +
		"        shop     pay       -    2        1            token_bucket  1      0            true     false   2        \"a\\tb\\n\\x1b[31mred\"\n"
	if set.code != 0 || set.stdout != want {
		t.Errorf("set: %+v\nwant %s", set, want)
	}
	d.ratelimitd(t, "check", "gateway=shop", "endpoint=pay", "--hits=0").wants(t, 0, "OK\nlimit shop/pay: 2 per second, 1 remaining, reset in 0s\n", "")
	d.ratelimitd(t, "check", "gateway=shop", "endpoint=pay").wants(t, 0, "OK\nlimit shop/pay: 2 per second, 0 remaining, reset in 1s\n", "")
	refused := d.ratelimitd(t, "check", "gateway=shop", "endpoint=pay", "--hits=2")
	if refused.code != 1 || refused.stdout != "OVER_LIMIT\nlimit shop/pay: 2 per second, 0 remaining, this can never pass\n" || refused.stderr != "" {
		t.Errorf("more hits than the burst: %+v", refused)
	}
	asJSON := d.ratelimitd(t, "check", "gateway=shop", "endpoint=pay", "--hits=2", "-o", "json")
	var answer struct{ OverallCode string }
	if err := json.Unmarshal([]byte(asJSON.stdout), &answer); err != nil || answer.OverallCode != "OVER_LIMIT" || asJSON.code != 1 {
		t.Errorf("check -o json: %v, %+v", err, asJSON)
	}
	d.ratelimitd(t, "check", "shop").wants(t, 1, "", `ratelimitd: entry "shop": is not key=value`)
	d.ratelimitd(t, "check", "--domain=", "gateway=shop").wants(t, 1, "", "ratelimitd: the server answered 400 Bad Request: ")

	every := d.ratelimitd(t, "limits", "set", "--domain=d", "--gateway=g*", "--per=user", "--max-wait-ms=7", "--shadow", "--disabled", "--note=plain words")
	every.wants(t, 0, "d       g*       -         user  1000     1            token_bucket  -      7            false    true    3        plain words\n", "")
	listed := d.ratelimitd(t, "limits", "list", "-o", "json")
	var list struct{ Limits []limits.Row }
	if err := json.Unmarshal([]byte(listed.stdout), &list); err != nil || len(list.Limits) != 2 || *list.Limits[0].Note != "a\tb\n\x1b[31mred" || *list.Limits[1].Per != "user" {
		t.Errorf("list -o json: %v, %+v", err, listed)
	}
	d.ratelimitd(t, "limits", "set", "--gateway=g", "--burst=0").wants(t, 1, "", "ratelimitd: the server answered 422 Unprocessable Entity: burst 0: is not within 1 to 1000000000\n")
	d.ratelimitd(t, "limits", "delete", "--domain=d", "--gateway=g*", "--per=user").wants(t, 0, `deleted (domain "d", gateway "g*", endpoint "", per "user")`+"\n", "")
	d.ratelimitd(t, "limits", "delete", "--domain=d", "--gateway=g*", "--per=user").wants(t, 1, "", "ratelimitd: the server answered 404 Not Found: ")
	if got := d.ratelimitd(t, "limits", "list"); lines(got.stdout) != 2 {
		t.Errorf("list after the delete: %+v", got)
	}
}

func TestCommandsShowTheToken(t *testing.T) {
	d := start(t, "TPS_API_TOKENS=write:s3cret")
	set := []string{"limits", "set", "--gateway=shop", "--server", d.api}
	command(t.Context(), nil, set...).wants(t, 1, "", "ratelimitd: the server answered 401 Unauthorized: ")
	command(t.Context(), []string{"TPS_API_TOKEN=s3cret"}, set...).wants(t, 0, "shop", "")
	if shown := d.stdout.String() + d.stderr.String(); strings.Contains(shown, "s3cret") {
		t.Errorf("serve has printed the token:\n%s", shown)
	}
}

func TestCommandsWithoutAServer(t *testing.T) {
	for _, args := range [][]string{{"limits", "list"}, {"limits", "set", "--gateway=g"}, {"limits", "delete", "--gateway=g"}, {"check", "gateway=g"}} {
		got := command(t.Context(), nil, append(args, "--server=127.0.0.1:1")...)
		got.wants(t, 1, "", "connection refused")
		if lines(got.stderr) != 1 || got.stdout != "" {
			t.Errorf("%q: %+v, want one line", args, got)
		}
		got = command(t.Context(), nil, append(args, "--server=127.0.0.1:1", "--ca=/nope")...)
		got.wants(t, 1, "", "ratelimitd: reading the authority: open /nope")
	}
}
