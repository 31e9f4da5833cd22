package filesync_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// shop is a file with one limit.
func shop(maxTPS int) string {
	return fmt.Sprintf("limits:\n  - gateway: shop\n    max_tps: %d\n", maxTPS)
}

func TestNewRefuses(t *testing.T) {
	if _, err := filesync.New(filesync.Config{}, limits.NewClock(), new(limits.Current), prometheus.NewRegistry(), nil); err == nil {
		t.Error("New took an empty path")
	}
	reg := prometheus.NewRegistry()
	for i := range 2 {
		_, err := filesync.New(filesync.Config{Path: "x"}, limits.NewClock(), new(limits.Current), reg, nil)
		if (err != nil) != (i == 1) {
			t.Errorf("New %d on one registry: %v", i, err)
		}
	}
}

func TestNotReadYet(t *testing.T) {
	s := idle(t, filesync.Config{Path: filepath.Join(t.TempDir(), "limits.yaml")})
	if err := s.Ready(); err == nil || !strings.Contains(err.Error(), "has not been read yet") {
		t.Errorf("Ready before Run: %v", err)
	}
}

// What the file says at the start, and what is in force then. A missing file is an empty one, so
// that a first start needs no file.
func TestStart(t *testing.T) {
	tests := []struct {
		name string
		body string // "missing" = no file
		want []string
	}{
		{"missing", "missing", nil},
		{"empty", "", nil},
		{"comments only", "# nothing yet\n", nil},
		{"null", "limits:\n", nil},
		{"an empty list", "limits: []\n", nil},
		{"rows", shop(5), []string{"shop=5"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "limits.yaml")
			if tt.body != "missing" {
				write(t, path, tt.body)
			}
			start(t, filesync.Config{Path: path, PollInterval: never}).wait(t, tt.want...)
		})
	}
}

// A file is noticed however it is written, by notifications alone.
func TestFileIsNoticed(t *testing.T) {
	tests := []struct {
		name   string
		change func(t testing.TB, path, body string)
	}{
		{"in place, same size", write},
		{"rename", replace},
		{"deleted and back", func(tb testing.TB, path, body string) {
			tb.Helper()
			if err := os.Remove(path); err != nil {
				tb.Fatal(err)
			}
			write(tb, path, body)
		}},
		{"in many parts", func(tb testing.TB, path, body string) {
			tb.Helper()
			f, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
			if err != nil {
				tb.Fatal(err)
			}
			for _, part := range strings.SplitAfter(body, " ") {
				if _, err := f.WriteString(part); err != nil {
					tb.Fatal(err)
				}
			}
			if err := f.Close(); err != nil {
				tb.Fatal(err)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := notified(t, shop(5))
			s.wait(t, "shop=5")
			for i := 6; i < 9; i++ {
				tt.change(t, s.path, shop(i))
				s.wait(t, fmt.Sprintf("shop=%d", i))
			}
		})
	}
}

// Kubernetes puts a ConfigMap into a directory of its own and swaps the link ..data to it; the
// file itself is a link through ..data that never changes.
func TestSymlinkSwapOfAConfigMap(t *testing.T) {
	dir := t.TempDir()
	publish := func(version string, body string) {
		if err := os.Mkdir(filepath.Join(dir, version), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, version, "limits.yaml"), body)
		if err := os.Symlink(version, filepath.Join(dir, "..data_tmp")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	publish("..2026_1", shop(5))
	path := filepath.Join(dir, "limits.yaml")
	if err := os.Symlink(filepath.Join("..data", "limits.yaml"), path); err != nil {
		t.Fatal(err)
	}
	s := start(t, filesync.Config{Path: path, PollInterval: never})
	s.wait(t, "shop=5")
	publish("..2026_2", shop(6))
	s.wait(t, "shop=6")
	if err := os.RemoveAll(filepath.Join(dir, "..2026_1")); err != nil {
		t.Fatal(err)
	}
	publish("..2026_3", shop(7))
	s.wait(t, "shop=7")
}

// The directory of the target of a link is not watched: only the poll sees a change there.
func TestPollSeesWhatIsNotNotified(t *testing.T) {
	target := filepath.Join(t.TempDir(), "elsewhere.yaml")
	write(t, target, shop(5))
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	s := start(t, filesync.Config{Path: path, PollInterval: 10 * time.Millisecond})
	s.wait(t, "shop=5")
	write(t, target, shop(6)) // of the same size, and maybe within the same tick of the clock
	s.wait(t, "shop=6")
}

// Times that lie back tell that a file is untouched; a rename of an older file is still seen.
func TestPollSeesAnOlderFile(t *testing.T) {
	dir := t.TempDir()
	path, older := filepath.Join(dir, "limits.yaml"), filepath.Join(dir, "older.yaml")
	write(t, path, shop(5))
	write(t, older, shop(6))
	past := time.Now().Add(-time.Hour)
	for _, p := range []string{path, older} {
		if err := os.Chtimes(p, past, past); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(t.TempDir(), "link.yaml")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	s := start(t, filesync.Config{Path: link, PollInterval: 10 * time.Millisecond})
	s.wait(t, "shop=5")
	if err := os.Rename(older, path); err != nil {
		t.Fatal(err)
	}
	s.wait(t, "shop=6")
}

func TestDirectoryThatIsMadeAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "conf")
	s := start(t, filesync.Config{Path: filepath.Join(dir, "limits.yaml"), PollInterval: 10 * time.Millisecond})
	s.wait(t)
	if !strings.Contains(s.logs.String(), "cannot be watched") {
		t.Error("the log does not say that the directory cannot be watched")
	}
	for i := 5; i < 8; i++ {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, s.path, shop(i))
		s.wait(t, fmt.Sprintf("shop=%d", i))
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		s.waitFault(t, "is gone")
	}
}

