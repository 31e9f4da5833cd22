package filewatch

import (
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxDirs bounds the directories of a tree that are watched; in what is beyond them changes are found by
// the poll.
const maxDirs = 1000

// treeDirs are the directories in which a change can change what is found below root: itself, those
// below it, that of each file that a link below it leads to, and those that hold root's own name and the
// links on the way to it.
func treeDirs(root string) []string {
	dirs := make(map[string]bool)
	for _, dir := range linkDirs(root) {
		dirs[dir] = true
	}
	if target, err := filepath.EvalSymlinks(root); err == nil { // else a watch would stay with what a link has led to
		root = target
	}
	_ = filepath.WalkDir(root+string(filepath.Separator), func(path string, entry fs.DirEntry, err error) error {
		switch {
		case len(dirs) >= maxDirs:
			return fs.SkipAll
		case err != nil: // it is gone, or nobody may read it: the poll sees what becomes of it
			return nil //nolint:nilerr // as above
		case entry.IsDir():
			dirs[filepath.Clean(path)] = true
		case entry.Type()&fs.ModeSymlink != 0:
			for _, dir := range linkDirs(path) { // also where the target is gone, which may come again
				if _, err := os.Stat(dir); err == nil {
					dirs[dir] = true
				}
			}
		}
		return nil
	})
	return slices.Sorted(maps.Keys(dirs))
}

// linkDirs are the directories that hold the links on the way to path, and the one that holds its last
// name.
func linkDirs(path string) []string {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	dirs := []string{filepath.Dir(path)}
	const mostLinks = 40
	for range mostLinks {
		link, rest := firstLink(path)
		if link == "" {
			break
		}
		target, err := os.Readlink(link)
		if err != nil {
			break
		}
		if !filepath.IsAbs(target) {
			target = filepath.Join(filepath.Dir(link), target)
		}
		path = filepath.Join(target, rest)
		dirs = append(dirs, filepath.Dir(link), filepath.Dir(path))
	}
	return dirs
}

// firstLink finds the first name on the way down path that is a symbolic link, and what comes after it.
func firstLink(path string) (link, rest string) {
	for i := 1; i <= len(path); i++ {
		if i < len(path) && path[i] != filepath.Separator {
			continue
		}
		if info, err := os.Lstat(path[:i]); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return path[:i], strings.TrimPrefix(path[i:], string(filepath.Separator))
		}
	}
	return "", ""
}
