package e2e_test

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// dashboard is what the tests look at of Grafana's model of one.
type dashboard struct {
	UID        string
	Title      string
	Panels     []panel
	Templating struct {
		List []struct {
			Name       string
			Definition string
			Datasource datasource
		}
	}
}

type panel struct {
	ID          int
	Type        string
	Title       string
	Description string
	Datasource  datasource
	Targets     []target
	GridPos     struct{ H, W, X, Y int }

	MaxDataPoints int
}

type datasource struct{ Type, UID string }

type target struct {
	Datasource datasource
	Expr       string // PromQL
	RawSQL     string `json:"rawSql"`
}

const dashboardFile = "grafana/dashboards/ratelimitd.json"

func loadDashboard(tb testing.TB) dashboard {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(testenv.Root(tb), dashboardFile))
	if err != nil {
		tb.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(body, &d); err != nil {
		tb.Fatalf("%s: %v", dashboardFile, err)
	}
	if len(d.Panels) == 0 {
		tb.Fatalf("%s has no panels", dashboardFile)
	}
	return d
}

// asGrafana replaces what Grafana does before it sends a query: its own variables and macros,
// with those of the dashboard at All, for the last hour.
func asGrafana(query string) string { return lastOf(time.Hour).asGrafana(query, 0) }

// shown is the time that a dashboard shows.
type shown struct{ from, to time.Time }

func lastOf(length time.Duration) shown {
	now := time.Now()
	return shown{now.Add(-length), now}
}

// asGrafana does that for a panel of so many points at most; 0 = as many as a panel is wide.
func (s shown) asGrafana(query string, points int) string {
	query = regexp.MustCompile(`\$__timeFilter\(([^)]+)\)`).ReplaceAllString(query,
		fmt.Sprintf("$1 BETWEEN '%s' AND '%s'", s.from.UTC().Format(time.RFC3339Nano), s.to.UTC().Format(time.RFC3339Nano)))
	milliseconds := func(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }
	return strings.NewReplacer("$__interval_ms", strconv.FormatInt(s.interval(points).Milliseconds(), 10), "${__from}", milliseconds(s.from), "${__to}", milliseconds(s.to),
		"$__rate_interval", "1m", "$__range", "1h", "$domain", ".*", "$gateway", ".*", "$endpoint", ".*").Replace(query)
}

// interval is about what Grafana makes of it: the round number that is nearest to the length of a point.
func (s shown) interval(points int) time.Duration {
	const width = 700
	if points == 0 {
		points = width
	}
	exact := s.to.Sub(s.from) / time.Duration(points)
	round := []time.Duration{
		time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 15 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute,
		10 * time.Minute, 15 * time.Minute, 30 * time.Minute, time.Hour, 2 * time.Hour, 3 * time.Hour, 6 * time.Hour, 12 * time.Hour, 24 * time.Hour,
	}
	return slices.MinFunc(round, func(a, b time.Duration) int { return cmp.Compare((a - exact).Abs(), (b - exact).Abs()) })
}

