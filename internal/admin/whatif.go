package admin

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// The bounds of POST /api/v1/whatif: who may only read may ask it.
const (
	mostReplayed    = 200 // buckets
	longestReplayed = 31 * 24 * time.Hour
	replaysAtOnce   = 2
	worstShown      = 10 // minutes
)

// SecondsQuery is whose requests are wanted: those of exactly this domain and gateway, and of this
// endpoint, or of all endpoints where it is empty.
type SecondsQuery struct {
	rollup.Key
	From, To time.Time // whole seconds; To is not part of it
}

// SecondsAnswer is how many requests there were.
type SecondsAnswer struct {
	From, To time.Time // what is known, of what was asked for
	Source   string
	// Counts are pairs of a second since 1970 and its requests, those that were throttled included, in
	// ascending order. Seconds without any may be left out. nil = there were none.
	Counts iter.Seq2[int64, int64]
}

// whatIf tells what a limit would have done.
func (a *api) whatIf(w http.ResponseWriter, r *http.Request) {
	body, code, err := httpjson.ReadBody(w, r, a.bodyTimeout)
	if err != nil {
		httpjson.Problem(w, code, err.Error())
		return
	}
	q, code, err := decodeWhatIf(body, time.Now(), a.WhatIfRange)
	if err != nil {
		httpjson.Problem(w, code, oneLine(err))
		return
	}
	shown, err := a.replay(r.Context(), q)
	if err != nil {
		a.unmeasured(w, r, err)
		return
	}
	httpjson.Answer(w, http.StatusOK, shown)
}

// whatIfQuery is a limit, and the time that it is tried on.
type whatIfQuery struct {
	limit    limits.Limit
	span     time.Duration // 0 where the client gave two times
	from, to time.Time
}

// unknownQuestion is the reason of a name that no question has.
const unknownQuestion = "is no part of a what-if: it has limit, from, to, range"

