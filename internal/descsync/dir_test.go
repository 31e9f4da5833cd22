package descsync_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// However a file changes, it is in force without the poll, and within what the design promises on a
// machine that is not busy; the time is logged, not judged.
func TestDirFollows(t *testing.T) {
	dir := t.TempDir()
	write(t, file("a", 1), dir, "a.yaml")
	f := followDir(t, dir, t.TempDir())
	f.load()
	f.await("a=1")
	f.start()
	steps := []struct {
		name string
		do   func()
		want string
	}{
		{"in place", func() { write(t, file("a", 2), dir, "a.yaml") }, "a=2"},
		{"same size", func() { write(t, file("a", 3), dir, "a.yaml") }, "a=3"},
		{"rename", func() {
			write(t, file("a", 4), dir, ".new")
			do(t, os.Rename(filepath.Join(dir, ".new"), filepath.Join(dir, "a.yaml")))
		}, "a=4"},
		{"new file", func() { write(t, file("b", 5), dir, "b.yaml") }, "a=4 b=5"},
		{"subdirectory", func() {
			do(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
			write(t, file("c", 6), dir, "sub", "c.yaml")
		}, "a=4 b=5 c=6"},
		{"deleted", func() { do(t, os.Remove(filepath.Join(dir, "b.yaml"))) }, "a=4 c=6"},
		{"all deleted", func() { do(t, os.Remove(filepath.Join(dir, "a.yaml")), os.RemoveAll(filepath.Join(dir, "sub"))) }, ""},
		{"back", func() { write(t, file("a", 7), dir, "a.yaml") }, "a=7"},
	}
	for _, step := range steps {
		began := time.Now()
		step.do()
		f.await(step.want)
		t.Logf("%s: in force after %v", step.name, time.Since(began))
	}
	eventually(t, "ready", f.Ready)
}

// A ConfigMap of Kubernetes: links to files in a directory with dots, which is swapped by a link.
func TestDirOfConfigMap(t *testing.T) {
	dir := t.TempDir()
	for i, version := range []string{"..1", "..2"} {
		do(t, os.Mkdir(filepath.Join(dir, version), 0o700))
		write(t, file("a", i+1), dir, version, "a.yaml")
	}
	do(t, os.Symlink("..1", filepath.Join(dir, "..data")), os.Symlink("..data/a.yaml", filepath.Join(dir, "a.yaml")))
	f := followDir(t, dir, t.TempDir())
	f.load()
	f.await("a=1")
	f.start()
	do(t, os.Symlink("..2", filepath.Join(dir, "..tmp")), os.Rename(filepath.Join(dir, "..tmp"), filepath.Join(dir, "..data")))
	f.await("a=2")
}

// A runtime directory of envoyproxy/ratelimit: a link above the directory is swapped.
func TestDirBelowALink(t *testing.T) {
	root := t.TempDir()
	for i, version := range []string{"v1", "v2"} {
		do(t, os.MkdirAll(filepath.Join(root, version, "ratelimit", "config"), 0o700))
		write(t, file("a", i+1), root, version, "ratelimit", "config", "a.yaml")
	}
	do(t, os.Symlink("v1", filepath.Join(root, "current")))
	f := followDir(t, filepath.Join(root, "current", "ratelimit", "config"), t.TempDir())
	f.load()
	f.await("a=1")
	f.start()
	do(t, os.Symlink("v2", filepath.Join(root, "next")), os.Rename(filepath.Join(root, "next"), filepath.Join(root, "current")))
	f.await("a=2")
}

// A bad file keeps what it said when it was good, also in the next process; others go on.
func TestDirKeepsLastGood(t *testing.T) {
	dir, dataDir := t.TempDir(), t.TempDir()
	write(t, file("a", 1), dir, "a.yaml")
	write(t, file("b", 1), dir, "b.yaml")
	first := followDir(t, dir, dataDir)
	first.load()
	first.await("a=1 b=1")
	first.start()
	replace(t, "domain: a\ndescriptors: [", dir, "a.yaml")
	eventually(t, "the bad file is noticed", not(first.Ready))
	replace(t, file("b", 2), dir, "b.yaml")
	first.await("a=1 b=2")
	if err := first.Loaded(); err != nil {
		t.Errorf("not loaded: %v", err)
	}
	if got := strings.Count(first.logged(), "a descriptor file is not in force as it is"); got != 1 {
		t.Errorf("the fault is logged %d times:\n%s", got, first.logged())
	}
	first.stop()

	second := followDir(t, dir, dataDir)
	second.load()
	second.await("a=1 b=2")
	if err := second.Ready(); err == nil || !strings.Contains(err.Error(), "a.yaml: line 2") {
		t.Errorf("ready: %v", err)
	}
	if err := second.Loaded(); err != nil {
		t.Errorf("not loaded: %v", err)
	}
	for name, want := range map[string]string{
		"ratelimitd_descriptor_domains": "2", "ratelimitd_descriptor_limits": "2", "ratelimitd_descriptor_files_bad": "1",
	} {
		if err := testutil.GatherAndCompare(second.registry, strings.NewReader(help(t, second.registry, name)+name+" "+want+"\n"), name); err != nil {
			t.Error(err)
		}
	}
}

// A file whose domain was another's is kept once it has it, though it was not read again.
func TestDirKeepsWhatWasNotReadAgain(t *testing.T) {
	dir, dataDir := t.TempDir(), t.TempDir()
	write(t, file("a", 1), dir, "a.yaml")
	old, err := filepath.Abs("testdata/old.yaml") // a file that was written just now would be read again
	do(t, err, os.Symlink(old, filepath.Join(dir, "b.yaml")))
	first := followDir(t, dir, dataDir)
	first.load()
	first.await("a=1")
	first.start()
	do(t, os.Remove(filepath.Join(dir, "a.yaml")))
	first.await("a=2")
	first.stop()

	replace(t, "domain: a\ndescriptors: [", dir, "c.yaml")
	do(t, os.Rename(filepath.Join(dir, "c.yaml"), filepath.Join(dir, "b.yaml")))
	second := followDir(t, dir, dataDir)
	second.load()
	second.await("a=2")
}

// help is the text before the value of a metric.
func help(tb testing.TB, reg *prometheus.Registry, name string) string {
	tb.Helper()
	all, err := reg.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	for _, m := range all {
		if m.GetName() == name {
			return fmt.Sprintf("# HELP %s %s\n# TYPE %s gauge\n", name, m.GetHelp(), name)
		}
	}
	tb.Fatalf("no metric %s", name)
	return ""
}

// A file that was never good gives its domain without limits, and /readyz a reason.
func TestDirNeverLoaded(t *testing.T) {
	dir := t.TempDir()
	write(t, "domain: a\ndescriptors: [{kee: k}]", dir, "a.yaml")
	f := followDir(t, dir, t.TempDir())
	f.load()
	f.await("a=")
	if err := f.Loaded(); err == nil || !strings.Contains(err.Error(), "unknown key 'kee'") {
		t.Errorf("loaded: %v", err)
	}
	f.start()
	write(t, file("a", 1), dir, "a.yaml")
	f.await("a=1")
	eventually(t, "loaded", f.Loaded)
	write(t, "domain: b\nx: y", dir, "b.yaml")
	f.await("a=1 b=")
	eventually(t, "the bad file that came later is noticed", not(f.Ready))
	if err := f.Loaded(); err != nil {
		t.Errorf("for a bad file that came later it is not loaded: %v", err)
	}
}

// A directory that is not there stops the start; one that goes away later changes nothing, also for the
// next process.
func TestDirUnreadable(t *testing.T) {
	dir, dataDir := filepath.Join(t.TempDir(), "dir"), t.TempDir()
	missing := followDir(t, dir, dataDir)
	if err := missing.Load(t.Context()); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("a directory that is not there: %v", err)
	}
	do(t, os.Mkdir(dir, 0o700))
	write(t, file("a", 1), dir, "a.yaml")
	first := followDir(t, dir, dataDir)
	first.load()
	first.await("a=1")
	first.start()
	do(t, os.Rename(dir, dir+".away"))
	eventually(t, "the missing directory is noticed", not(first.Ready))
	first.stop()
	first.silent()

	second := followDir(t, dir, dataDir)
	second.load()
	second.await("a=1")
	second.start()
	do(t, os.Rename(dir+".away", dir))
	eventually(t, "the directory that is back is noticed", second.Ready)
	write(t, file("a", 2), dir, "a.yaml")
	second.await("a=2")
	second.stop()

	do(t, os.RemoveAll(dir))
	third := followDir(t, dir, dataDir)
	third.load()
	third.await("a=2")
	third.start()
	do(t, os.Mkdir(dir, 0o700))
	third.await("")
	eventually(t, "the directory that is back without files is noticed", third.Ready)
}

