package descriptors

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func write(tb testing.TB, dir, name, body string) {
	tb.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func link(tb testing.TB, to, dir, name string) {
	tb.Helper()
	if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
		tb.Fatal(err)
	}
}

// read is ReadDir with each file as a text.
func read(tb testing.TB, dir string) map[string]string {
	tb.Helper()
	files, err := ReadDir(dir, nil)
	if err != nil {
		tb.Fatal(err)
	}
	texts := make(map[string]string)
	for name, f := range files {
		texts[name] = string(f.Body)
		if f.Err != nil {
			texts[name] = "error: " + f.Err.Error()
		}
	}
	return texts
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "shop.yaml", "a")
	write(t, dir, "README.md", "b")
	write(t, dir, "none", "")
	write(t, dir, "sub/deep/x.json", "c")
	write(t, dir, ".hidden.yaml", "d")
	write(t, dir, ".git/config", "e")
	write(t, t.TempDir(), "elsewhere", "f")
	outside := t.TempDir()
	write(t, outside, "far.yaml", "g")
	link(t, filepath.Join(outside, "far.yaml"), dir, "linked.yaml")
	link(t, outside, dir, "linked-directory")
	link(t, "nowhere", dir, "broken.yaml")
	if err := syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := read(t, dir)
	want := map[string]string{
		"shop.yaml": "a", "README.md": "b", "none": "", "sub/deep/x.json": "c", "linked.yaml": "g",
		"broken.yaml": "error: stat " + dir + "/broken.yaml: no such file or directory",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ReadDir (-want +got):\n%s", diff)
	}
}

// TestReadDirOfAConfigMap swaps ..data as the kubelet does.
func TestReadDirOfAConfigMap(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "..2026_01_01/shop.yaml", "old")
	write(t, dir, "..2026_01_02/shop.yaml", "new")
	link(t, "..2026_01_01", dir, "..data")
	link(t, "..data/shop.yaml", dir, "shop.yaml")
	if diff := cmp.Diff(map[string]string{"shop.yaml": "old"}, read(t, dir)); diff != "" {
		t.Errorf("before the swap (-want +got):\n%s", diff)
	}
	link(t, "..2026_01_02", dir, "..data_tmp")
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]string{"shop.yaml": "new"}, read(t, dir)); diff != "" {
		t.Errorf("after the swap (-want +got):\n%s", diff)
	}
}

func TestReadDirBehindALink(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "release-1/shop.yaml", "a")
	link(t, "release-1", dir, "current")
	if diff := cmp.Diff(map[string]string{"shop.yaml": "a"}, read(t, filepath.Join(dir, "current"))); diff != "" {
		t.Errorf("ReadDir (-want +got):\n%s", diff)
	}
}

func TestReadDirThatIsNotThere(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "gone")
	files, err := ReadDir(dir, nil)
	if err == nil || !strings.HasPrefix(err.Error(), "reading the directory "+dir+": ") || files != nil {
		t.Errorf("files %v, error %v", files, err)
	}
}

// A directory that is moved away while it is read has not lost its files, and one that takes its name is
// read whole.
func TestReadDirThatIsReplaced(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "dir")
	fresh := func(name string) {
		for _, file := range []string{"1", "2", "3"} {
			write(t, filepath.Join(top, name), name+file, "")
		}
	}
	rename := func(from, to string) {
		t.Helper()
		if err := os.Rename(filepath.Join(top, from), filepath.Join(top, to)); err != nil {
			t.Error(err)
		}
	}
	fresh("dir")
	fresh("b")
	calls := 0
	files, err := ReadDir(dir, func(string, fs.FileInfo) bool {
		if calls++; calls == 2 {
			rename("dir", "old")
			rename("b", "dir")
		}
		return true
	})
	if got := slices.Sorted(maps.Keys(files)); err != nil || !slices.Equal(got, []string{"b1", "b2", "b3"}) {
		t.Errorf("files %v, error %v, want those of b", got, err)
	}
	files, err = ReadDir(dir, func(string, fs.FileInfo) bool {
		rename("dir", "away")
		return true
	})
	if err == nil || !strings.Contains(err.Error(), "reading the directory "+dir) || files != nil {
		t.Errorf("files %v, error %v of a directory that was moved away", files, err)
	}
	fresh("dir")
	n := 0
	_, err = ReadDir(dir, func(string, fs.FileInfo) bool {
		n++
		fresh("next")
		rename("dir", fmt.Sprintf("old%d", n))
		rename("next", "dir")
		return true
	})
	if err == nil || !strings.Contains(err.Error(), "was replaced 3 times while it was read") {
		t.Errorf("error %v of a directory that is replaced all the time", err)
	}
}

// TestReadDirOfAFile is a setting that names a file.
func TestReadDirOfAFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "shop.yaml", "a")
	if files, err := ReadDir(filepath.Join(dir, "shop.yaml"), nil); err == nil {
		t.Errorf("files %v, want an error", files)
	}
}

func TestReadDirIsBounded(t *testing.T) {
	dir := t.TempDir()
	sparse := filepath.Join(dir, "00.yaml")
	write(t, dir, "00.yaml", "")
	if err := os.Truncate(sparse, MaxFile+10); err != nil {
		t.Fatal(err)
	}
	files, err := ReadDir(dir, nil)
	if err != nil || len(files["00.yaml"].Body) != MaxFile+1 {
		t.Fatalf("%d bytes, error %v; want one byte more than Parse takes", len(files["00.yaml"].Body), err)
	}
	r := dirReader{dir: dir, files: make(map[string]File), bytes: MaxBytes - MaxFile}
	if err := r.read(sparse, "00.yaml"); err == nil || err.Error() != "the files have more than 268435456 bytes" {
		t.Errorf("error %v, want that of too many bytes", err)
	}
}

func TestReadDirOfTooManyFiles(t *testing.T) {
	r := dirReader{dir: t.TempDir(), files: make(map[string]File)}
	for i := range MaxFiles {
		r.files[strings.Repeat("x", i)] = File{}
	}
	write(t, r.dir, "one", "")
	if err := r.read(filepath.Join(r.dir, "one"), "one"); err == nil || err.Error() != "there are more than 10000 files" {
		t.Errorf("error %v, want that of too many files", err)
	}
	if err := r.read(filepath.Join(r.dir, "gone"), "gone"); err != nil {
		t.Errorf("a file that vanished meanwhile: error %v, want none", err)
	}
}
