package e2e_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const (
	alertsFile     = "grafana/alerts/ratelimitd.yml"
	alertTestsFile = "grafana/alerts/ratelimitd_test.yml"
)

// alertNames are those of the rules, in alphabetical order.
func alertNames(tb testing.TB) (names []string) {
	tb.Helper()
	var rules struct {
		Groups []struct{ Rules []struct{ Alert string } }
	}
	readYAML(tb, filepath.Join(testenv.Root(tb), filepath.FromSlash(alertsFile)), &rules)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			names = append(names, r.Alert)
		}
	}
	slices.Sort(names)
	if len(names) < 10 || len(slices.Compact(slices.Clone(names))) != len(names) {
		tb.Fatalf("%s has the alerts %v: too few, or one comes twice", alertsFile, names)
	}
	return names
}

// Prometheus takes the rules, and they speak of what they should.
func TestAlerts(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", alertsFile}, {"test", "rules", alertTestsFile}} {
		cmd := exec.CommandContext(t.Context(), "promtool", args...)
		cmd.Dir = testenv.Root(t)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Every rule is tested once where it fires, and once where it does not.
func TestEveryAlertIsTested(t *testing.T) {
	var tests struct {
		Tests []struct {
			Rules []struct {
				Alert    string `yaml:"alertname"`
				Expected []any  `yaml:"exp_alerts"`
			} `yaml:"alert_rule_test"`
		}
	}
	readYAML(t, filepath.Join(testenv.Root(t), filepath.FromSlash(alertTestsFile)), &tests)
	fires, quiet := map[string]bool{}, map[string]bool{}
	for _, test := range tests.Tests {
		for _, r := range test.Rules {
			if len(r.Expected) > 0 {
				fires[r.Alert] = true
			} else {
				quiet[r.Alert] = true
			}
		}
	}
	for what, tested := range map[string]map[string]bool{"fire": fires, "do not fire": quiet} {
		if diff := cmp.Diff(alertNames(t), slices.Sorted(maps.Keys(tested))); diff != "" {
			t.Errorf("alerts of which a test sees that they %s (-%s +%s):\n%s", what, alertsFile, alertTestsFile, diff)
		}
	}
}

// docs/operations.md has a paragraph for every alert, and for no other.
func TestOperationsTellOfEveryAlert(t *testing.T) {
	text := readDoc(t, "docs/operations.md")
	var told []string
	for _, m := range regexp.MustCompile(`(?m)^### (Ratelimitd\w+)\n\n(\S.*)$`).FindAllStringSubmatch(text, -1) {
		told = append(told, m[1])
	}
	slices.Sort(told)
	if diff := cmp.Diff(alertNames(t), told); diff != "" {
		t.Errorf("alerts (-%s +headings of docs/operations.md with a paragraph):\n%s", alertsFile, diff)
	}
	for _, name := range regexp.MustCompile(`\bRatelimitd[A-Z]\w+`).FindAllString(text, -1) {
		if !slices.Contains(told, name) {
			t.Errorf("docs/operations.md names the alert %s, which has no paragraph", name)
		}
	}
}

// docs/operations.md has every metric that the code makes, and no other.
func TestOperationsTellOfEveryMetric(t *testing.T) {
	_, table, _ := strings.Cut(readDoc(t, "docs/operations.md"), "<!-- metrics:begin -->")
	table, _, _ = strings.Cut(table, "<!-- metrics:end -->")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(ratelimitd_[a-z_]+)` \\|").FindAllStringSubmatch(table, -1) {
		told = append(told, m[1])
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(metricNames(t))), told); diff != "" {
		t.Errorf("metrics (-the code +the table of docs/operations.md, which make generate writes):\n%s", diff)
	}
}

// docs/operations.md has every line that the code logs at warn and error, and no other.
func TestOperationsTellOfEveryLogLine(t *testing.T) {
	_, section, ok := strings.Cut(readDoc(t, "docs/operations.md"), "\n## Log lines\n")
	if !ok {
		t.Fatal("docs/operations.md has no section Log lines")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var told []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\| (warn|error|warn or error) \\| \\S").FindAllStringSubmatch(section, -1) {
		told = append(told, m[2]+": "+m[1])
	}
	slices.Sort(told)
	if diff := cmp.Diff(loggedLines(t), told); diff != "" {
		t.Errorf("lines of the log at warn and error (-the code +the table of docs/operations.md):\n%s", diff)
	}
}

// loggedLines are the levels and messages that cmd and internal log at warn and above, sorted.
func loggedLines(tb testing.TB) []string {
	tb.Helper()
	lines := map[string]bool{}
	for _, top := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(testenv.Root(tb), top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.IsDir() {
				return err
			}
			if d.Name() == "testenv" {
				return fs.SkipDir
			}
			addLoggedLines(tb, path, lines)
			return nil
		})
		if err != nil {
			tb.Fatal(err)
		}
	}
	if len(lines) < 10 {
		tb.Fatalf("only %v were found", lines)
	}
	return slices.Sorted(maps.Keys(lines))
}

// logCall is a call by which a line is logged.
type logCall struct {
	level   string
	message int // index of the argument
}

// loggers are the methods of slog.Logger, and functions of slog, that log at warn or above.
var loggers = map[string]logCall{
	"Warn": {"warn", 0}, "WarnContext": {"warn", 1}, "Error": {"error", 0}, "ErrorContext": {"error", 1},
	"Log": {"", 2}, "LogAttrs": {"", 2}, // by their second argument
}

// addLoggedLines adds those of one directory. A function that logs a message which it is given
// counts as a logger itself.
func addLoggedLines(tb testing.TB, dir string, lines map[string]bool) {
	tb.Helper()
	files := token.NewFileSet()
	var functions []*ast.FuncDecl
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		tb.Fatal(err)
	}
	for _, path := range paths {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(files, path, nil, 0)
		if err != nil {
			tb.Fatal(err)
		}
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				functions = append(functions, f)
			}
		}
	}
	known := maps.Clone(loggers)
	for added := true; added; {
		added = false
		for _, f := range functions {
			eachLogCall(f, known, func(c logCall, call *ast.CallExpr) {
				message := call.Args[c.message]
				if text, ok := constant(message); ok {
					lines[c.level+": "+text] = true
				} else if i := parameter(f, message); i < 0 {
					tb.Errorf("%s: the message is no constant", files.Position(call.Pos()))
				} else if _, ok := known[f.Name.Name]; !ok {
					known[f.Name.Name], added = logCall{c.level, i}, true
				}
			})
		}
	}
}

func eachLogCall(f *ast.FuncDecl, known map[string]logCall, do func(logCall, *ast.CallExpr)) {
	ast.Inspect(f, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		name, of := "", ""
		switch fun := call.Fun.(type) {
		case *ast.Ident:
			name = fun.Name
		case *ast.SelectorExpr:
			name = fun.Sel.Name
			if x, ok := fun.X.(*ast.Ident); ok {
				of = x.Name
			}
		}
		c, ok := known[name]
		if !ok || of == "http" || of == "math" || len(call.Args) <= c.message { // err.Error() has no argument
			return true
		}
		if c.level == "" {
			c.level = levelOf(call.Args[1])
		}
		if c.level != "" {
			do(c, call)
		}
		return true
	})
}

// levelOf is empty for what is below warn.
func levelOf(arg ast.Expr) string {
	switch s, _ := arg.(*ast.SelectorExpr); {
	case s == nil:
		return "warn or error"
	case s.Sel.Name == "LevelDebug" || s.Sel.Name == "LevelInfo":
		return ""
	default:
		return strings.ToLower(strings.TrimPrefix(s.Sel.Name, "Level"))
	}
}

func constant(e ast.Expr) (string, bool) {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return "", false
	}
	text, err := strconv.Unquote(lit.Value)
	return text, err == nil
}

// parameter is the index of the parameter of f that e is, -1 where it is none.
func parameter(f *ast.FuncDecl, e ast.Expr) int {
	id, ok := e.(*ast.Ident)
	if !ok {
		return -1
	}
	i := 0
	for _, field := range f.Type.Params.List {
		for _, name := range field.Names {
			if name.Name == id.Name {
				return i
			}
			i++
		}
	}
	return -1
}

// What finds the lines of the log finds each way of writing one.
func TestLoggedLinesAreFound(t *testing.T) {
	const source = `package p
func a(ctx context.Context, log *slog.Logger, level slog.Level, err error) {
	log.Info("no")
	log.Warn("one")
	log.With(slog.String("a", "b")).WarnContext(ctx, "two")
	log.ErrorContext(ctx, "three", slog.Any("error", err.Error()))
	log.Log(ctx, slog.LevelInfo, "no")
	log.LogAttrs(ctx, slog.LevelError, "four")
	log.Log(ctx, level, "five")
	func() { slog.Error("six") }()
	http.Error(w, "no", 500)
	again(ctx, "seven")
}
func again(ctx context.Context, message string) { rarely(ctx, 1, message) }
func rarely(ctx context.Context, n int, message string) { log.WarnContext(ctx, message) }
`
	dir, lines := t.TempDir(), map[string]bool{}
	if err := os.WriteFile(filepath.Join(dir, "p.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	addLoggedLines(t, dir, lines)
	want := []string{"error: four", "error: six", "error: three", "warn or error: five", "warn: one", "warn: seven", "warn: two"}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(lines))); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
