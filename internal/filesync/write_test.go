package filesync_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/filesync"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

func TestPutMakesTheFile(t *testing.T) {
	s := start(t, filesync.Config{Path: filepath.Join(t.TempDir(), "limits.yaml"), PollInterval: never})
	before := time.Now().Add(-time.Microsecond)
	l := gateway("shop", 5)
	l.Version, l.CreatedAt, l.UpdatedAt = 77, time.Unix(1, 0), time.Unix(2, 0) // ignored
	stored := s.put(t, l)
	if err := s.want("shop=5"); err != nil {
		t.Errorf("when Put returns: %v", err)
	}
	if stored.Version < 1 || stored.Version == 77 || stored.CreatedAt.Before(before) || !stored.CreatedAt.Equal(stored.UpdatedAt) {
		t.Errorf("stored is version %d, created %v, updated %v", stored.Version, stored.CreatedAt, stored.UpdatedAt)
	}
	if id := s.current.Load().ID(); id != stored.Version {
		t.Errorf("the snapshot is %d, the row's version %d", id, stored.Version)
	}
	want := fmt.Sprintf(`limits:
  - gateway: shop
    max_tps: 5
    enabled: true
    max_wait_ms: 0
    shadow: false
    created_at: %[1]s
    updated_at: %[1]s
    version: %[2]d
`, stored.CreatedAt.Format(time.RFC3339Nano), stored.Version)
	if diff := cmp.Diff(want, s.read(t)); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
	s.wantSameAsFresh(t)
}

func TestPutReplacesARow(t *testing.T) {
	s := notified(t, "limits: []\n")
	s.wait(t)
	first := s.put(t, gateway("shop", 5))
	other := s.put(t, gateway("bank", 7))
	second := s.put(t, gateway("shop", 6))
	if err := s.want("bank=7", "shop=6"); err != nil {
		t.Error(err)
	}
	if !second.CreatedAt.Equal(first.CreatedAt) || !second.UpdatedAt.After(first.UpdatedAt) || second.Version <= other.Version {
		t.Errorf("version %d created %v updated %v became version %d created %v updated %v; another row's version is %d",
			first.Version, first.CreatedAt, first.UpdatedAt, second.Version, second.CreatedAt, second.UpdatedAt, other.Version)
	}
	s.wantSameAsFresh(t)
}

// A row that is there already keeps its version, and the file its bytes; one that was written by
// hand gets a version.
func TestPutOfTheSame(t *testing.T) {
	s := notified(t, shop(5))
	s.wait(t, "shop=5")
	first := s.put(t, gateway("shop", 5))
	if first.Version == 0 || first.CreatedAt.IsZero() {
		t.Errorf("the row by hand became %+v", first)
	}
	body, id := s.read(t), s.current.Load().ID()
	inForce := *s.current.Load().Find(first.Key) // as a caller may hand it back
	if second := s.put(t, inForce); second != first {
		t.Errorf("stored again it is %+v, was %+v", second, first)
	}
	if got := s.read(t); got != body {
		t.Errorf("the file became\n%s\nfrom\n%s", got, body)
	}
	if got := s.current.Load().ID(); got != id {
		t.Errorf("the snapshot is %d, was %d", got, id)
	}
}

func TestDelete(t *testing.T) {
	s := notified(t, "limits:\n  - gateway: shop\n  - {gateway: shop, endpoint: pay}\n")
	s.wait(t, "shop=1000", "shop/pay=1000")
	if err := s.Delete(t.Context(), limits.Key{Gateway: "shop", Per: "user"}, "test"); !errors.Is(err, limits.ErrNotFound) {
		t.Errorf("deleting what is not there: %v", err)
	}
	for _, step := range []struct {
		key  limits.Key
		want []string
	}{{limits.Key{Gateway: "shop"}, []string{"shop/pay=1000"}}, {limits.Key{Gateway: "shop", Endpoint: "pay"}, nil}} {
		if err := s.Delete(t.Context(), step.key, "test"); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.want(step.want...), s.Ready()); err != nil {
			t.Error(err)
		}
	}
	if got := s.read(t); got != "limits: []\n" {
		t.Errorf("the file without rows is %q", got)
	}
}

