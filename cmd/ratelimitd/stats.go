package main

import (
	"context"
	"iter"
	"time"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// received is what there was since the start.
func (s *server) received() (transactions uint64, endpoints any) {
	st := s.recorder.Stats()
	return st.Transactions, st.Endpoints
}

// stats answers from memory for windows of up to an hour, else from Postgres.
func (s *server) stats(ctx context.Context, q admin.StatsQuery) (admin.StatsAnswer, error) {
	now := time.Now()
	if q.Window > 0 && q.Window <= rollup.MaxWindow && (!q.Stored || s.history == nil) {
		snapshot, err := s.recorder.Windows().Snapshot(now, q.Window)
		return admin.StatsAnswer{Snapshot: snapshot, Source: admin.SourceMemory}, err
	}
	if s.history == nil {
		return admin.StatsAnswer{}, q.Refuse("is beyond what is in memory (figures of an hour, counts per second of two minutes); what is older needs Postgres")
	}
	if q.Window > 0 {
		q.From, q.To = now.Add(-q.Window), now
	}
	snapshot, err := s.history.Stats(ctx, q.From, q.To, history.Filter{Domain: q.Domain, Gateway: q.Gateway, Endpoint: q.Endpoint})
	return admin.StatsAnswer{Snapshot: snapshot, Source: admin.SourcePostgres}, err
}

// memoryRange is how far back there are counts per second without Postgres.
const memoryRange = 2 * time.Minute

// whatIfRange is how far back a limit is tried where nobody says.
func (s *server) whatIfRange() time.Duration {
	if s.history == nil {
		return memoryRange
	}
	keep := s.history.KeepsSeconds()
	if keep == 0 {
		return dayLong
	}
	return min(keep, dayLong)
}

const dayLong = 24 * time.Hour

// seconds answers from Postgres where there is one, else from memory, which is as far as it reaches.
func (s *server) seconds(ctx context.Context, q admin.SecondsQuery) (admin.SecondsAnswer, error) {
	if s.history != nil {
		q.From = kept(q.From, s.history.KeepsSeconds(), time.Now())
		if !q.From.Before(q.To) {
			return admin.SecondsAnswer{}, &limits.FieldError{Field: "to", Value: q.To.Format(time.RFC3339), Reason: "is beyond the counts per second that TPS_RETENTION keeps"}
		}
		counts, err := s.history.Seconds(ctx, q.Key, q.From, q.To)
		return admin.SecondsAnswer{From: q.From, To: q.To, Source: admin.SourcePostgres, Counts: counts}, err
	}
	counts, from, to := s.recorder.Windows().Seconds(time.Now(), q.Key)
	if q.To.Before(from) {
		return admin.SecondsAnswer{}, &limits.FieldError{Field: "to", Value: q.To.Format(time.RFC3339), Reason: "is beyond the last two minutes, which are in memory; what is older needs Postgres"}
	}
	from = later(q.From, from)
	if q.To.Before(to) {
		to = q.To
	}
	return admin.SecondsAnswer{From: from, To: to, Source: admin.SourceMemory, Counts: between(counts, from, to)}, nil
}

// kept is from, or where the counts per second that are kept begin, if that is later by more than a question
// takes to be put.
func kept(from time.Time, keep time.Duration, now time.Time) time.Time {
	if keep == 0 || now.Sub(from) <= keep+time.Minute {
		return from
	}
	return now.Add(-keep).Truncate(time.Second)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// between leaves out what is not from one time to before another.
func between(counts iter.Seq2[int64, int64], from, to time.Time) iter.Seq2[int64, int64] {
	return func(yield func(int64, int64) bool) {
		for second, n := range counts {
			if second >= from.Unix() && second < to.Unix() && !yield(second, n) {
				return
			}
		}
	}
}