// The dashboard shows what it should, from data sources that are provisioned.
func TestDashboard(t *testing.T) {
	root := testenv.Root(t)
	var sources struct {
		Datasources []struct {
			Name, UID, Type, URL string
		}
	}
	readYAML(t, filepath.Join(root, "grafana/provisioning/datasources/ratelimitd.yaml"), &sources)
	known := map[datasource]string{}
	project := loadCompose(t, nil)
	for _, s := range sources.Datasources {
		known[datasource{s.Type, s.UID}] = s.Name
		port := map[string]string{"Prometheus": "9090", "PostgreSQL TPS Database": "5432"}[s.Name]
		checkAddress(t, project, "data source "+s.Name, strings.TrimPrefix(s.URL, "http://"), port)
	}
	if len(known) != 2 {
		t.Fatalf("the data sources are %v, want Prometheus and PostgreSQL TPS Database", known)
	}

	d := loadDashboard(t)
	ids, titles := map[int]bool{}, map[string]string{}
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %d %q: the id comes twice, or the title is empty", p.ID, p.Title)
		}
		ids[p.ID] = true
		if p.Type == "row" {
			continue
		}
		titles[p.Title] = known[p.Datasource]
		if known[p.Datasource] == "" || len(p.Targets) == 0 || p.Description == "" {
			t.Errorf("panel %q: data source %v is not provisioned, or it has no query or no description", p.Title, p.Datasource)
		}
		for _, q := range p.Targets {
			if q.Datasource != p.Datasource || (q.Expr == "") == (q.RawSQL == "") {
				t.Errorf("panel %q: a query of data source %v has PromQL %q and SQL %q", p.Title, q.Datasource, q.Expr, q.RawSQL)
			}
		}
	}
	for _, title := range []string{"TPS", "Throttled", "Held", "p99"} {
		if titles[title] != "Prometheus" || titles[title+" (Postgres)"] != "PostgreSQL TPS Database" {
			t.Errorf("there is no panel %q from both data sources: %v", title, titles)
		}
	}
	assertNoOverlap(t, d.Panels)
}

func assertNoOverlap(t *testing.T, panels []panel) {
	t.Helper()
	for i, a := range panels {
		if a.GridPos.X+a.GridPos.W > 24 || a.GridPos.W == 0 || a.GridPos.H == 0 {
			t.Errorf("panel %q is not within the 24 columns: %+v", a.Title, a.GridPos)
		}
		for _, b := range panels[i+1:] {
			if a.GridPos.X < b.GridPos.X+b.GridPos.W && b.GridPos.X < a.GridPos.X+a.GridPos.W &&
				a.GridPos.Y < b.GridPos.Y+b.GridPos.H && b.GridPos.Y < a.GridPos.Y+a.GridPos.H {
				t.Errorf("panels %q and %q lie upon each other", a.Title, b.Title)
			}
		}
	}
}