// A file stays as people wrote it, but for what was changed.
func TestEditsKeepComments(t *testing.T) {
	const before = `# Limits of the shop. Ask Payments first.
limits: # by gateway
  # The contract says 100.
  - gateway: shop # the old one
    max_tps: 90 # a tenth less
    note: agreed
  # Slow.
  - {gateway: bank, endpoint: "0404", max_tps: 5} # flow

  # To be removed.
  - gateway: old
  - gateway: last
# The end.
`
	const want = `# Limits of the shop. Ask Payments first.
limits: # by gateway
  # The contract says 100.
  - gateway: shop # the old one
    max_tps: 95 # a tenth less
    enabled: true
    max_wait_ms: 0
    shadow: false
    created_at: AT
    updated_at: AT
    version: 2
  # Slow.
  - {gateway: bank, endpoint: "0404", max_tps: 5} # flow
  - gateway: last
  - gateway: new
    max_tps: 7
    enabled: true
    max_wait_ms: 0
    shadow: false
    created_at: AT
    updated_at: AT
    version: 4
# The end.
`
	s := notified(t, before)
	s.wait(t, "bank/0404=5", "last=1000", "old=1000", "shop=90")
	first := s.put(t, gateway("shop", 95))
	if err := s.Delete(t.Context(), limits.Key{Gateway: "old"}, "test"); err != nil {
		t.Fatal(err)
	}
	second := s.put(t, gateway("new", 7))
	got := s.read(t)
	for _, l := range []limits.Limit{first, second} {
		got = strings.ReplaceAll(got, l.CreatedAt.Format(time.RFC3339Nano), "AT")
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the file (-want +got):\n%s", diff)
	}
}

// A file that holds nothing but comments keeps them, too.
func TestPutKeepsAHead(t *testing.T) {
	s := notified(t, "# Limits of the shop.\n\n# Ask Payments.\n")
	s.wait(t)
	s.put(t, gateway("shop", 5))
	if got := s.read(t); !strings.HasPrefix(got, "# Limits of the shop.\n\n# Ask Payments.\n") {
		t.Errorf("the file is\n%s", got)
	}
}

func TestWritesRefuse(t *testing.T) {
	s := notified(t, shop(5))
	s.wait(t, "shop=5")
	tests := []struct {
		name string
		do   func() error
	}{
		{"max_tps", func() error { _, err := s.Put(t.Context(), gateway("shop", -1), "test"); return err }},
		{"gateway", func() error { return s.Delete(t.Context(), limits.Key{}, "test") }},
	}
	for _, tt := range tests {
		err := tt.do()
		if fault, ok := errors.AsType[*limits.FieldError](err); !ok || fault.Field != tt.name || isUnavailable(err) {
			t.Errorf("a bad %s: %v", tt.name, err)
		}
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Put(gone, gateway("shop", 6), "test"); !errors.Is(err, context.Canceled) {
		t.Errorf("a Put of somebody who has gone: %v", err)
	}
	if got := s.read(t); got != shop(5) {
		t.Errorf("the file became %q", got)
	}
}

// Where the file cannot be edited nothing changes, and the error says why.
func TestWritesAreUnavailable(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(t *testing.T, s *store)
		want  string
	}{
		{"bad file", func(t *testing.T, s *store) {
			t.Helper()
			replace(t, s.path, "limits:\n- gatway: x\n")
		}, `line 2, column 3: key "gatway": is no column of a limit`},
		{"emptied", func(t *testing.T, s *store) {
			t.Helper()
			write(t, s.path, "")
		}, "says nothing"},
		{"gone", func(t *testing.T, s *store) {
			t.Helper()
			if err := os.Remove(s.path); err != nil {
				t.Fatal(err)
			}
		}, "is gone"},
		{"is a directory", func(t *testing.T, s *store) {
			t.Helper()
			if err := errors.Join(os.Remove(s.path), os.Mkdir(s.path, 0o755)); err != nil {
				t.Fatal(err)
			}
		}, "is no regular file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := notified(t, shop(5))
			s.wait(t, "shop=5")
			tt.spoil(t, s)
			assertUnavailable(t, s, tt.want)
		})
	}
}

// assertUnavailable wants writes to fail with an error about want, and to change nothing.
func assertUnavailable(t *testing.T, s *store, want string) {
	t.Helper()
	before, _ := os.ReadFile(s.path)
	_, err := s.Put(t.Context(), gateway("bank", 6), "test")
	if !isUnavailable(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("Put: %v, want one about %q", err, want)
	}
	err = s.Delete(t.Context(), limits.Key{Gateway: "shop"}, "test")
	if !isUnavailable(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("Delete: %v, want one about %q", err, want)
	}
	if err := s.want("shop=5"); err != nil {
		t.Error(err)
	}
	if after, _ := os.ReadFile(s.path); string(after) != string(before) {
		t.Errorf("the file became %q, was %q", after, before)
	}
	if left, _ := filepath.Glob(s.path + "*.tmp"); left != nil {
		t.Errorf("left over: %v", left)
	}
}