func decodeWhatIf(body []byte, now time.Time, span time.Duration) (q whatIfQuery, code int, err error) {
	if err := checkJSON(body); err != nil {
		return q, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	var limit json.RawMessage
	var from, to, given string
	_, err = readMembers(body, func(name string, v json.RawMessage) (reason string) {
		switch name {
		case "limit":
			limit = v
		case "from":
			from, reason = orNull(v, text)
		case "to":
			to, reason = orNull(v, text)
		case "range":
			given, reason = orNull(v, text)
		default:
			reason = unknownQuestion
		}
		return reason
	})
	if err == nil {
		q.limit, err = decodeReplayed(limit)
	}
	if err == nil {
		err = q.readTimes([3]string{from, to, given}, now, span)
	}
	return q, http.StatusUnprocessableEntity, err
}

// decodeReplayed reads a limit of which can be told what it would have done.
func decodeReplayed(object json.RawMessage) (limits.Limit, error) {
	if object == nil {
		return limits.Limit{}, &limits.FieldError{Field: "limit", Value: `""`, Reason: "is missing"}
	}
	var row limits.Row
	if err := readObject(object, &row); err != nil {
		return limits.Limit{}, err
	}
	l, err := row.Limit()
	refuse := func(field, value, reason string) {
		err = errors.Join(err, &limits.FieldError{Field: field, Value: value, Reason: reason})
	}
	if l.Per != "" {
		refuse("per", quote(l.Per), "cannot be replayed: what was measured does not tell its values")
	}
	if l.Algorithm != limits.TokenBucket {
		refuse("algorithm", quote(l.Algorithm.String()), "cannot be replayed: only token_bucket can")
	}
	if !l.Enabled {
		refuse("enabled", "false", "would refuse nothing")
	}
	return l, err
}

// readTimes reads from, to and range. Without any of them it is the range that the server has.
func (q *whatIfQuery) readTimes(given [3]string, now time.Time, span time.Duration) (err error) {
	now = now.UTC().Truncate(time.Second)
	if q.from, q.to, err = readRange(given[0], given[1], now); err != nil {
		return err
	}
	if !q.from.IsZero() {
		if given[2] != "" {
			return &limits.FieldError{Field: "range", Value: quote(given[2]), Reason: "comes with from or to, which mean another time"}
		}
		q.from, q.to = q.from.Truncate(time.Second), q.to.Truncate(time.Second)
		return checkReplayed("from", q.to.Sub(q.from))
	}
	q.span = span
	if given[2] != "" {
		if q.span, err = readWindow("range", given[2]); err != nil {
			return err
		}
	}
	q.from, q.to = now.Add(-q.span), now
	return checkReplayed("range", q.span)
}

func checkReplayed(field string, span time.Duration) error {
	if span < time.Second || span > longestReplayed {
		return &limits.FieldError{Field: field, Value: span.String(), Reason: "gives a range that is not within 1s to 31d"}
	}
	return nil
}

// replay lets the limit decide what was measured: in each bucket that it would have had.
func (a *api) replay(ctx context.Context, q whatIfQuery) (*shownWhatIf, error) {
	ctx, cancel := context.WithTimeout(ctx, longestQuestion)
	defer cancel()
	select {
	case a.replays <- struct{}{}:
		defer func() { <-a.replays }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for other questions: %w", context.Cause(ctx))
	}
	keys, err := a.bucketsOf(ctx, &q)
	if err != nil {
		return nil, err
	}
	s := sum{buckets: len(keys), minutes: make(map[int64]rollup.Minute)}
	if len(keys) == 0 { // what is not there has a source and bounds all the same
		keys = []rollup.Key{{Domain: q.limit.Domain, Gateway: q.limit.Gateway, Endpoint: q.limit.Endpoint}}
	}
	for _, key := range keys {
		answer, err := a.Seconds(ctx, SecondsQuery{key, q.from, q.to})
		if err == nil {
			err = s.add(&answer, &q.limit)
		}
		if err != nil {
			return nil, err
		}
	}
	return s.show(&q), nil
}

// bucketsOf returns what the limit would have counted by, where it was in force in this moment: not
// what other limits would have taken instead.
func (a *api) bucketsOf(ctx context.Context, q *whatIfQuery) ([]rollup.Key, error) {
	measured, err := a.Stats(ctx, q.names())
	if err != nil {
		if field, ok := errors.AsType[*limits.FieldError](err); ok && field.Field == "window" {
			err = &limits.FieldError{Field: "range", Value: field.Value, Reason: field.Reason}
		}
		return nil, err
	}
	table, err := a.with(&q.limit)
	if err != nil {
		return nil, err
	}
	list := measured.Gateways
	if q.limit.Endpoint != "" {
		list = measured.Keys
	}
	var keys []rollup.Key
	for i := range list {
		if taker(table, list[i].Key, &q.limit) == q.limit.Canonical() {
			keys = append(keys, list[i].Key)
		}
	}
	if len(keys) > mostReplayed {
		return nil, &limits.FieldError{Field: "limit", Value: quote(q.limit.Label()), Reason: fmt.Sprintf("would have had %d buckets; at most %d can be replayed", len(keys), mostReplayed)}
	}
	return keys, nil
}

// names is the question for what was measured that the limit may be for.
func (q *whatIfQuery) names() StatsQuery {
	s := StatsQuery{Window: q.span, Domain: q.limit.Domain, Stored: true}
	if q.span == 0 {
		s.From, s.To = q.from, q.to
	}
	if !isPattern(q.limit.Gateway) {
		s.Gateway = q.limit.Gateway
	}
	if !isPattern(q.limit.Endpoint) {
		s.Endpoint = q.limit.Endpoint
	}
	return s
}

func isPattern(name string) bool { return strings.Contains(name, "*") }

// with returns the limits in force with one more.
func (a *api) with(l *limits.Limit) (*limits.Table, error) {
	t := a.Current.Load()
	if t == nil {
		t = &limits.Table{}
	}
	return t.Apply([]limits.Change{{Key: l.Key, Limit: l}}, limits.Stamp{ID: t.ID()})
}

// taker is the row that counts what was measured of a key, at the level and in the window of l; the
// zero Key where there is none.
func taker(t *limits.Table, k rollup.Key, l *limits.Limit) limits.Key {
	rules := t.Rules(k.Domain, k.Gateway)
	row := rules.Gateway(l.Dim())
	if l.Endpoint != "" {
		row = nil
		if k.Endpoint != "" {
			row = rules.Endpoint(k.Endpoint, l.Dim())
		}
	}
	if row == nil {
		return limits.Key{}
	}
	return row.Canonical()
}

// sum is what a limit would have done in all of its buckets.
type sum struct {
	from, to time.Time
	source   string
	buckets  int
	rollup.Outcome
	minutes map[int64]rollup.Minute
}

func (s *sum) add(answer *SecondsAnswer, l *limits.Limit) error {
	if s.source == "" { // all buckets have the same
		s.from, s.to, s.source = answer.From, answer.To, answer.Source
	}
	if answer.Counts == nil {
		return nil
	}
	replayed := rollup.Limit{MaxTPS: l.MaxTPS, PerSeconds: l.Seconds(), Capacity: int64(l.Compile(0).Capacity()), MaxWaitMS: l.MaxWaitMS} //nolint:gosec // at most limits.MaxBurst
	o, err := rollup.WhatIf(replayed, answer.Counts)
	if err != nil {
		return err
	}
	s.Offered, s.Held = s.Offered+o.Offered, s.Held+o.Held
	s.Refused.Least, s.Refused.Estimate, s.Refused.Most = s.Refused.Least+o.Refused.Least, s.Refused.Estimate+o.Refused.Estimate, s.Refused.Most+o.Refused.Most
	for _, m := range o.Minutes {
		was := s.minutes[m.Unix]
		s.minutes[m.Unix] = rollup.Minute{Unix: m.Unix, Offered: was.Offered + m.Offered, Refused: was.Refused + m.Refused}
	}
	return nil
}

// worst are the minutes in which the most would have been refused, the worst first.
func (s *sum) worst() (all []rollup.Minute) {
	for _, m := range s.minutes {
		if m.Refused > 0 {
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b rollup.Minute) int {
		return cmp.Or(cmp.Compare(b.Refused, a.Refused), cmp.Compare(a.Unix, b.Unix))
	})
	return all[:min(len(all), worstShown)]
}
