package filewatch_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/filewatch"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	patience = 20 * time.Second // for what takes milliseconds
	never    = time.Hour        // a poll that does not come to pass in a test
)

// follow runs Follow until the test ends. Each look sends what the files hold then, one after the
// other, "-" for one that cannot be read.
func follow(tb testing.TB, poll time.Duration, paths ...string) <-chan string {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen, ended := make(chan string), make(chan struct{})
	look := func(ctx context.Context) {
		var all []string
		for _, path := range paths {
			body, err := os.ReadFile(path)
			if err != nil {
				body = []byte("-")
			}
			all = append(all, string(body))
		}
		select {
		case seen <- strings.Join(all, " "):
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(ended)
		filewatch.Follow(ctx, filewatch.Config{What: "the files of a test", Paths: paths, Poll: poll}, slog.New(slog.DiscardHandler), look)
	}()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	return seen
}

// await reads looks until one sees want.
func await(tb testing.TB, seen <-chan string, want string) {
	tb.Helper()
	timeout := time.After(patience)
	last := "nothing"
	for {
		select {
		case last = <-seen:
			if last == want {
				return
			}
		case <-timeout:
			tb.Fatalf("the last look saw %q, want %q", last, want)
		}
	}
}

func write(tb testing.TB, path, body string) {
	tb.Helper()
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func do(tb testing.TB, errs ...error) {
	tb.Helper()
	for _, err := range errs {
		if err != nil {
			tb.Fatal(err)
		}
	}
}

// However a file is written, the poll is not needed to see it.
func TestNotifications(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(other, "b")
	write(t, a, "1")
	seen := follow(t, never, a, b)
	await(t, seen, "1 -")
	write(t, a, "in-place")
	await(t, seen, "in-place -")
	write(t, a+".new", "renamed")
	do(t, os.Rename(a+".new", a))
	await(t, seen, "renamed -")
	do(t, os.Remove(a))
	await(t, seen, "- -")
	write(t, b, "made-later")
	await(t, seen, "- made-later")
	write(t, a, "back")
	await(t, seen, "back made-later")
}

// A Kubernetes ConfigMap is a link to a link to a directory; an update swaps the one in between.
func TestSymlinkSwap(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"v1", "v2"} {
		do(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, filepath.Join(dir, version, "file"), version)
	}
	do(t, os.Symlink("v1", filepath.Join(dir, "..data")), os.Symlink("..data/file", filepath.Join(dir, "file")))
	seen := follow(t, never, filepath.Join(dir, "file"))
	await(t, seen, "v1")
	do(t, os.Symlink("v2", filepath.Join(dir, "..new")), os.Rename(filepath.Join(dir, "..new"), filepath.Join(dir, "..data")))
	await(t, seen, "v2")
}

// What is not notified, here because the directory was not there at the start, the poll sees, and
// the directory that is made later is watched.
func TestPoll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "later")
	file := filepath.Join(dir, "file")
	seen := follow(t, time.Millisecond, file)
	await(t, seen, "-")
	do(t, os.Mkdir(dir, 0o700))
	write(t, file, "there")
	await(t, seen, "there")
}

// followTree is follow for all files below a directory: `name=content`, in order.
func followTree(tb testing.TB, tree string) <-chan string {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	seen, ended := make(chan string), make(chan struct{})
	look := func(ctx context.Context) {
		var all []string
		_ = filepath.WalkDir(tree+"/", func(path string, _ fs.DirEntry, _ error) error {
			if body, err := os.ReadFile(path); err == nil {
				all = append(all, filepath.Base(path)+"="+string(body))
			}
			return nil
		})
		select {
		case seen <- strings.Join(all, " "):
		case <-ctx.Done():
		}
	}
	go func() {
		defer close(ended)
		filewatch.Follow(ctx, filewatch.Config{What: "the tree of a test", Tree: tree, Poll: never}, slog.New(slog.DiscardHandler), look)
	}()
	tb.Cleanup(func() {
		cancel()
		<-ended
	})
	return seen
}

