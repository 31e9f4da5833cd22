package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// MaxPayload is the most bytes that a frame can have.
	MaxPayload = 16 << 20

	defaultSyncEvery  = 100 * time.Millisecond
	defaultMaxPending = 10_000
	smallestSegment   = 1 << 20
	largestSegment    = 64 << 20
	segmentsOfAll     = 16 // the log has about so many segments when it is full
)

// Config of a Log.
type Config struct {
	Dir string // of its own; made if it is missing
	// Prepare makes what is above the directory and keeps other processes out of it. It is called before
	// each segment; nil = nothing is to be done.
	Prepare func() error
	Max     int64 // bytes of all segments; a frame that is larger is lost

	// SegmentSize is the number of bytes at which a segment ends; 0 = a sixteenth of the smaller of
	// Max and the size of the file system, but at least 1 MiB and at most 64 MiB.
	SegmentSize int64
	SyncEvery   time.Duration // at most this often is an fsync; 0 = 100 ms
	StopTime    time.Duration // that the last write and sync may take; 0 = 5 s
	MaxPending  int           // records in memory that wait to be written; 0 = 10,000
	// Readers are names of lower-case letters, digits, - and _. What another reader had committed is
	// forgotten at Open. Without any, nothing is taken and nothing is removed.
	Readers []string
}

func (c *Config) validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(c.Dir != "", "the directory has no name")
	check(c.Max > 0, "the bound of %d bytes is not above 0", c.Max)
	check(c.SegmentSize >= 0, "the segment size of %d bytes is below 0", c.SegmentSize)
	check(c.SyncEvery >= 0, "the time between two syncs, %v, is below 0", c.SyncEvery)
	check(c.StopTime >= 0, "the time to stop, %v, is below 0", c.StopTime)
	check(c.MaxPending >= 0, "the bound of %d waiting records is below 0", c.MaxPending)
	seen := map[string]bool{}
	for _, name := range c.Readers {
		check(isReaderName(name), "%q is no name for a reader", name)
		check(!seen[name], "two readers are called %q", name)
		seen[name] = true
	}
	return errors.Join(faults...)
}

// isReaderName tells whether a reader can be called this. The label value for all readers cannot be
// the name of one.
func isReaderName(name string) bool {
	const letters = "abcdefghijklmnopqrstuvwxyz0123456789-_"
	return name != "" && len(name) <= 64 && name != allReaders && strings.Trim(name, letters) == ""
}

// complete puts the defaults where nothing is said.
func (c *Config) complete() {
	if c.SyncEvery == 0 {
		c.SyncEvery = defaultSyncEvery
	}
	if c.MaxPending == 0 {
		c.MaxPending = defaultMaxPending
	}
	if c.SegmentSize == 0 {
		c.SegmentSize = min(max(min(c.Max, fileSystemSize(c.Dir))/segmentsOfAll, smallestSegment), largestSegment)
	}
	c.SegmentSize = min(c.SegmentSize, c.Max)
}

// fileSystemSize returns the bytes of the file system of dir, or of where it is to be made, more than
// there can be if it does not tell.
func fileSystemSize(dir string) int64 {
	const unknown = 1 << 62
	var s syscall.Statfs_t
	for err := syscall.Statfs(dir, &s); err != nil; err = syscall.Statfs(dir, &s) {
		parent := filepath.Dir(dir)
		if parent == dir || !errors.Is(err, fs.ErrNotExist) {
			return unknown
		}
		dir = parent
	}
	size := float64(s.Blocks) * float64(s.Bsize) // the types differ between systems
	if size < 1 || size > unknown {
		return unknown
	}
	return int64(size)
}
