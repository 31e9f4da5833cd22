package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// lineBatch is a part of a file: line i of its text is line first+i of the file. What cannot be sent is
// blank there.
type lineBatch struct {
	first int // from 1 on
	key   string
	text  []byte
	lines int
	size  int // of them in the file, in bytes

	filled int // of the lines, those that say something
	faults badLines
}

// badLines are the lines that are malformed.
type badLines struct {
	count int
	first []string // "line 7: …"
}

const mostFaultsShown = 10

func (f *badLines) add(count int, told ...string) {
	f.count += count
	f.first = append(f.first, told[:min(len(told), mostFaultsShown-len(f.first))]...)
}

// batchReader cuts a file into batches, at the same places and with the same idempotency keys whenever
// it is read, under whatever name and compressed or not.
//
// A key is a hash of all that stands before the batch. So the last batch keeps its key when the file has
// grown, and then only the new lines of it are taken; and no two files share one unless they are alike
// up to there. Before the first batch stands nothing: its key is a hash of its own lines, and it is
// short. Only a file that was shorter still, and has grown, is counted twice, that far.
type batchReader struct {
	lines *httpjson.Lines
	rows  bool      // of which the server takes all or none: so none is sent that it would refuse
	hash  hash.Hash // of the lines that are in batches

	number int // of these lines
	line   []byte
	err    error // of line
	peeked bool  // line was read, and is in no batch yet
}

const (
	longestIngested = 1 << 20
	firstBatchLines = 100
	batchLines      = 2000
	batchBytes      = 512 << 10
)

func newBatchReader(r io.Reader, rows bool) (*batchReader, error) {
	b := bufio.NewReader(r)
	plain := io.Reader(b)
	if magic, _ := b.Peek(2); string(magic) == "\x1f\x8b" { // whatever it is called; a fault comes again
		z, err := gzip.NewReader(b)
		if err != nil {
			return nil, fmt.Errorf("unpacking: %w", err)
		}
		plain = z
	}
	return &batchReader{lines: httpjson.NewLines(plain, longestIngested), rows: rows, hash: sha256.New()}, nil
}

// read returns the next batch, or io.EOF after the last one. Where the file breaks off, the lines before
// are not returned: with those that are missing they may be another batch.
func (r *batchReader) read() (*lineBatch, error) {
	b := &lineBatch{first: r.number + 1, key: r.key(r.number + 1)}
	most := batchLines
	if b.first == 1 {
		most = firstBatchLines
	}
	for b.lines < most {
		line, err := r.peek()
		if b.lines > 0 && (errors.Is(err, io.EOF) || b.size+len(line) >= batchBytes) {
			break
		}
		if err != nil && !errors.Is(err, httpjson.ErrLongLine) {
			return nil, err
		}
		r.take(b)
	}
	if b.first == 1 {
		b.key = r.key(1)
	}
	return b, nil
}

// key is a hash of the lines that are in batches, and of where the batch begins that it is of.
func (r *batchReader) key(first int) string {
	const size = 16
	return fmt.Sprintf("ingest-%d-%x", first, r.hash.Sum(nil)[:size])
}

// told is what the server says of a line of the batch, with its number in the file.
func (b *lineBatch) told(fault string) string {
	number, text, ok := strings.Cut(strings.TrimPrefix(fault, "line "), ": ")
	if n, err := strconv.Atoi(number); ok && err == nil {
		return fmt.Sprintf("line %d: %s", b.first-1+n, visible(text))
	}
	return visible(fault)
}

// peek looks at the next line, which stays the next one until it is taken.
func (r *batchReader) peek() ([]byte, error) {
	if !r.peeked {
		r.line, r.err = r.lines.Next()
		r.peeked = true
	}
	return r.line, r.err
}

// take brings the line that was looked at into b.
func (r *batchReader) take(b *lineBatch) {
	_, _ = r.hash.Write(r.line) // which takes all, as below
	_, _ = r.hash.Write([]byte{'\n'})
	r.peeked = false
	r.number++
	b.lines++
	b.size += len(r.line) + 1
	line, err := bytes.Trim(r.line, " \t\r"), r.err
	if err == nil && len(line) > 0 && r.rows {
		_, err = traffic.ParseJSON(line, time.Now())
	}
	if err != nil {
		b.faults.add(1, fmt.Sprintf("line %d: %s", r.number, visible(strings.ReplaceAll(err.Error(), "\n", "; "))))
	}
	if err != nil || len(line) > 0 {
		b.filled++
	}
	if err == nil {
		b.text = append(b.text, line...)
	}
	b.text = append(b.text, '\n')
}
