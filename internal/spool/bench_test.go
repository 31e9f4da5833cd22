package spool

import (
	"context"
	"strconv"
	"testing"
)

// A frame as the recorder makes them: 100 records of 80 bytes.
const (
	benchRecords = 100
	benchRecord  = 80
)

// report adds the time for one record to a benchmark of frames.
func report(b *testing.B, records int) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(records), "ns/record")
}

// BenchmarkAppend is what Append takes, with the writer and the syncs beside it. Frames for which there
// is no room in memory are appended again after a write.
func BenchmarkAppend(b *testing.B) {
	for _, records := range []int{1, 10, benchRecords, 10 * benchRecords} {
		b.Run(strconv.Itoa(records), func(b *testing.B) {
			l := open(b, Config{Dir: b.TempDir(), MaxPending: 40_000})
			ctx, cancel := context.WithCancel(b.Context())
			done := make(chan error, 1)
			go func() { done <- l.Run(ctx) }()
			payload, r, n := make([]byte, records*benchRecord), l.Reader("a"), 0
			b.ReportAllocs()
			b.SetBytes(int64(len(payload)))
			for b.Loop() {
				for !l.Append(payload, records) {
					<-r.Arrived()
				}
				n += records
			}
			report(b, n)
			cancel()
			if err := <-done; err != nil {
				b.Error(err)
			}
		})
	}
}

// BenchmarkAppendOnly is Append alone: nobody writes.
func BenchmarkAppendOnly(b *testing.B) {
	l := open(b, Config{Dir: b.TempDir(), MaxPending: 100_000})
	payload, n := make([]byte, benchRecords*benchRecord), 0
	b.ReportAllocs()
	for b.Loop() {
		if l.Append(payload, benchRecords); l.pending > 50_000 {
			l.queue, l.pending = l.queue[:0], 0
		}
		n += benchRecords
	}
	report(b, n)
}

// BenchmarkWrite is what the writer does for each frame: checksum and write(2).
func BenchmarkWrite(b *testing.B) {
	l := open(b, Config{Dir: b.TempDir(), Max: 128 << 20})
	defer l.kill()
	payload, n := make([]byte, benchRecords*benchRecord), 0
	b.ReportAllocs()
	b.SetBytes(int64(len(payload)))
	for b.Loop() {
		l.Append(payload, benchRecords)
		l.flush()
		l.takeUnsynced() // so that files are closed
		n += benchRecords
	}
	report(b, n)
}

// BenchmarkRead reads and commits chunks, over and over.
func BenchmarkRead(b *testing.B) {
	for _, most := range []int{benchRecords, 10 * benchRecords, 100 * benchRecords} {
		b.Run(strconv.Itoa(most), func(b *testing.B) {
			l := open(b, Config{Dir: b.TempDir()})
			payload, n := make([]byte, benchRecords*benchRecord), 0
			for range 5000 {
				l.Append(payload, benchRecords)
				l.flush()
			}
			defer l.kill()
			r := l.Reader("a")
			b.ReportAllocs()
			b.SetBytes(int64(most) * benchRecord)
			for b.Loop() {
				c, err := r.Read(most)
				if err == nil {
					err = r.Commit(c.Next())
				}
				if err != nil || c.N == 0 {
					b.Fatal(c.N, err)
				}
				if n += c.N; r.Waiting() == 0 {
					r.at, r.segment = 0, nil
				}
			}
			report(b, n)
		})
	}
}
