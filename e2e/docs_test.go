package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func readDoc(tb testing.TB, name string) string {
	tb.Helper()
	body, err := os.ReadFile(filepath.Join(testenv.Root(tb), filepath.FromSlash(name)))
	if err != nil {
		tb.Fatal(err)
	}
	return string(body)
}

var exampleBlock = regexp.MustCompile("(?s)```example\n(limits:\n.*?)\n\n(.*?)```")

// Every example of docs/limits.md is what the code does, in virtual time and through /json.
func TestExamplesOfLimits(t *testing.T) {
	text := readDoc(t, "docs/limits.md")
	blocks := exampleBlock.FindAllStringSubmatch(text, -1)
	if n := strings.Count(text, "```example"); n != len(blocks) || n < 10 {
		t.Fatalf("%d of %d examples can be read", len(blocks), n)
	}
	for i, block := range blocks {
		t.Run(strconv.Itoa(i+1), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { runExample(t, block[1], block[2]) })
		})
	}
}

// example is a running service and what it has answered.
type example struct {
	began   time.Time
	clock   limits.Clock
	current *limits.Current
	service http.Handler
	pending sync.WaitGroup
}

func runExample(t *testing.T, rows, lines string) {
	t.Helper()
	e := &example{began: time.Now(), clock: limits.NewClock(), current: &limits.Current{}}
	engine := buckets.New(buckets.Config{DefaultMaxTPS: 1000}, e.clock, e.current)
	var file struct{ Limits []limits.Row }
	if err := yaml.Unmarshal([]byte(rows), &file); err != nil {
		t.Fatal(err)
	}
	e.store(t, file.Limits)
	service, err := rls.New(rls.Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}, MaxSeries: 100}, engine, prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	e.service = service.JSON()
	for line := range strings.Lines(lines) {
		e.step(t, strings.TrimSpace(line))
	}
	e.pending.Wait()
}

// store puts rows in force, beside those that are.
func (e *example) store(t *testing.T, rows []limits.Row) {
	t.Helper()
	var changes []limits.Change
	for _, row := range rows {
		l, err := row.Limit()
		if err != nil {
			t.Fatal(err)
		}
		changes = append(changes, limits.Change{Key: l.Key, Limit: &l})
	}
	stamp := limits.Stamp{AtNS: e.clock.NowNS()}
	table := e.current.Load()
	var err error
	if table == nil {
		table, err = limits.NewTable(nil, nil, stamp)
	}
	if err == nil {
		table, err = table.Apply(changes, stamp)
	}
	if err != nil {
		t.Fatal(err)
	}
	e.current.Store(table)
}

var times = regexp.MustCompile(` x(\d+)$`)

// step does one line: at its time a change, or requests whose answers are compared when they
// come.
func (e *example) step(t *testing.T, line string) {
	t.Helper()
	at, rest, _ := strings.Cut(line, " ")
	after, err := time.ParseDuration(at)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	<-time.After(time.Until(e.began.Add(after)))
	rest = strings.TrimSpace(rest)
	if row, ok := strings.CutPrefix(rest, "set "); ok {
		var change limits.Row
		if err := yaml.Unmarshal([]byte(row), &change); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		e.store(t, []limits.Row{change})
		return
	}
	request, want, ok := strings.Cut(rest, "->")
	if !ok {
		t.Fatalf("%s: has no answer", line)
	}
	request, n := strings.TrimSpace(request), 1
	if m := times.FindStringSubmatch(request); m != nil {
		n, _ = strconv.Atoi(m[1]) // digits
		request = strings.TrimSuffix(request, m[0])
	}
	body := requestOf(t, request)
	e.pending.Go(func() {
		got := ""
		for range n {
			got = e.ask(body)
		}
		if want := strings.TrimSpace(want); got != want {
			t.Errorf("%s\n got %s", line, got)
		}
	})
	synctest.Wait() // the next line comes after this one, answered or held
}

var option = regexp.MustCompile(` ?\(([^)]*)\)`)

