package rls

import (
	"encoding/binary"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// unitOf is the envoy.service.ratelimit.v3.RateLimitResponse.RateLimit.Unit of a window, UNKNOWN
// where there is none. The units of overrides have the same numbers as those of answers.
func unitOf(l *limits.Limit) uint32 {
	const unknown, second, minute, hour, day, week = 0, 1, 2, 3, 4, 7
	switch l.Seconds() {
	case 1:
		return second
	case 60:
		return minute
	case 3600:
		return hour
	case 24 * 3600:
		return day
	case 7 * 24 * 3600:
		return week
	}
	return unknown
}

// appendAnswer appends the RateLimitResponse to a decided request, in the wire format.
func appendAnswer(b []byte, r *Request, d *buckets.Decision, withHeaders bool) []byte {
	b = appendVarint(b, 1, uint64(d.Code)) //nolint:gosec // OK 1, OVER_LIMIT 2, as in the protocol
	for i := range d.Statuses {
		b = appendMessage(b, 2, func(b []byte) []byte { return appendStatus(b, &d.Statuses[i], r.fields[i].unit) })
	}
	if after, ok := retryAfter(d); ok {
		b = appendHeader(b, "retry-after", after)
	}
	if withHeaders {
		b = appendLimitHeaders(b, d)
	}
	if i := describing(r, d); i >= 0 {
		b = appendMessage(b, 6, func(b []byte) []byte { return appendMetadata(b, r, d, i) })
	}
	return b
}

func appendStatus(b []byte, s *buckets.Status, overrideUnit uint32) []byte {
	b = appendVarint(b, 1, uint64(s.Code)) //nolint:gosec // as above
	if s.Limit == nil {
		return b
	}
	unit := unitOf(s.Limit)
	if s.Override {
		unit = overrideUnit
	}
	b = appendMessage(b, 2, func(b []byte) []byte {
		b = appendVarint(b, 1, uint64(s.Limit.MaxTPS)) //nolint:gosec // 0 to 2^32-1
		b = appendVarint(b, 2, uint64(unit))
		return appendString(b, 3, s.Limit.Name())
	})
	b = appendVarint(b, 3, uint64(min(max(s.Remaining, 0), math.MaxUint32)))
	return appendReset(b, s.ResetNS)
}

// appendReset appends duration_until_reset, which what never comes has not.
func appendReset(b []byte, ns int64) []byte {
	if ns == limits.Never {
		return b
	}
	return appendMessage(b, 4, func(b []byte) []byte { return appendVarint(b, 1, seconds(ns)) })
}

// seconds rounds up: Envoy shows only whole seconds.
func seconds(ns int64) uint64 {
	if ns <= 0 {
		return 0
	}
	return uint64((ns-1)/int64(time.Second) + 1)
}

// retryAfter is the largest wait of the refused descriptors in seconds; not ok where one of
// them can never pass, or none was refused.
func retryAfter(d *buckets.Decision) (longest uint64, ok bool) {
	if d.Code != buckets.OverLimit {
		return 0, false
	}
	longest = 1
	for i := range d.Statuses {
		if s := &d.Statuses[i]; s.Code == buckets.OverLimit {
			if s.ResetNS == limits.Never {
				return 0, false
			}
			longest = max(longest, seconds(s.ResetNS))
		}
	}
	return longest, true
}

// appendLimitHeaders adds x-ratelimit-* of the status with the least remaining, the first on
// a tie, as Envoy picks it.
func appendLimitHeaders(b []byte, d *buckets.Decision) []byte {
	var picked *buckets.Status
	for i := range d.Statuses {
		if s := &d.Statuses[i]; s.Limit != nil && (picked == nil || s.Remaining < picked.Remaining) {
			picked = s
		}
	}
	if picked == nil {
		return b
	}
	b = appendHeader(b, "x-ratelimit-limit", uint64(picked.Limit.MaxTPS))  //nolint:gosec // 0 to 2^32-1
	b = appendHeader(b, "x-ratelimit-remaining", uint64(picked.Remaining)) //nolint:gosec // 0 to 2^32-1
	if picked.ResetNS == limits.Never {
		return b
	}
	return appendHeader(b, "x-ratelimit-reset", seconds(picked.ResetNS))
}

// describing is the descriptor that the metadata tells of: the one that denies, else the first
// with an endpoint, else the first with a gateway; -1 if none has a gateway.
func describing(r *Request, d *buckets.Decision) int {
	first, endpoint := -1, -1
	for i := range r.Descriptors {
		desc := &r.Descriptors[i]
		switch {
		case !desc.HasGateway:
		case d.Statuses[i].Code == buckets.OverLimit:
			return i
		case endpoint < 0 && desc.HasEndpoint:
			endpoint = i
		case first < 0:
			first = i
		}
	}
	if endpoint >= 0 {
		return endpoint
	}
	return first
}

// appendMetadata appends the google.protobuf.Struct by which the access log later tells the
// recorder what this request was.
func appendMetadata(b []byte, r *Request, d *buckets.Decision, i int) []byte {
	desc, status := &r.Descriptors[i], &d.Statuses[i]
	b = appendStringField(b, "domain", shown(r.Domain))
	b = appendStringField(b, "gateway", shown(desc.Gateway))
	if desc.HasEndpoint {
		b = appendStringField(b, "endpoint", shown(desc.Endpoint))
	}
	switch {
	case status.Override:
		b = appendStringField(b, "limit", "override")
	case status.Limit != nil:
		b = appendStringField(b, "limit", status.Limit.Name())
	}
	if d.Code == buckets.OverLimit {
		b = appendStructField(b, "throttled", func(b []byte) []byte { return appendVarint(b, 4, 1) })
	}
	if d.Held {
		waitedMS := float64(d.WaitedNS) / float64(time.Millisecond)
		b = appendStructField(b, "waited_ms", func(b []byte) []byte {
			return protowire.AppendFixed64(protowire.AppendTag(b, 2, protowire.Fixed64Type), math.Float64bits(waitedMS))
		})
	}
	return b
}

func appendStringField(b []byte, name, s string) []byte {
	return appendStructField(b, name, func(b []byte) []byte {
		return protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), s)
	})
}

func appendStructField(b []byte, name string, value func([]byte) []byte) []byte {
	return appendMessage(b, 1, func(b []byte) []byte {
		return appendMessage(appendString(b, 1, name), 2, value)
	})
}

// appendHeader appends a header whose value is a number, as all are.
func appendHeader(b []byte, name string, value uint64) []byte {
	return appendMessage(b, 3, func(b []byte) []byte {
		return appendMessage(appendString(b, 1, name), 2, func(b []byte) []byte { return strconv.AppendUint(b, value, 10) })
	})
}

// appendVarint appends a field, or nothing for 0, which is the same in proto3.
func appendVarint(b []byte, num protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}

func appendString(b []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return b
	}
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), s)
}

// appendMessage appends a field whose content body appends. Its length is not known before, so
// room is kept for a length of up to three bytes, and what is not needed is closed again.
func appendMessage(b []byte, num protowire.Number, body func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, num, protowire.BytesType)
	start := len(b)
	b = body(append(b, 0, 0, 0))
	var length [binary.MaxVarintLen64]byte
	n := binary.PutUvarint(length[:], uint64(len(b)-start-3)) //nolint:gosec // never negative
	if n > 3 {                                                // over 2 MiB
		b = append(b, length[:n-3]...)
		copy(b[start+n:], b[start+3:len(b)-(n-3)])
	} else {
		b = append(b[:start+n], b[start+3:]...)
	}
	copy(b[start:], length[:n])
	return b
}
