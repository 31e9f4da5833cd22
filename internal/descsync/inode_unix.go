//go:build unix

package descsync

import (
	"io/fs"
	"syscall"
)

// inode tells two files apart that have followed each other under one name; 0 = not known.
func inode(info fs.FileInfo) uint64 {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return st.Ino
	}
	return 0
}
