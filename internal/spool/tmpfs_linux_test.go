package spool

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A small file system of its own is really full. Mounting takes namespaces.
func TestFullFileSystem(t *testing.T) {
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
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal("no tmpfs: ", err)
	}
	ballast := filepath.Join(dir, "ballast")
	writeFile(t, ballast, make([]byte, 4<<20))
	fillDisk(t, filepath.Join(dir, "spool"), func() {
		if err := os.Remove(ballast); err != nil {
			t.Error(err)
		}
	})
}