// fullDiskVariable tells the test below that it is the process whose files cannot grow.
const fullDiskVariable = "RATELIMITD_TEST_FULL_DISK"

// A disk that is full is played by a bound on the size of files. It holds for the whole process, in
// which go test may write a file of its own: so the test runs in another one.
func TestWritesToAFullDisk(t *testing.T) {
	if os.Getenv(fullDiskVariable) == "" {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWritesToAFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), fullDiskVariable+"=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestWritesToAFullDisk") {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	s := notified(t, shop(5))
	s.wait(t, "shop=5")
	fullDisk(t)
	assertUnavailable(t, s, "file too large")
}

// fullDisk makes every write to a file fail in its middle until the test ends, as a full disk
// does.
func fullDisk(t *testing.T) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ)
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
		t.Fatal(err)
	}
	full := was
	full.Cur = 10
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &full); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &was); err != nil {
			t.Error(err)
		}
		signal.Reset(syscall.SIGXFSZ)
	})
}

// A directory that takes no new file, as a read-only one: the name is as long as names can be,
// so that this fails for root, too.
func TestDirectoryTakesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 255))
	write(t, path, shop(5))
	s := start(t, filesync.Config{Path: path, PollInterval: never})
	s.wait(t, "shop=5")
	if _, err := s.Put(t.Context(), gateway("shop", 6), "test"); !isUnavailable(err) || !errors.Is(err, syscall.ENAMETOOLONG) {
		t.Errorf("Put: %v", err)
	}
	s.wait(t, "shop=5")
	if got := s.read(t); got != shop(5) {
		t.Errorf("the file became %q", got)
	}
}

// A link stays a link, and what it points to keeps its mode.
func TestPutThroughALink(t *testing.T) {
	target := filepath.Join(t.TempDir(), "target.yaml")
	write(t, target, shop(5))
	if err := os.Chmod(target, 0o640); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	s := start(t, filesync.Config{Path: path, PollInterval: never})
	s.wait(t, "shop=5")
	s.put(t, gateway("shop", 6))
	if got, err := os.Readlink(path); err != nil || got != target {
		t.Errorf("the link goes to %q, %v", got, err)
	}
	info, err := os.Stat(target)
	if err != nil || info.Mode() != 0o640 {
		t.Errorf("the target is %v, %v", info.Mode(), err)
	}
	s.wantSameAsFresh(t)
}

// Nobody has noticed the edit by hand when a row is put: both are in force then.
func TestPutBuildsOnAnEditByHand(t *testing.T) {
	path := filepath.Join(t.TempDir(), "limits.yaml")
	write(t, path, shop(5))
	s := idle(t, filesync.Config{Path: path})
	s.put(t, gateway("bank", 1))
	if err := s.want("bank=1", "shop=5"); err != nil {
		t.Error(err)
	}
	write(t, path, s.read(t)+"  - {gateway: hand, max_tps: 7, version: 1000}\n")
	stored := s.put(t, gateway("bank", 2))
	if err := s.want("bank=2", "hand=7", "shop=5"); err != nil {
		t.Error(err)
	}
	if stored.Version != 1001 {
		t.Errorf("the version beside one of 1000 is %d", stored.Version)
	}
	write(t, path, strings.ReplaceAll(s.read(t), "max_tps: 7", "max_tps: 8"))
	s.put(t, gateway("bank", 2)) // which changes nothing, but looks
	if err := s.want("bank=2", "hand=8", "shop=5"); err != nil {
		t.Error(err)
	}
}

// Many callers at once lose none of each other's rows.
func TestConcurrentPuts(t *testing.T) {
	s := start(t, filesync.Config{Path: filepath.Join(t.TempDir(), "limits.yaml"), PollInterval: time.Millisecond})
	var wg sync.WaitGroup
	const callers, each = 8, 12
	for c := range callers {
		wg.Go(func() {
			for i := range each {
				name := fmt.Sprintf("g%d-%d", c, i)
				if _, err := s.Put(context.Background(), gateway(name, int64(i)), "test"); err != nil {
					t.Errorf("Put of %s: %v", name, err)
				}
				if i%2 == 1 {
					if err := s.Delete(context.Background(), limits.Key{Gateway: name}, "test"); err != nil {
						t.Errorf("Delete of %s: %v", name, err)
					}
				}
			}
		})
	}
	wg.Wait()
	versions := map[int64]bool{}
	for l := range s.current.Load().All() {
		versions[l.Version] = true
	}
	if len(versions) != callers*each/2 {
		t.Errorf("%d versions are in force, want %d", len(versions), callers*each/2)
	}
	s.wantSameAsFresh(t)
}
