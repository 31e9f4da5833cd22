package descriptors

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Bounds of a directory.
const (
	// MaxFiles is how many files it may hold, and MaxBytes how many bytes they may have together: a
	// wrong directory is not read for minutes.
	MaxFiles = 10_000
	MaxBytes = 256 << 20
)

// ReadDir reads all files below dir, whatever their names, by their paths inside it with `/`. Names that
// begin with a dot are passed over, files and directories alike: a ConfigMap of Kubernetes keeps the
// content in such directories, and shows it by symlinks beside them. Symlinks to files are followed,
// those to directories are not. What is no regular file is passed over.
//
// unchanged tells of files that need not be read, because they are as they were for the Set that Update
// gets; nil = of none. It is asked again where the directory is read again, because another has taken its
// name meanwhile. A file that cannot be read has its own Err. An error means that nothing can be said about
// which files there are, so that what is in force should stay.
func ReadDir(dir string, unchanged func(name string, info fs.FileInfo) bool) (map[string]File, error) {
	const tries = 3
	for range tries {
		r := dirReader{dir: dir, unchanged: unchanged, files: make(map[string]File)}
		replaced, err := r.walk()
		if err != nil {
			return nil, fmt.Errorf("reading the directory %s: %w", dir, err)
		}
		if !replaced {
			return r.files, nil
		}
	}
	return nil, fmt.Errorf("reading the directory %s: it was replaced %d times while it was read", dir, tries)
}

type dirReader struct {
	dir       string
	unchanged func(name string, info fs.FileInfo) bool
	files     map[string]File
	bytes     int64
}

// walk reads the files, and tells whether the name has come to mean another directory meanwhile: files of
// the first then look as if they had been deleted.
func (r *dirReader) walk() (replaced bool, err error) {
	root := filepath.Clean(r.dir) + string(filepath.Separator) // also where dir itself is a symlink
	before, err := os.Stat(root)
	if err != nil {
		return false, err
	}
	if err := filepath.WalkDir(root, r.visit); err != nil {
		return false, err
	}
	after, err := os.Stat(root)
	if err != nil {
		return false, err
	}
	return !os.SameFile(before, after), nil
}

func (r *dirReader) visit(path string, entry fs.DirEntry, err error) error {
	name, relErr := filepath.Rel(r.dir, path)
	switch {
	case relErr != nil:
		return relErr
	case errors.Is(err, fs.ErrNotExist) && name != ".": // a directory that vanished since its parent was read
		return nil
	case err != nil:
		return err
	case name == ".":
		return nil
	case strings.HasPrefix(entry.Name(), ".") && entry.IsDir():
		return fs.SkipDir
	case strings.HasPrefix(entry.Name(), ".") || entry.IsDir():
		return nil
	}
	return r.read(path, filepath.ToSlash(name))
}

// read reads one file. What vanished since its directory was read is not there.
func (r *dirReader) read(path, name string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && !isLink(path):
		return nil
	case err == nil && !info.Mode().IsRegular(): // opening a pipe would wait for a writer
		return nil
	case len(r.files) == MaxFiles:
		return fmt.Errorf("there are more than %d files", MaxFiles)
	}
	f := File{Err: err}
	switch {
	case err != nil:
	case r.unchanged != nil && r.unchanged(name, info):
		f.Unchanged = true
		r.bytes += info.Size()
	default:
		f.Body, f.Err = readFile(path)
		r.bytes += int64(len(f.Body))
	}
	r.files[name] = f
	if r.bytes > MaxBytes {
		return fmt.Errorf("the files have more than %d bytes", MaxBytes)
	}
	return nil
}

// isLink tells whether there is a symlink, to whatever it leads.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// readFile reads what Parse looks at: one byte more than MaxFile tells it that there is too much.
func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // the operator names the directory
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // it was only read
	return io.ReadAll(io.LimitReader(f, MaxFile+1))
}
