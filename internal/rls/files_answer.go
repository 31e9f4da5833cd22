package rls

import (
	"fmt"
	"maps"
	"math"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// appendFileAnswer is appendAnswer for a domain that a descriptor file names: what envoyproxy/ratelimit
// answers, byte for byte where nothing is limited.
func (s *Service) appendFileAnswer(b []byte, c *call) []byte {
	b = appendVarint(b, 1, uint64(c.decision.Code)) //nolint:gosec // OK 1, OVER_LIMIT 2, as in the protocol
	for i := range c.decision.Statuses {
		b = appendMessage(b, 2, func(b []byte) []byte { return c.appendFileStatus(b, i) })
	}
	if s.cfg.ResponseHeaders {
		b = c.appendFileHeaders(b, &s.cfg.Files)
	}
	if s.cfg.Files.Metadata {
		b = appendMessage(b, 6, c.appendFileMetadata)
	}
	return b
}

func (c *call) appendFileStatus(b []byte, i int) []byte {
	s, r := &c.decision.Statuses[i], c.matched.rules[i]
	b = appendVarint(b, 1, uint64(s.Code)) //nolint:gosec // as above
	if !r.counted() {
		if r.Rule != nil { // unlimited
			b = appendVarint(b, 3, math.MaxUint32)
		}
		return b
	}
	b = appendMessage(b, 2, func(b []byte) []byte {
		number, unit, name := c.limitOf(i)
		b = appendVarint(b, 1, uint64(number))
		b = appendVarint(b, 2, uint64(unit))
		return appendString(b, 3, name)
	})
	b = appendVarint(b, 3, uint64(s.Remaining)) //nolint:gosec // 0 to 2^32-1
	return appendReset(b, s.ResetNS)
}

// limitOf is what the status of a limited descriptor names.
func (c *call) limitOf(i int) (number, unit uint32, name string) {
	if r := c.matched.rules[i]; r.Rule != nil {
		return r.RequestsPerUnit, uint32(r.Unit), r.Label
	}
	f := &c.request.fields[i]
	return f.limit, f.unit, ""
}

// appendFileHeaders adds the headers of the status with the least remaining, the first on a tie; of the
// last one that is over and no quota, if there is one.
func (c *call) appendFileHeaders(b []byte, cfg *FileConfig) []byte {
	picked, final := -1, false
	for i := range c.decision.Statuses {
		s, r := &c.decision.Statuses[i], c.matched.rules[i]
		over := s.Code == buckets.OverLimit && !c.matched.isQuota(r, cfg)
		switch {
		case !r.counted():
		case over || picked < 0 || (!final && s.Remaining < c.decision.Statuses[picked].Remaining):
			picked, final = i, final || over
		}
	}
	if picked < 0 {
		return b
	}
	number, _, _ := c.limitOf(picked)
	s := &c.decision.Statuses[picked]
	b = appendHeader(b, cfg.Headers[0], uint64(number))
	b = appendHeader(b, cfg.Headers[1], uint64(s.Remaining)) //nolint:gosec // 0 to 2^32-1
	if s.ResetNS == limits.Never {
		return b
	}
	return appendHeader(b, cfg.Headers[2], seconds(s.ResetNS))
}

// appendFileMetadata appends the google.protobuf.Struct that says what was asked, and what the limits
// carry that have passed.
func (c *call) appendFileMetadata(b []byte) []byte {
	all := make([]any, len(c.request.Descriptors))
	metadata := map[string]any{}
	for i := range c.request.Descriptors {
		all[i] = c.describe(i)
		if r := c.matched.rules[i]; r.Rule != nil && !r.Unlimited && c.decision.Statuses[i].Code == buckets.OK {
			mergeMetadata(metadata, r.Metadata)
		}
	}
	fields := map[string]any{"domain": valid(c.request.Domain), "descriptors": all}
	if c.request.hits > 0 {
		fields["hitsAddend"] = float64(c.request.hits)
	}
	if len(metadata) > 0 {
		fields["metadata"] = metadata
	}
	m, err := structpb.NewStruct(fields)
	if err != nil { // of values that no parser lets in
		return b
	}
	out, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(b, m)
	if err != nil {
		return b
	}
	return out
}

// describe is one descriptor, as the metadata shows it.
func (c *call) describe(i int) map[string]any {
	d, f := &c.request.Descriptors[i], &c.request.fields[i]
	entries := make([]any, len(d.Entries))
	for j, e := range d.Entries {
		entries[j] = valid(e.Key) + "=" + valid(e.Value)
	}
	fields := map[string]any{"entries": entries}
	if f.hasLimit {
		text := "unit:" + descriptors.Unit(f.unit).String() //nolint:gosec // checked before
		if f.limit > 0 {
			text = fmt.Sprintf("requests_per_unit:%d %s", f.limit, text)
		}
		fields["limit"] = text // as the text of a protobuf message has it
	}
	if f.hasHits {
		fields["hitsAddend"] = float64(f.hits)
	}
	return fields
}

func valid(s string) string { return strings.ToValidUTF8(s, string(utf8.RuneError)) }

// mergeMetadata takes over what m does not say itself, in maps of maps too.
func mergeMetadata(m, more map[string]any) {
	for key, value := range more {
		mine, is := m[key].(map[string]any)
		theirs, are := value.(map[string]any)
		switch _, has := m[key]; {
		case is && are:
			mine = maps.Clone(mine) // it may be a rule's own
			mergeMetadata(mine, theirs)
			m[key] = mine
		case !has:
			m[key] = value
		}
	}
}
