package rollup

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"time"
)

// Limit is a token bucket that somebody thinks of. The names in its errors are those of the columns of
// tps_limits; the capacity is that of limits.Limit.
type Limit struct {
	MaxTPS     int64 // transactions per window, 0 to 1e9; 0 refuses everything
	PerSeconds int64 // length of the window, up to 366 days; 0 = 1
	Capacity   int64 // tokens of a full bucket, 1 to 1e9; 0 where MaxTPS is 0, and only there
	MaxWaitMS  int64 // 0 to 30 minutes; 0 = nobody waits
}

// validate returns all faults at once.
func (l *Limit) validate() (err error) {
	if (l.Capacity == 0) != (l.MaxTPS == 0) {
		err = fmt.Errorf("capacity %d: does not go with max_tps %d, only 0 goes with 0", l.Capacity, l.MaxTPS)
	}
	return errors.Join(err,
		within("max_tps", l.MaxTPS, 1e9),
		within("per_seconds", l.PerSeconds, 366*24*3600),
		within("capacity", l.Capacity, 1e9),
		within("max_wait_ms", l.MaxWaitMS, 1_800_000),
	)
}

func within(name string, n, most int64) error {
	if n < 0 || n > most {
		return fmt.Errorf("%s %d: is not within 0 to %d", name, n, most)
	}
	return nil
}

// Outcome is what a limit would have done.
type Outcome struct {
	Offered int64 // requests, those included that were throttled then
	Refused Range
	Held    int64 // an estimate of how many would have waited and passed
	Minutes []Minute
}

// Range is a number of which only bounds are known: never below Least, never above Most.
type Range struct{ Least, Estimate, Most int64 }

// Minute is a minute that had requests. The estimates of all minutes add up to that of the outcome.
type Minute struct {
	Unix    int64 // when it begins, in seconds since 1970
	Offered int64
	Refused int64 // an estimate
}

// Begin is when the minute begins, in UTC.
func (m Minute) Begin() time.Time { return time.Unix(m.Unix, 0).UTC() }

// Share is the part of its requests that would have been refused, 0 to 1.
func (m Minute) Share() float64 { return float64(m.Refused) / float64(max(m.Offered, 1)) }

// WhatIf tells what a limit would have done to the requests of one key, or of several that would
// share it. They come as pairs of a second (since 1970) and how many there were in it, the throttled
// ones included, in ascending order; what is left out had none. It returns an error for a limit out
// of bounds, for seconds out of order, and for a number of requests that cannot be.
//
// How the requests of a second lie within it is not known. So there are three numbers:
//
//   - Least and Most are bounds. Wherever within their seconds the requests came, an exact bucket
//     refuses no fewer than Least (all spread so that no token is lost) and no more than Most (all at
//     the begin or at the end of their seconds, whichever is worse later on).
//   - Estimate takes the requests of a second for spread evenly at random, each for itself.
//
// Most is far from Least where the burst is small beside the requests of a second: with a burst of a
// tenth, a second whose requests come all at once loses nine tenths of them. Clients with timers do
// that; many independent ones do not.
//
// What the numbers cannot show, so that the bounds do not hold for it:
//
//   - the limit began with a full bucket, which is off by the burst (and what may wait) at most;
//   - a transaction counts in the second in which it ended, and was decided a duration earlier:
//     durations that vary by more than a second smooth peaks, or make them;
//   - a request that charges several hits counts as one;
//   - names beyond the bound of [Names] count as other, and are missed here;
//   - who is refused may come again, and who was refused then may have come again for that.
//
// With MaxWaitMS, refused is who would have had to wait longer. Whoever waits is taken to stay.
func WhatIf(l Limit, seconds iter.Seq2[int64, int64]) (Outcome, error) {
	if err := l.validate(); err != nil {
		return Outcome{}, fmt.Errorf("asking what a limit would have done: %w", err)
	}
	r := newReplay(&l)
	for second, n := range seconds {
		if err := r.add(second, n); err != nil {
			return Outcome{}, fmt.Errorf("asking what a limit would have done: %w", err)
		}
	}
	r.closeMinute()
	return r.outcome, nil
}

// maxRequests is more than a second ever has, and leaves room for the sum of a year.
const maxRequests = 1e11

// replay is a WhatIf under way.
type replay struct {
	least    least
	most     most
	estimate estimate
	outcome  Outcome
	begun    bool
	second   int64 // the last one
	minute   Minute
}

func newReplay(l *Limit) *replay {
	b := newBucket(l)
	return &replay{
		least:    least{bucket: b, level: b.capacity},
		most:     most{bucket: b, paths: []path{{level: b.capacity}}},
		estimate: newEstimate(&b),
	}
}

func (r *replay) add(second, n int64) error {
	switch {
	case n < 0 || n > maxRequests:
		return fmt.Errorf("second %d has %d requests: is not within 0 to %d", second, n, int64(maxRequests))
	case r.begun && second <= r.second:
		return fmt.Errorf("second %d comes after %d, must ascend", second, r.second)
	case r.begun:
		r.skip(second - r.second - 1)
	}
	r.begun, r.second = true, second
	if begin := (Slot{Unix: second}).begin(secondsPerMinute).Unix; begin != r.minute.Unix {
		r.closeMinute()
		r.minute = Minute{Unix: begin}
	}
	r.minute.Offered = addUp(r.minute.Offered, n)
	r.outcome.Offered = addUp(r.outcome.Offered, n)
	r.least.add(n)
	r.most.add(n)
	r.estimate.add(n)
	return nil
}

// skip is for seconds without a request.
func (r *replay) skip(seconds int64) {
	if seconds < 1 {
		return
	}
	r.least.level = r.least.fill(r.least.level, seconds)
	r.most.skip(seconds)
	r.estimate.skip(seconds)
}

// closeMinute brings the estimate into the bounds, which hold for every part from the begin.
func (r *replay) closeMinute() {
	if r.minute.Offered == 0 {
		return
	}
	refused := &r.outcome.Refused
	before := refused.Estimate
	refused.Least = r.least.refused
	refused.Most = r.outcome.Offered - r.most.passed()
	r.estimate.refused = min(max(r.estimate.refused, float64(refused.Least)), float64(refused.Most))
	refused.Estimate = min(max(int64(math.Round(r.estimate.refused)), before), refused.Most)
	r.minute.Refused = refused.Estimate - before
	r.outcome.Held = min(int64(math.Round(r.estimate.held)), r.outcome.Offered-refused.Estimate)
	r.outcome.Minutes = append(r.outcome.Minutes, r.minute)
	r.minute = Minute{}
}
