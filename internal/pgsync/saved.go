package pgsync

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"sync"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

const (
	// partRows is how many rows one goroutine decodes at a time: some milliseconds of work.
	partRows = 4096
	// fewestRowBytes is less than the shortest row takes in the file.
	fewestRowBytes = 16
)

// readState opens the state file, reads its first line, and gives the rest to read.
func (s *Sync) readState(read func(stateHeader, *bufio.Reader) error) error {
	f, err := os.Open(s.kept.Path())
	if err != nil {
		return fmt.Errorf("opening the state file: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	r := bufio.NewReaderSize(f, 1<<16)
	var h stateHeader
	line, err := readLine(r)
	if err == nil {
		err = json.Unmarshal(line, &h)
	}
	if err != nil {
		return fmt.Errorf("reading the head of %s: %w", s.kept.Path(), err)
	}
	if info, err := f.Stat(); err == nil {
		h.atMost = int(info.Size() / fewestRowBytes)
	}
	return read(h, r)
}

// readLine returns a line; the last one may have no end. It fails where there is none.
func readLine(r *bufio.Reader) ([]byte, error) {
	line, err := r.ReadBytes('\n')
	if errors.Is(err, io.EOF) && len(line) > 0 {
		err = nil
	}
	return line, err
}

// readSaved returns the rows of the state file; those that this release calls bad are passed over.
// Every processor decodes some: nothing else can be done until there are limits.
func (s *Sync) readSaved(ctx context.Context, h stateHeader, r *bufio.Reader) ([]limits.Limit, error) {
	rows := make([]limits.Limit, 0, max(min(h.Rows, h.atMost), 0))
	parts := make([]part, runtime.GOMAXPROCS(0))
	for read := 0; read < h.Rows; {
		var decoding sync.WaitGroup
		for i := range parts {
			p := &parts[i]
			read = p.fill(r, read, h.Rows)
			decoding.Go(p.decode)
		}
		decoding.Wait()
		for i := range parts {
			if p := &parts[i]; p.err != nil {
				return nil, fmt.Errorf("reading row %d of %d of %s: %w", p.errAt+1, h.Rows, s.kept.Path(), p.err)
			}
			rows = append(rows, parts[i].good...)
			s.passOverAll(ctx, parts[i].bad)
		}
	}
	return rows, nil
}

// passOverAll logs bad rows, at most maxLogged of a part.
func (s *Sync) passOverAll(ctx context.Context, bad []badRow) {
	for i, b := range bad {
		if i == maxLogged {
			s.metrics.loadErrors.WithLabelValues("invalid_row").Add(float64(len(bad) - i))
			s.log.WarnContext(ctx, "more rows of the state file are not used", slog.Int("rows", len(bad)-i))
			return
		}
		s.passOver(ctx, b.key, b.err)
	}
}

// part is some rows of the state file, in their order.
type part struct {
	body  []byte // lines
	ends  []int  // of each line in body
	first int    // number of the first row, from 0
	good  []limits.Limit
	bad   []badRow
	err   error // the first row that cannot be read
	errAt int   // its number
}

type badRow struct {
	key limits.Key
	err error
}

// fill reads the lines of rows from first on, up to the end of the part or of all. It returns how
// many have been read then, and all where no more can be.
func (p *part) fill(r *bufio.Reader, first, all int) (read int) {
	p.body, p.ends, p.first, p.err = p.body[:0], p.ends[:0], first, nil
	for range min(partRows, all-first) {
		line, err := readLine(r)
		if err != nil {
			p.err, p.errAt = noEnd(err), first+len(p.ends)
			return all
		}
		p.body = append(p.body, line...)
		p.ends = append(p.ends, len(p.body))
	}
	return first + len(p.ends)
}

// noEnd makes the end of the file, where rows are missing, an error of its own.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// decode makes rows of the lines.
func (p *part) decode() {
	p.good, p.bad = p.good[:0], p.bad[:0]
	start := 0
	for i, end := range p.ends {
		var r limits.Row
		if err := json.Unmarshal(p.body[start:end], &r); err != nil {
			p.err, p.errAt = err, p.first+i
			return
		}
		start = end
		if l, err := r.Limit(); err == nil {
			p.good = append(p.good, l)
		} else {
			p.bad = append(p.bad, badRow{l.Key, err})
		}
	}
}