// requestOf is a line's request as /json takes it.
func requestOf(t *testing.T, text string) string {
	t.Helper()
	domain := "edge"
	var descriptors []any
	for part := range strings.SplitSeq(text, "|") {
		descriptor := map[string]any{}
		for _, m := range option.FindAllStringSubmatch(part, -1) {
			words := strings.Fields(m[1])
			switch words[0] {
			case "domain":
				domain = words[1]
			case "hits":
				descriptor["hitsAddend"] = words[1]
			case "give":
				descriptor["hitsAddend"], descriptor["isNegativeHits"] = words[2], true
			case "limit":
				descriptor["limit"] = map[string]any{"requestsPerUnit": json.Number(words[1]), "unit": words[3]}
			default:
				t.Fatalf("%s: %q is no option", text, m[1])
			}
		}
		var entries []any
		for entry := range strings.FieldsSeq(option.ReplaceAllString(part, "")) {
			key, value, ok := strings.Cut(entry, "=")
			if !ok {
				t.Fatalf("%s: %q is not key=value", text, entry)
			}
			entries = append(entries, map[string]any{"key": key, "value": value})
		}
		descriptor["entries"] = entries
		descriptors = append(descriptors, descriptor)
	}
	body, err := json.Marshal(map[string]any{"domain": domain, "descriptors": descriptors})
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// ask sends a request and tells its answer as the examples do.
func (e *example) ask(body string) string {
	sent := time.Now()
	w := httptest.NewRecorder()
	e.service.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/json", strings.NewReader(body)))
	waited := time.Since(sent)
	var answer struct {
		Statuses []struct {
			Code         string
			CurrentLimit *struct{ Name string }
			Remaining    int64 `json:"limitRemaining"`
		}
	}
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || len(answer.Statuses) == 0 {
		return fmt.Sprintf("%d %s", w.Code, w.Body)
	}
	var told []string
	for _, s := range answer.Statuses {
		name := "its own"
		if s.CurrentLimit != nil && s.CurrentLimit.Name != "" {
			name = s.CurrentLimit.Name
		}
		switch after := w.Header().Get("Retry-After"); {
		case s.CurrentLimit == nil:
			told = append(told, s.Code+", no limit")
		case s.Code == "OK":
			told = append(told, fmt.Sprintf("OK %s, %d left", name, s.Remaining))
		case after == "":
			told = append(told, s.Code+" "+name+", never")
		default:
			told = append(told, s.Code+" "+name+", retry after "+after+" s")
		}
	}
	text := strings.Join(told, " | ")
	if waited > 0 {
		text += ", waited " + waited.String()
	}
	return text
}

// The table of default bursts is that of the code.
func TestDefaultBurstsOfLimits(t *testing.T) {
	m := regexp.MustCompile(`(?m)^\| max_tps \|(.*)\|\n\|[-|]+\|\n\| burst \|(.*)\|$`).FindStringSubmatch(readDoc(t, "docs/limits.md"))
	if m == nil {
		t.Fatal("docs/limits.md has no table of default bursts")
	}
	rates, bursts := strings.Split(m[1], "|"), strings.Split(m[2], "|")
	if len(rates) != len(bursts) {
		t.Fatalf("%d rates and %d bursts", len(rates), len(bursts))
	}
	for i, rate := range rates {
		n, err := strconv.ParseInt(strings.TrimSpace(rate), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := strings.TrimSpace(bursts[i]), strconv.FormatInt(limits.DefaultBurst(n), 10); got != want {
			t.Errorf("max_tps %d: the table says burst %s, the code %s", n, got, want)
		}
	}
}

// documents are all Markdown files that are for readers.
func documents(tb testing.TB) []string {
	tb.Helper()
	root := testenv.Root(tb)
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "bench/*.md", "envoy/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil {
			tb.Fatal(err)
		}
		for _, f := range found {
			name, err := filepath.Rel(root, f)
			if err != nil {
				tb.Fatal(err)
			}
			files = append(files, filepath.ToSlash(name))
		}
	}
	return files
}

// What documents name is there: settings, metrics, make targets, files.
func TestDocumentsNameWhatExists(t *testing.T) {
	root := testenv.Root(t)
	settings, metrics := knownSettings(t), metricNames(t)
	settings["TPS_API_TOKEN"] = "" // of the commands
	targets := regexp.MustCompile(`(?m)^([a-z0-9/]+):.*## `).FindAllStringSubmatch(readDoc(t, "Makefile"), -1)
	exists := func(path string) bool {
		found, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(path)))
		return err == nil && len(found) > 0
	}
	for _, name := range documents(t) {
		text := readDoc(t, name)
		for _, m := range regexp.MustCompile(`\bTPS_[A-Z_]+[A-Z]`).FindAllString(text, -1) {
			if _, ok := settings[m]; !ok {
				t.Errorf("%s names the setting %s", name, m)
			}
		}
		for _, m := range regexp.MustCompile(`\bratelimitd_[a-z_]+[a-z]`).FindAllString(text, -1) {
			if !metrics[m] {
				t.Errorf("%s names the metric %s", name, m)
			}
		}
		for _, m := range regexp.MustCompile("`make ([a-z0-9/]+)").FindAllStringSubmatch(text, -1) {
			if !slices.ContainsFunc(targets, func(target []string) bool { return target[1] == m[1] }) {
				t.Errorf("%s names the target make %s", name, m[1])
			}
		}
		for _, m := range regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`).FindAllStringSubmatch(text, -1) {
			if !exists(filepath.Join(filepath.Dir(name), m[1])) {
				t.Errorf("%s links to %s", name, m[1])
			}
		}
		for _, m := range regexp.MustCompile("`((?:cmd|docs|internal|envoy|grafana|prometheus|migrations|bench|e2e)/[^` ]*)`").FindAllStringSubmatch(text, -1) {
			if !exists(m[1]) {
				t.Errorf("%s names the file %s", name, m[1])
			}
		}
	}
}
