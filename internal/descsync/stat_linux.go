package descsync

import (
	"io/fs"
	"syscall"
	"time"
)

// system is what only the system knows of a file: which one it is, and when it was changed last.
func system(info fs.FileInfo) (inode uint64, changed time.Time) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino, time.Unix(st.Ctim.Unix())
	}
	return 0, time.Time{}
}
