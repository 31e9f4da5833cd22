package testenv_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// packages returns the Go packages below root by directory, test files and all build tags
// included.
func packages(tb testing.TB, root string) map[string][]*ast.File {
	tb.Helper()
	found := map[string][]*ast.File{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(path, ".go"):
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(path))
		found[dir] = append(found[dir], file)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// comments returns the package comments of a package.
func comments(files []*ast.File) []string {
	var texts []string
	for _, f := range files {
		if text := f.Doc.Text(); text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

func TestEveryPackageHasOneComment(t *testing.T) {
	found := packages(t, testenv.Root(t))
	if len(found["internal/testenv"]) == 0 {
		t.Fatalf("this package was not found among %d", len(found))
	}
	for dir, files := range found {
		texts := comments(files)
		switch {
		case len(texts) != 1:
			t.Errorf("package %s has %d package comments, want 1", dir, len(texts))
		case !strings.HasPrefix(texts[0], "Package ") && !strings.HasPrefix(texts[0], "Command "):
			t.Errorf("the comment of package %s begins with neither Package nor Command:\n%s", dir, texts[0])
		case strings.Count(texts[0], "\n") > 60:
			t.Errorf("the comment of package %s is longer than a page: %d lines", dir, strings.Count(texts[0], "\n"))
		}
	}
}

func TestCommentsAreFound(t *testing.T) {
	dir := t.TempDir()
	for name, body := range map[string]string{
		"with/doc.go": "// Package with has one.\npackage with\n", "with/more.go": "package with\n",
		"without/a.go": "package without\n", "tagged/a_test.go": "//go:build e2e\n\n// Package tagged has one.\npackage tagged\n",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	found := packages(t, dir)
	for name, want := range map[string]int{"with": 1, "without": 0, "tagged": 1} {
		if got := len(comments(found[name])); got != want {
			t.Errorf("package %s: %d comments, want %d", name, got, want)
		}
	}
}