// A bad file leaves the last good limits in force, says why, and is counted once however often
// it is looked at.
func TestBadFileKeepsTheLastGoodOne(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write(t, path, shop(5))
	s := start(t, filesync.Config{Path: path, PollInterval: time.Millisecond})
	s.wait(t, "shop=5")
	snapshot := s.current.Load()

	replace(t, path, "limits:\n  - gateway: shop\n    max_tps: fast\n")
	s.waitFault(t, "the last good limits are served", path, `line 3, column 14: max_tps "fast": is no whole number`)
	if s.current.Load() != snapshot {
		t.Error("the limits in force are others")
	}
	errorsBefore := s.metric(t, "ratelimitd_limits_load_errors_total")
	replace(t, path, "limits:\n  - gateway: shop\n    max_tps: slow\n")
	s.waitFault(t, `max_tps "slow"`)
	if got := s.metric(t, "ratelimitd_limits_load_errors_total"); got != errorsBefore+1 {
		t.Errorf("%v errors are counted after the second bad file, %v before", got, errorsBefore)
	}
	if n := strings.Count(s.logs.String(), "slow"); n != 1 {
		t.Errorf("the fault is logged %d times", n)
	}
	write(t, path, shop(6))
	s.wait(t, "shop=6")
}

func TestBadFileAtTheStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write(t, path, "limits: 5\n")
	s := start(t, filesync.Config{Path: path, PollInterval: never})
	s.waitFault(t, "no limits are served", "line 1, column 9: limits 5: is no list")
	if s.current.Load() != nil {
		t.Error("something is in force")
	}
	write(t, path, shop(5))
	s.wait(t, "shop=5")
}

// Whoever empties or removes a file is in most cases about to write it, or has lost a volume.
// Nobody is without limits meanwhile.
func TestNothingIsNotBelieved(t *testing.T) {
	for _, body := range []string{"", "\n\n", "# limits: []\n", "limits:\n", "{}\n", "---\n", "missing"} {
		t.Run(fmt.Sprintf("%q", body), func(t *testing.T) {
			s := notified(t, shop(5))
			if body == "missing" {
				if err := os.Remove(s.path); err != nil {
					t.Fatal(err)
				}
				s.waitFault(t, "the last good limits are served", s.path+" is gone", "`limits: []`")
			} else {
				write(t, s.path, body)
				s.waitFault(t, "the last good limits are served", s.path+" says nothing", "`limits: []`")
			}
			if err := s.want("shop=5"); err != nil {
				t.Error(err)
			}
			write(t, s.path, "limits: []\n")
			s.wait(t)
			if err := os.Remove(s.path); err != nil { // of no limits nothing is lost
				t.Fatal(err)
			}
			write(t, s.path, shop(7))
			s.wait(t, "shop=7")
		})
	}
}

// What is no file is refused without waiting for it, and a file that can be read again is used.
func TestUnreadable(t *testing.T) {
	tests := []struct {
		name string
		make func(path string) error
		want string
	}{
		{"directory", func(path string) error { return os.Mkdir(path, 0o755) }, "is no regular file"},
		{"pipe", func(path string) error { return syscall.Mkfifo(path, 0o644) }, "is no regular file"},
		{"link to itself", func(path string) error { return os.Symlink(path, path) }, "too many levels of symbolic links"},
		{"too large", func(path string) error { return os.WriteFile(path, make([]byte, filesync.MaxFile+1), 0o600) }, "is larger than 16777216 bytes"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "limits.yaml")
			write(t, path, shop(5))
			s := start(t, filesync.Config{Path: path, PollInterval: 10 * time.Millisecond})
			s.wait(t, "shop=5")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(path); err != nil {
				t.Fatal(err)
			}
			s.waitFault(t, tt.want)
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			write(t, path, shop(5)) // the same as before the fault
			s.wait(t, "shop=5")
		})
	}
}

// The id of what is in force only grows, and begins at the highest version in the file.
func TestSnapshotID(t *testing.T) {
	s := notified(t, "limits:\n  - {gateway: shop, max_tps: 5, version: 41}\n")
	s.wait(t, "shop=5")
	last := s.current.Load().ID()
	if last != 41 {
		t.Errorf("the first id is %d, want 41", last)
	}
	for i, body := range []string{shop(6), shop(7), "limits: []\n", shop(8)} {
		write(t, s.path, body)
		s.wait(t, []string{"shop=6", "shop=7", "", "shop=8"}[i:][:min(1, strings.Count(body, "shop"))]...)
		if id := s.current.Load().ID(); id <= last {
			t.Errorf("after %q the id is %d, was %d", body, id, last)
		}
		last = s.current.Load().ID()
	}
	if stored := s.put(t, gateway("bank", 1)); stored.Version <= last {
		t.Errorf("the version of a new row is %d, the snapshot's id was %d", stored.Version, last)
	}
}
