package spool

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"slices"
)

// A frame: length of the payload, number of records, CRC-32C, payload. The checksum covers the head
// of the segment, the offset of the frame's first record, and all of the frame but itself, so that
// bytes of another segment, which a file system may show after a crash, do not pass for a frame.
const frameHead = 12

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) } // made once, by that package

// appendFrame appends a frame whose checksum is still to be put in.
func appendFrame(buf, payload []byte, n int) []byte {
	buf = binary.LittleEndian.AppendUint32(buf, uint32(len(payload))) //nolint:gosec // at most MaxPayload
	buf = binary.LittleEndian.AppendUint32(buf, uint32(n))            //nolint:gosec // at most maxRecords
	buf = append(buf, 0, 0, 0, 0)
	return append(buf, payload...)
}

// maxRecords is the most records of a frame.
const maxRecords = math.MaxInt32

// frameSize returns the length of the frame that begins here, and its number of records.
func frameSize(b []byte) (size, n int64) {
	return frameHead + int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:]))
}

// checksum is that of a frame whose first record has this offset.
func checksum(seed uint32, offset int64, frame []byte) uint32 {
	seed ^= uint32(offset) ^ uint32(offset>>32) //nolint:gosec // only patterns of bits
	return crc32.Update(crc32.Update(seed, castagnoli(), frame[:8]), castagnoli(), frame[frameHead:])
}

// stamp puts in the checksums of frames that follow each other from this offset on.
func stamp(seed uint32, offset int64, buf []byte) {
	for len(buf) > 0 {
		size, n := frameSize(buf)
		binary.LittleEndian.PutUint32(buf[8:], checksum(seed, offset, buf[:size]))
		buf, offset = buf[size:], offset+n
	}
}

// cut returns the frames at the head of buf that together have at most so many bytes, but at least
// one frame, and how many records these are.
func cut(buf []byte, most int64) (chunk []byte, records int64) {
	var end int64
	for end < int64(len(buf)) {
		size, n := frameSize(buf[end:])
		if end > 0 && end+size > most {
			break
		}
		end, records = end+size, records+n
	}
	return buf[:end], records
}

// errDamaged says that what comes next in a file is no frame that was written there.
var errDamaged = errors.New("the frame is torn or damaged")

// readAhead is how many bytes are read at least, if there are as many.
const readAhead = 256 << 10

// frames reads the frames of a file one after another.
type frames struct {
	file  io.ReaderAt
	seed  uint32
	next  int64 // offset of the first record of the next frame
	pos   int64 // where that frame begins in the file
	limit int64 // where the last frame ends in the file

	buf   []byte // the file from start on
	start int64
}

// peek returns length and number of records of the next frame, as read returns them later. Errors:
// io.EOF at the limit, errDamaged, and those of the file.
func (f *frames) peek() (size, n int64, err error) {
	if f.pos == f.limit {
		return 0, 0, io.EOF
	}
	head, err := f.bytes(frameHead)
	if err != nil {
		return 0, 0, err
	}
	size, n = frameSize(head)
	if size > frameHead+MaxPayload || n < 1 || n > maxRecords {
		return 0, 0, errDamaged
	}
	return size, n, nil
}

// read returns the payload of the next frame, which stays until drop, and its number of records.
// Errors: as peek.
func (f *frames) read() (payload []byte, n int64, err error) {
	size, n, err := f.peek()
	if err != nil {
		return nil, 0, err
	}
	frame, err := f.bytes(size)
	if err != nil {
		return nil, 0, err
	}
	if binary.LittleEndian.Uint32(frame[8:]) != checksum(f.seed, f.next, frame) {
		return nil, 0, errDamaged
	}
	f.pos, f.next = f.pos+size, f.next+n
	return frame[frameHead:size:size], n, nil
}

// bytes returns the next n bytes.
func (f *frames) bytes(n int64) ([]byte, error) {
	if n > f.limit-f.pos {
		return nil, errDamaged
	}
	from := f.pos - f.start
	if have := int64(len(f.buf)); from+n > have {
		want := from + min(max(n, readAhead), f.limit-f.pos)
		f.buf = slices.Grow(f.buf, int(want-have))[:want]
		got, err := f.file.ReadAt(f.buf[have:], f.start+have)
		f.buf = f.buf[:have+int64(got)]
		switch {
		case from+n <= int64(len(f.buf)): // what is missing may never be asked for
		case errors.Is(err, io.EOF):
			return nil, errDamaged
		default:
			return nil, err
		}
	}
	return f.buf[from : from+n], nil
}

// drop forgets the payloads that were read, once they take up some room.
func (f *frames) drop() {
	if f.pos-f.start >= readAhead {
		f.buf = f.buf[:copy(f.buf, f.buf[f.pos-f.start:])]
		f.start = f.pos
	}
}
