package descsync

import (
	"io/fs"
	"time"
)

// stat tells whether a file has changed, without reading it.
type stat struct {
	size    int64
	mode    fs.FileMode
	modTime time.Time
	inode   uint64    // 0 = not known
	changed time.Time // by the system's own account, which nobody can set; zero = not known
	at      time.Time // when it was looked at
}

// racy is how long after a change another one may leave the same times, on file systems that keep them
// coarsely.
const racy = 2 * time.Second

func statOf(info fs.FileInfo) stat {
	s := stat{size: info.Size(), mode: info.Mode(), modTime: info.ModTime(), at: time.Now()}
	s.inode, s.changed = system(info)
	return s
}

// same tells whether a file is for sure what it was at before, which may be the zero stat.
func (s stat) same(before stat) bool {
	last := before.changed
	if last.IsZero() {
		last = before.modTime
	}
	at := before.at
	s.at, before.at = time.Time{}, time.Time{}
	return s == before && at.Sub(last) > racy
}
