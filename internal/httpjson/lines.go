package httpjson

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// ErrLongLine says that a line was passed over, since it is longer than the longest that is read.
var ErrLongLine = errors.New("is longer than a line may be")

// Lines reads text line by line, as NDJSON is made of them, in memory for one line.
type Lines struct {
	r       *bufio.Reader
	longest int
	joined  []byte // a line that does not fit into the buffer of r
}

// NewLines returns the lines of r, of at most longest bytes each.
func NewLines(r io.Reader, longest int) *Lines {
	const buffer = 64 << 10
	return &Lines{r: bufio.NewReaderSize(r, buffer), longest: longest}
}

// Next returns the next line without its end, which is \n or \r\n; it is valid until the next call.
// After ErrLongLine the lines that follow can still be read. Other errors are those of the reader, and
// io.EOF after the last line.
func (l *Lines) Next() ([]byte, error) {
	l.joined = l.joined[:0]
	for long := false; ; {
		part, err := l.r.ReadSlice('\n')
		if long = long || len(l.joined)+len(part) > l.longest+len("\r\n"); long {
			l.joined = l.joined[:0]
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if !long {
				l.joined = append(l.joined, part...)
			}
			continue
		case err != nil && (!errors.Is(err, io.EOF) || (len(part) == 0 && len(l.joined) == 0 && !long)):
			return nil, err
		}
		return l.line(part, long)
	}
}

// line returns what ends with part.
func (l *Lines) line(part []byte, long bool) ([]byte, error) {
	if !long && len(l.joined) > 0 {
		l.joined = append(l.joined, part...)
		part = l.joined
	}
	part = bytes.TrimSuffix(bytes.TrimSuffix(part, []byte{'\n'}), []byte{'\r'})
	if long || len(part) > l.longest {
		return nil, ErrLongLine
	}
	return part, nil
}