// Whatever changes below a directory, or on the way to it, the poll is not needed to see it.
func TestTree(t *testing.T) {
	top, other := t.TempDir(), t.TempDir()
	v1, v2 := filepath.Join(top, "v1"), filepath.Join(top, "v2")
	do(t, os.MkdirAll(filepath.Join(v1, "sub"), 0o700), os.Mkdir(v2, 0o700), os.Symlink("v1", filepath.Join(top, "current")))
	write(t, filepath.Join(v1, "a"), "1")
	write(t, filepath.Join(v2, "a"), "new")
	write(t, filepath.Join(other, "target"), "t1")
	seen := followTree(t, filepath.Join(top, "current"))
	await(t, seen, "a=1")
	write(t, filepath.Join(v1, "sub", "b"), "1")
	await(t, seen, "a=1 b=1")
	do(t, os.MkdirAll(filepath.Join(v1, "sub", "made", "later"), 0o700))
	write(t, filepath.Join(v1, "sub", "made", "later", "c"), "1")
	await(t, seen, "a=1 b=1 c=1")
	do(t, os.RemoveAll(filepath.Join(v1, "sub")), os.Symlink(filepath.Join(other, "target"), filepath.Join(v1, "l")))
	await(t, seen, "a=1 l=t1")
	write(t, filepath.Join(other, "target"), "t2")
	await(t, seen, "a=1 l=t2")
	do(t, os.Remove(filepath.Join(other, "target")))
	await(t, seen, "a=1")
	write(t, filepath.Join(other, "target"), "t3")
	await(t, seen, "a=1 l=t3")
	do(t, os.Symlink("v2", filepath.Join(top, "next")), os.Rename(filepath.Join(top, "next"), filepath.Join(top, "current")))
	await(t, seen, "a=new")
	write(t, filepath.Join(v2, "a"), "newer")
	await(t, seen, "a=newer")
}

// Directories that have left the tree are not watched for ever, and a change is looked at a few times,
// however many names a directory has.
func TestTreeForgets(t *testing.T) {
	for _, below := range []string{"", "ratelimit", "ratelimit/config"} {
		t.Run(below, func(t *testing.T) { forgets(t, below) })
	}
}

func forgets(t *testing.T, below string) {
	t.Helper()
	top := t.TempDir()
	current := filepath.Join(top, "current")
	do(t, os.MkdirAll(filepath.Join(top, "empty", below), 0o700), os.Symlink("empty", current))
	seen := followTree(t, filepath.Join(current, below))
	await(t, seen, "")
	watches := func() (n int) {
		all, err := filepath.Glob("/proc/self/fdinfo/*")
		do(t, err)
		for _, path := range all {
			body, _ := os.ReadFile(path) // a file may be closed meanwhile
			n += strings.Count(string(body), "inotify wd:")
		}
		return n
	}
	first := 0
	for i := range 20 {
		version := fmt.Sprintf("v%d", i)
		do(t, os.MkdirAll(filepath.Join(top, version, below), 0o700), os.Symlink(version, filepath.Join(top, "next")))
		write(t, filepath.Join(top, version, below, "a"), version)
		do(t, os.Rename(filepath.Join(top, "next"), current))
		await(t, seen, "a="+version)
		if i == 1 {
			first = watches()
		}
	}
	if last := watches(); last > first+2 || first == 0 {
		t.Errorf("%d watches after 2 versions, %d after 20", first, last)
	}
	quiet(t, seen)
}

// quiet waits until looks have ended.
func quiet(tb testing.TB, seen <-chan string) {
	tb.Helper()
	const most = 10
	for range most {
		select {
		case <-seen:
		case <-time.After(500 * time.Millisecond): // looks that never end come every 110 ms
			return
		}
	}
	tb.Errorf("%d more looks without a change", most)
}

// The directory itself is moved away, and another takes its name.
func TestTreeIsReplaced(t *testing.T) {
	top := t.TempDir()
	tree, next := filepath.Join(top, "tree"), filepath.Join(top, "next")
	do(t, os.Mkdir(tree, 0o700), os.Mkdir(next, 0o700))
	write(t, filepath.Join(next, "a"), "1")
	seen := followTree(t, tree)
	await(t, seen, "")
	do(t, os.Rename(tree, tree+".old"), os.Rename(next, tree))
	await(t, seen, "a=1")
	write(t, filepath.Join(tree, "a"), "2")
	await(t, seen, "a=2")
}

func TestSaysThatItOnlyPolls(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var logs bytes.Buffer
	cfg := filewatch.Config{What: "the file", Paths: []string{filepath.Join(t.TempDir(), "missing", "file")}}
	filewatch.Follow(ctx, cfg, slog.New(slog.NewTextHandler(&logs, nil)), func(context.Context) { cancel() })
	if !strings.Contains(logs.String(), "files are only polled: their directory cannot be watched") || !strings.Contains(logs.String(), `files="the file"`) {
		t.Errorf("logs are %q", logs.String())
	}
}
