package spool

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// A run is named by the time at which it began and 16 random bytes, so that no two are alike, and
// names sort by age: 20261126T005149.123456Z-0f1e….
const (
	runTime   = "20060102T150405.000000Z"
	runLength = len(runTime) + 1 + 2*runRandom
	runRandom = 16 // bytes
	lastYear  = 9000
)

// newRun names a run that begins now and sorts after the newest one so far, wherever the clock has
// gone since; newest is empty where there is none. All that a cursor has before its run counts as
// dealt with, so that a run must never sort before an older one.
func newRun(now time.Time, newest string) string {
	now = now.UTC().Truncate(time.Microsecond)
	if last, ok := beginOf(newest); ok && !now.After(last) {
		now = last.Add(time.Microsecond)
	}
	var random [runRandom]byte
	_, _ = rand.Read(random[:]) // it never fails
	return now.Format(runTime) + "-" + hex.EncodeToString(random[:])
}

// beginOf returns when a run began; false for what is not the name of one. Years that are so far
// off are nobody's clock, and would leave no room for a later run.
func beginOf(run string) (time.Time, bool) {
	if len(run) != runLength {
		return time.Time{}, false
	}
	text, random := run[:len(runTime)], run[len(runTime)+1:]
	begin, err := time.Parse(runTime, text)
	if err != nil || begin.Format(runTime) != text || begin.Year() > lastYear {
		return time.Time{}, false
	}
	b, err := hex.DecodeString(random)
	return begin, err == nil && run == text+"-"+hex.EncodeToString(b)
}

const (
	segmentEnd = ".seg"
	badEnd     = ".bad" // after the name of a segment that is set aside
	firstLen   = 20     // digits of the first offset
	maxOffset  = 1 << 53
)

// segmentName is the name of the file of a segment.
func segmentName(run string, first int64) string {
	return fmt.Sprintf("%s-%0*d%s", run, firstLen, first, segmentEnd)
}

// parseSegmentName is the reverse of segmentName; false for any other name.
func parseSegmentName(name string) (run string, first int64, ok bool) {
	if len(name) != runLength+1+firstLen+len(segmentEnd) {
		return "", 0, false
	}
	run = name[:runLength]
	first, err := strconv.ParseInt(name[runLength+1:runLength+1+firstLen], 10, 64)
	_, isRun := beginOf(run)
	ok = err == nil && isRun && first >= 0 && first <= maxOffset && name == segmentName(run, first)
	return run, first, ok
}
