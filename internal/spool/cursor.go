package spool

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// Position is the place of a record, and that of a reader: all records before it have been dealt
// with.
type Position struct {
	Run    string
	Offset int64
}

const (
	cursorEnd = ".cursor"
	slotSize  = 512 // a sector: a write that is torn leaves the other slot alone
	slotUsed  = 8 + 8 + runLength + 4
)

// cursor is the file of a reader's position: two slots that are overwritten in turn, so that one is
// good after a crash in the middle of a write, and so that a full disk cannot stop it (unless the
// file system copies on write). It is never synced: after a loss of power an older position stands,
// or none, and records come again that the reader's store has and passes over.
type cursor struct {
	path string
	last uint64 // number of the newest slot; slot number%2 has it
}

// openCursor reads the position of a reader, the zero Position where it has none. It makes the file,
// or makes it as long as it has to be. After an error that is a DiskFault the rest is good all the same.
func openCursor(dir, reader string) (*cursor, Position, error) {
	c := &cursor{path: filepath.Join(dir, reader+cursorEnd)}
	body := make([]byte, 2*slotSize)
	err := c.open(body)
	if DiskFault(err) {
		if f, openErr := os.Open(c.path); openErr == nil { // the disk may still be read
			_, _ = f.ReadAt(body, 0)
			_ = f.Close()
		}
	}
	return c, c.newest(body), err
}

// open reads the slots, and makes them where there are none.
func (c *cursor) open(body []byte) error {
	f, err := os.OpenFile(c.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the cursor of a reader: %w", err)
	}
	n, err := f.ReadAt(body, 0)
	if errors.Is(err, io.EOF) {
		_, err = f.WriteAt(body[n:], int64(n))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("making the cursor %s: %w", c.path, err)
	}
	return nil
}

// newest notes which slot of the file is the newest, and returns what it says.
func (c *cursor) newest(body []byte) Position {
	var newest Position
	for slot := range uint64(2) {
		number, p, ok := parseSlot(body[slot*slotSize:])
		if ok && number%2 == slot && number > c.last {
			c.last, newest = number, p
		}
	}
	return newest
}

// write puts p into the older slot. It makes the file if somebody has removed it.
func (c *cursor) write(p Position) error {
	f, err := os.OpenFile(c.path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("opening the cursor of a reader: %w", err)
	}
	number := c.last + 1
	_, err = f.WriteAt(slot(number, p), int64(number%2)*slotSize)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing the cursor %s: %w", c.path, err)
	}
	c.last = number
	return nil
}

// slot: number, offset, run, checksum.
func slot(number uint64, p Position) []byte {
	b := make([]byte, 0, slotUsed)
	b = binary.LittleEndian.AppendUint64(b, number)
	b = binary.LittleEndian.AppendUint64(b, uint64(p.Offset)) //nolint:gosec // not below 0
	b = append(b, p.Run...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli()))
}

func parseSlot(b []byte) (number uint64, p Position, ok bool) {
	b = b[:slotUsed]
	body, sum := b[:slotUsed-4], binary.LittleEndian.Uint32(b[slotUsed-4:])
	offset := binary.LittleEndian.Uint64(body[8:])
	p = Position{Run: string(body[16:])}
	_, isRun := beginOf(p.Run)
	if !isRun || offset > maxOffset || sum != crc32.Checksum(body, castagnoli()) {
		return 0, Position{}, false
	}
	p.Offset = int64(offset)
	return binary.LittleEndian.Uint64(body), p, true
}
