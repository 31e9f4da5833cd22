package atomicfile_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
)

// files are the names in a directory.
func files(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func wantFile(t *testing.T, path, body string, mode os.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != body {
		t.Errorf("%s holds %q, %v, want %q", path, got, err, body)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != mode {
		t.Errorf("%s is %v, %v, want %v", path, info.Mode(), err, mode)
	}
}

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, body := range []string{"first", "second, longer", "3", ""} {
		if err := atomicfile.Write(path, []byte(body)); err != nil {
			t.Fatal(err)
		}
		wantFile(t, path, body, 0o644)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("secret")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, path, "secret", 0o600)
	if got := files(t, dir); len(got) != 1 {
		t.Errorf("the directory holds %v", got)
	}
}

func TestWriteThroughLinks(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target")
	link := filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(target, []byte("old"), 0o640), os.Symlink(target, link)); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	wantFile(t, target, "new", 0o640)
	if got, err := os.Readlink(link); err != nil || got != target {
		t.Errorf("the link goes to %q, %v", got, err)
	}
}

// After an error the old content stands, and nothing is left over.
func TestErrorsChangeNothing(t *testing.T) {
	fault := errors.New("fault")
	tests := []struct {
		name  string
		write func(path string) error
	}{
		{"in the content", func(path string) error {
			return atomicfile.WriteFunc(path, func(w io.Writer) error {
				_, err := w.Write([]byte("half"))
				return errors.Join(err, fault)
			})
		}},
		{"before the rename", func(path string) error {
			return atomicfile.WriteIf(path, []byte("new"), func() error { return fault })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "f")
			if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := tt.write(path); !errors.Is(err, fault) {
				t.Errorf("the error is %v", err)
			}
			wantFile(t, path, "old", 0o644)
			if got := files(t, dir); len(got) != 1 {
				t.Errorf("the directory holds %v", got)
			}
		})
	}
	if err := atomicfile.Write(filepath.Join(t.TempDir(), "no", "f"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in a directory that is not there: %v", err)
	}
}

// WriteIf asks when the new content is complete and the old one still in place.
func TestWriteIfAsksLast(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	asked := false
	err := atomicfile.WriteIf(path, []byte("new"), func() error {
		asked = true
		names := files(t, dir)
		if len(names) != 1 {
			t.Fatalf("the directory holds %v", names)
		}
		wantFile(t, filepath.Join(dir, names[0]), "new", 0o644)
		return nil
	})
	if err != nil || !asked {
		t.Fatalf("asked: %v, %v", asked, err)
	}
	wantFile(t, path, "new", 0o644)
}

func TestRemoveLeft(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, name := range []string{"f", "f.123.tmp", "f.tmp", "g.123.tmp"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	atomicfile.RemoveLeft(path)
	got := files(t, dir)
	if len(got) != 3 || got[0] != "f" || got[1] != "f.tmp" || got[2] != "g.123.tmp" {
		t.Errorf("left are %v", got)
	}
}
