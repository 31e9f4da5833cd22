package spool

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
)

// The head of a segment: magic, version, first offset, run, checksum of these. Numbers in files are
// little endian.
const (
	magic    = "tpsspool"
	version  = 1
	headSize = len(magic) + 4 + 8 + runLength + 4
)

// segment is a file of frames of one run. Where an index is spoken of, it is the number of a record
// among all that this life of the log has found or written, so that indices go on from one segment
// to the next, whatever their runs.
type segment struct {
	run   string
	first int64 // offset of its first record
	path  string
	seed  uint32 // of the checksums of its frames

	file  *os.File // open for writing while in Log.open; nil for one of an earlier life
	fresh bool     // no fsync yet, of its directory neither; the syncer's

	// Log.mu guards what follows; what is written is the writer's to change.

	base    int64 // index of its first record
	records int64
	size    int64 // bytes that readers may read
	onDisk  int64 // bytes of the file: a torn frame may follow

	unsynced bool // written to since the last fsync
	syncing  bool // an fsync is under way
	unsound  bool // nothing more is to be written to it
	noted    bool // that it is damaged has been logged
	removed  bool
}

func newSegment(dir, run string, first int64) *segment {
	s := &segment{run: run, first: first, path: filepath.Join(dir, segmentName(run, first))}
	s.seed = binary.LittleEndian.Uint32(s.head()[headSize-4:])
	return s
}

// head returns the bytes that the file begins with.
func (s *segment) head() []byte {
	b := make([]byte, 0, headSize)
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, version)
	b = binary.LittleEndian.AppendUint64(b, uint64(s.first)) //nolint:gosec // not below 0
	b = append(b, s.run...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

// endLocked is the index after its last record.
func (s *segment) endLocked() int64 { return s.base + s.records }

// frames returns its frames from the one on that begins at this place.
func (s *segment) frames(file *os.File, from spot, limit int64) *frames {
	return &frames{file: file, seed: s.seed, next: s.first + from.index - s.base, pos: from.pos, start: from.pos, limit: limit}
}

// spot is where a frame begins.
type spot struct {
	index int64 // of its first record
	pos   int64 // in the file
}

// beginLocked is where the first frame is.
func (s *segment) beginLocked() spot { return spot{s.base, int64(headSize)} }