// Grafana finds the files where the containers have them.
func TestGrafanaMounts(t *testing.T) {
	root := testenv.Root(t)
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	readYAML(t, filepath.Join(root, "grafana/provisioning/dashboards/ratelimitd.yaml"), &providers)
	grafana := service(t, loadCompose(t, nil), "grafana")
	mounts := map[string]string{}
	for _, v := range grafana.Volumes {
		mounts[v.Target] = v.Source
	}
	if got, want := mounts[providers.Providers[0].Options.Path], filepath.Join(root, "grafana/dashboards"); got != want {
		t.Errorf("the provider's path %s is %q, want %q", providers.Providers[0].Options.Path, got, want)
	}
	if got, want := mounts["/etc/grafana/provisioning"], filepath.Join(root, "grafana/provisioning"); got != want {
		t.Errorf("/etc/grafana/provisioning is %q, want %q", got, want)
	}
	home := environment(grafana)["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
	if got := filepath.Join(mounts[filepath.Dir(home)], filepath.Base(home)); got != filepath.Join(root, dashboardFile) {
		t.Errorf("the home dashboard is %s, want %s", got, dashboardFile)
	}
}

// Every SQL of the dashboard runs as the role that Grafana has, which can read and nothing else.
func TestDashboardSQL(t *testing.T) {
	database := testenv.NewPostgres(t).Database(t) // its own server: a role belongs to all databases of one
	owner := testenv.Connect(t, database)
	role, err := os.ReadFile(filepath.Join(testenv.Root(t), "grafana", "postgres-reader.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Exec(t.Context(), string(role)); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{
		"INSERT INTO tps_limits (gateway, max_tps) VALUES ('gw', 5)",
		`INSERT INTO tps_rollups (resolution, at, gateway, endpoint, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, histogram)
			SELECT r, date_trunc(r, now() - interval '2 minutes'), 'gw', 'pay', 100, 40, 50, 20, 900, 5000, 60, 30e1280 + 20e1440 FROM unnest('{second,minute,hour}'::text[]) r`,
	} {
		if _, err := owner.Exec(t.Context(), statement); err != nil {
			t.Fatalf("%s: %v", statement, err)
		}
	}
	address, err := url.Parse(database)
	if err != nil {
		t.Fatal(err)
	}
	address.User = url.User("grafana_reader")
	reader := testenv.Connect(t, address.String())
	if _, err := reader.Exec(t.Context(), "DELETE FROM tps_limits"); err == nil {
		t.Error("Grafana's role can delete limits")
	}
	ran := 0
	for _, p := range loadDashboard(t).Panels {
		for _, q := range p.Targets {
			if q.RawSQL == "" {
				continue
			}
			ran++
			rows, err := reader.Query(t.Context(), asGrafana(q.RawSQL))
			if err != nil {
				t.Errorf("panel %q: %v\n%s", p.Title, err, asGrafana(q.RawSQL))
				continue
			}
			found, err := pgx.CollectRows(rows, pgx.RowToMap)
			if err != nil || len(found) == 0 {
				t.Errorf("panel %q: %d rows, %v\n%s", p.Title, len(found), err, asGrafana(q.RawSQL))
			}
		}
	}
	if ran == 0 {
		t.Error("no panel has SQL")
	}
}

// promQueries are all of the dashboard and of the alerts.
func promQueries(tb testing.TB) map[string]string {
	tb.Helper()
	queries := map[string]string{}
	d := loadDashboard(tb)
	for _, p := range d.Panels {
		for i, q := range p.Targets {
			if q.Expr != "" {
				queries[fmt.Sprintf("panel %q, query %d", p.Title, i)] = asGrafana(q.Expr)
			}
		}
	}
	for _, v := range d.Templating.List {
		metric, _, _ := strings.Cut(strings.TrimPrefix(v.Definition, "label_values("), ", "+v.Name+")")
		queries["variable "+v.Name] = asGrafana(metric)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	readYAML(tb, filepath.Join(testenv.Root(tb), filepath.FromSlash(alertsFile)), &rules)
	for _, r := range rules.Groups[0].Rules {
		queries["alert "+r.Alert] = r.Expr
	}
	return queries
}

// Every PromQL is one, and asks for metrics that the code makes.
func TestPromQL(t *testing.T) {
	queries := promQueries(t)
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, q := range queries {
		rules = append(rules, rule{"test:query", q})
	}
	slices.SortFunc(rules, func(a, b rule) int { return strings.Compare(a.Expr, b.Expr) })
	body, err := json.Marshal(map[string]any{"groups": []any{map[string]any{"name": "test", "rules": slices.Compact(rules)}}})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "rules.yml") // JSON is YAML
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "promtool", "check", "rules", "--lint=none", path).CombinedOutput(); err != nil {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	made := metricNames(t)
	asked := regexp.MustCompile(`\bratelimitd_[a-z_]+`)
	for where, q := range queries {
		for _, name := range asked.FindAllString(q, -1) {
			if !made[strings.TrimSuffix(name, "_bucket")] {
				t.Errorf("%s asks for %s, which nothing makes", where, name)
			}
		}
	}
}

// metricNames are the names of metrics that the code has as string constants.
func metricNames(tb testing.TB) map[string]bool {
	tb.Helper()
	names := map[string]bool{}
	quoted := regexp.MustCompile(`"(ratelimitd_[a-z_]+)"`)
	files, err := filepath.Glob(filepath.Join(testenv.Root(tb), "*", "*", "*.go"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		body, err := os.ReadFile(file)
		if err != nil {
			tb.Fatal(err)
		}
		for _, m := range quoted.FindAllStringSubmatch(string(body), -1) {
			names[m[1]] = true
		}
	}
	if len(names) < 10 {
		tb.Fatalf("only %v were found", names)
	}
	return names
}
