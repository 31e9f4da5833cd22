package admin

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// shownRange is a number, or a share, of which only bounds are known.
type shownRange[T int64 | float64] struct {
	Least    T `json:"least"`
	Estimate T `json:"estimate"`
	Most     T `json:"most"`
}

type shownMinute struct {
	At      time.Time `json:"at"`
	Offered int64     `json:"offered"`
	Refused int64     `json:"refused"` // an estimate, as Share is
	Share   float64   `json:"share"`
}

// shownWhatIf is the answer of POST /api/v1/whatif.
type shownWhatIf struct {
	Offered      int64               `json:"offered"`
	Refused      shownRange[int64]   `json:"refused"`
	RefusedShare shownRange[float64] `json:"refused_share"` // 0 to 1
	Held         int64               `json:"held"`          // an estimate of those who would have waited and passed
	Worst        *shownMinute        `json:"worst"`         // null = nothing would have been refused
	WorstMinutes []shownMinute       `json:"worst_minutes"` // the worst first
	Buckets      int                 `json:"buckets"`
	From         time.Time           `json:"from"`
	To           time.Time           `json:"to"`
	Source       string              `json:"source"`
	ErrorBound   string              `json:"error_bound"`
	Sentence     string              `json:"sentence"`
}

// errorBound says what the numbers of a what-if are worth.
const errorBound = "Known is how many requests ended in each second, not where in it. " +
	"However they lay, an exact bucket for all of them would have refused no fewer than least and no more than most; " +
	"the estimate takes them for spread at random. " +
	"The bounds do not hold for what was measured otherwise than it was decided: durations that differ by more than a second, " +
	"requests of several hits, replicas that each admit the whole limit, and clients who come again because they were refused."

func (s *sum) show(q *whatIfQuery) *shownWhatIf {
	r := s.Refused
	share := func(n int64) float64 { return float64(n) / float64(max(s.Offered, 1)) }
	shown := &shownWhatIf{
		Offered: s.Offered, Held: s.Held, Buckets: s.buckets, From: s.from, To: s.to, Source: s.source, WorstMinutes: []shownMinute{}, ErrorBound: errorBound,
		Refused: shownRange[int64](r), RefusedShare: shownRange[float64]{share(r.Least), share(r.Estimate), share(r.Most)},
	}
	for _, m := range s.worst() {
		shown.WorstMinutes = append(shown.WorstMinutes, shownMinute{m.Begin(), m.Offered, m.Refused, m.Share()})
	}
	if len(shown.WorstMinutes) > 0 {
		shown.Worst = &shown.WorstMinutes[0]
	}
	shown.Sentence = shown.sentence(&q.limit)
	const moment = 5 * time.Second // that it may take until the question is put
	if s.from.Sub(q.from) > moment {
		shown.Sentence += "; counts per second reach back no further"
	}
	return shown
}

// sentence tells a person.
func (s *shownWhatIf) sentence(l *limits.Limit) string {
	span := fmt.Sprintf("from %s to %s", s.clock(s.From), s.clock(s.To))
	if s.Offered == 0 {
		return fmt.Sprintf("nothing was measured %s that %s would have counted", span, l.Label())
	}
	var b strings.Builder
	fmt.Fprintf(&b, "would have refused %s of %s requests %s", s.refused(), grouped(s.Offered), span)
	if s.Worst != nil {
		fmt.Fprintf(&b, ", most at %s (%s)", s.minute(s.Worst.At), percent(s.Worst.Share)+" %")
	}
	if s.Held > 0 {
		fmt.Fprintf(&b, ", and held about %s", grouped(s.Held))
	}
	if s.Buckets > 1 {
		fmt.Fprintf(&b, "; each domain and name has a bucket of its own, %d in all", s.Buckets)
	}
	return b.String()
}

func (s *shownWhatIf) refused() string {
	if s.Refused.Most == 0 {
		return "none"
	}
	least, estimate, most := percent(s.RefusedShare.Least), percent(s.RefusedShare.Estimate), percent(s.RefusedShare.Most)
	if least == most {
		return estimate + " %"
	}
	return fmt.Sprintf("%s %% (between %s and %s %%)", estimate, least, most)
}

// minute is the time of day, with the date where the range has several days.
func (s *shownWhatIf) minute(at time.Time) string {
	if s.To.Sub(s.From) > 24*time.Hour {
		return s.clock(at)
	}
	return at.UTC().Format("15:04 UTC")
}

// clock is a time, with seconds where the range is short.
func (s *shownWhatIf) clock(t time.Time) string {
	if s.To.Sub(s.From) < time.Hour {
		return t.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// percent is a share as per cent with two digits that count; it is 0 and 100 only where it is exactly that.
func percent(share float64) string {
	switch p := share * 100; {
	case p <= 0:
		return "0"
	case p < 0.01:
		return "less than 0.01"
	case p < 1:
		return strconv.FormatFloat(p, 'g', 1, 64)
	case p < 9.95:
		return strconv.FormatFloat(p, 'f', 1, 64)
	case p < 99:
		return strconv.FormatFloat(p, 'f', 0, 64)
	case p < 100:
		return strconv.FormatFloat(math.Floor(p*10)/10, 'f', 1, 64)
	}
	return "100"
}

// grouped is a number with commas between thousands.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}
