package descsync

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
)

// signature tells whether files below a directory have changed, without reading them.
type signature struct {
	sum    [sha256.Size]byte // of names, sizes, times and inodes
	newest time.Time
	at     time.Time
}

// racy is how long after a write another one might leave the same size and time, on file systems that
// keep times coarsely.
const racy = 2 * time.Second

// settled tells whether a change since then would be seen.
func (s signature) settled() bool { return s.at.Sub(s.newest) > racy }

func sign(dir string) signature {
	s, h := signature{at: time.Now()}, sha256.New()
	seen := 0
	_ = filepath.WalkDir(dir+string(filepath.Separator), func(path string, _ fs.DirEntry, err error) error {
		if seen++; seen > 2*descriptors.MaxFiles { // reading it ends with an error
			return fs.SkipAll
		}
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil {
			fmt.Fprintln(h, path, err, statErr)
			return nil
		}
		if info.ModTime().After(s.newest) {
			s.newest = info.ModTime()
		}
		fmt.Fprintln(h, path, info.Size(), info.ModTime().UnixNano(), info.Mode(), inode(info))
		return nil
	})
	h.Sum(s.sum[:0])
	return s
}
