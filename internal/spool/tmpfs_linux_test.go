package spool

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// onTmpfs calls test with a file system of its own of 16 MiB, in a process of its own: mounting takes
// namespaces.
func onTmpfs(t *testing.T, test func(dir string)) {
	t.Helper()
	dir := os.Getenv(childVariable)
	if dir == "" {
		cmd := child(t, t.TempDir())
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
		}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	mount(t, dir, 0, "size=16m")
	test(dir)
}

func mount(t *testing.T, dir string, flags uintptr, data string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", flags, data); err != nil {
		t.Fatal("mounting a tmpfs: ", err)
	}
}

// A small file system of its own is really full.
func TestFullFileSystem(t *testing.T) {
	onTmpfs(t, func(dir string) {
		ballast := filepath.Join(dir, "ballast")
		writeFile(t, ballast, make([]byte, 4<<20))
		fillDisk(t, filepath.Join(dir, "spool"), func() {
			if err := os.Remove(ballast); err != nil {
				t.Error(err)
			}
		})
	})
}

// A log is opened also on a disk that takes nothing, be it new there or not. What can be read is, the rest
// is lost and counted, and once the disk takes it nothing is lost any more.
func TestOpenOnADiskThatTakesNothing(t *testing.T) {
	onTmpfs(t, func(dir string) {
		faults := map[string]struct{ begin, end func() }{
			"read-only": {func() { mount(t, dir, syscall.MS_REMOUNT|syscall.MS_RDONLY, "") }, func() { mount(t, dir, syscall.MS_REMOUNT, "") }},
			"full": {func() { fill(t, filepath.Join(dir, "ballast")) }, func() {
				if err := os.Remove(filepath.Join(dir, "ballast")); err != nil {
					t.Fatal(err)
				}
			}},
		}
		for name, fault := range faults {
			path := filepath.Join(dir, name, "spool")
			fault.begin()
			l := open(t, Config{Dir: path, Prepare: func() error { return os.MkdirAll(filepath.Dir(path), 0o750) }})
			if log := l.logged.String(); !strings.Contains(log, "the disk of the spool takes nothing") {
				t.Errorf("%s: logged %q", name, log)
			}
			l.mustAppend(t, "lost", 5)
			l.flush()
			if got := l.lost(t, "all", "disk"); got != 5 {
				t.Errorf("%s: %d are lost, want 5", name, got)
			}
			fault.end()
			l.mustAppend(t, "one", 3)
			l.flush()
			commit(t, l.Reader("a"), Position{l.run, 1})
			l.end()

			fault.begin()
			l = open(t, Config{Dir: path, Readers: []string{"a", "b"}})
			wantRead(t, l.Reader("a"), 10, "0+3-1 one")
			l.mustAppend(t, "lost", 7)
			l.flush()
			if got := l.lost(t, "all", "disk"); got != 7 {
				t.Errorf("%s: %d are lost in the second life, want 7", name, got)
			}
			fault.end()
			l.mustAppend(t, "two", 1)
			l.flush()
			if got := drain(t, l.Reader("a")); !slices.Equal(got, []string{"one", "two"}) {
				t.Errorf("%s: read %q", name, got)
			}
			l.end()
			if got := drain(t, open(t, Config{Dir: path}).Reader("a")); got != nil {
				t.Errorf("%s: %q come again", name, got)
			}
		}
	})
}

// fill writes a file until the disk is full.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	if !DiskFault(errors.Join(err, f.Close())) {
		t.Fatal("filling the disk: ", err)
	}
}