// What was kept of another directory is nobody's last good.
func TestDirOfAnother(t *testing.T) {
	one, two, dataDir := t.TempDir(), t.TempDir(), t.TempDir()
	write(t, file("a", 1), one, "a.yaml")
	first := followDir(t, one, dataDir)
	first.load()
	first.start()
	first.stop()
	write(t, "domain: a\nx: y", two, "a.yaml")
	second := followDir(t, two, dataDir)
	second.load()
	second.await("a=")
	if second.Loaded() == nil || !strings.Contains(second.logged(), "another directory") {
		t.Errorf("loaded: %v; logs %s", second.Loaded(), second.logged())
	}
}

// The gauge tells what Ready tells, of the directory too.
func TestDirStale(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "dir")
	do(t, os.Mkdir(dir, 0o700))
	write(t, file("a", 1), dir, "a.yaml")
	f := followDir(t, dir, t.TempDir())
	f.load()
	f.start()
	stale := func(want string) {
		t.Helper()
		const name = "ratelimitd_descriptors_stale"
		eventually(t, name+" "+want, func() error {
			return testutil.GatherAndCompare(f.registry, strings.NewReader(help(t, f.registry, name)+name+" "+want+"\n"), name)
		})
	}
	stale("0")
	do(t, os.Rename(dir, dir+".away"))
	stale("1")
	do(t, os.Rename(dir+".away", dir))
	stale("0")
	if !strings.Contains(f.logged(), "can be read again") {
		t.Errorf("logs: %s", f.logged())
	}
}
