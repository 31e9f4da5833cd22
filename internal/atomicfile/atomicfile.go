// Package atomicfile replaces files whole: whoever reads one sees the old content or the new,
// also after a crash in the middle of a write or on a full disk.
package atomicfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// temporary is what the name of a file in the making has after that of the file it will be.
const temporary = ".*.tmp"

// Write replaces the content of path, or makes the file with mode 0644. An existing file keeps
// its mode; where path is a symbolic link, what it points to is replaced. After an error the
// old content stands.
func Write(path string, body []byte) error {
	return WriteIf(path, body, func() error { return nil })
}

// WriteIf is [Write] where still, which is asked when nothing but the rename is left to do, has
// no error; else that error is WriteIf's.
func WriteIf(path string, body []byte, still func() error) error {
	return replace(path, still, func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	})
}

// WriteFunc is [Write] for content that is made piece by piece: write gives it to w. An error of
// write is one of WriteFunc.
func WriteFunc(path string, write func(w io.Writer) error) error {
	return replace(path, func() error { return nil }, write)
}

func replace(path string, still func() error, write func(w io.Writer) error) (err error) {
	mode := fs.FileMode(0o644)
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target
	}
	if info, err := os.Stat(path); err == nil {
		mode = info.Mode().Perm()
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+temporary)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(tmp.Name()) // the first error counts
		}
	}()
	err = write(tmp)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Sync(), tmp.Close())
	if err == nil {
		err = still()
	}
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	syncDir(filepath.Dir(path))
	return nil
}

// syncDir makes a rename last through a loss of power, where the file system can do that. The
// new content is in place by then: there is no error to report that anybody could act on.
func syncDir(dir string) {
	if d, err := os.Open(dir); err == nil { //nolint:gosec // the directory of a file that was just written
		_ = errors.Join(d.Sync(), d.Close())
	}
}

// RemoveLeft removes what writes of path have left that were killed in the middle. Nobody may be
// writing path meanwhile.
func RemoveLeft(path string) {
	left, _ := filepath.Glob(path + temporary) // a path with a meaning in patterns finds nothing
	for _, l := range left {
		_ = os.Remove(l) // it only takes room
	}
}
