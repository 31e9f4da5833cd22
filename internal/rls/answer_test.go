package rls

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// dice are numbers drawn from bytes, zeros when these are used up.
type dice struct{ b []byte }

func (d *dice) int64() int64 {
	var eight [8]byte
	d.b = d.b[copy(eight[:], d.b):]
	return int64(binary.LittleEndian.Uint64(eight[:]))
}

// bits are a few choices.
func (d *dice) bits() byte {
	if len(d.b) == 0 {
		return 0
	}
	v := d.b[0]
	d.b = d.b[1:]
	return v
}

// size is a number of 0 to 63 bits, so that small ones are as likely as large ones.
func (d *dice) size() int64 { return int64(uint64(d.int64()) >> (1 + d.bits()%63)) }

// decisionOf draws a decision for r whose limits have the given names.
func decisionOf(r *Request, names limits.Key, d *dice) *buckets.Decision {
	choice := d.bits()
	decision := &buckets.Decision{Code: buckets.OK, Held: choice&1 > 0, WaitedNS: d.size()}
	for range r.Descriptors {
		choice := d.bits()
		s := buckets.Status{Code: buckets.OK, Remaining: min(d.size(), math.MaxUint32), ResetNS: d.size()}
		if choice&1 > 0 {
			s.Code, s.Remaining = buckets.OverLimit, 0
			decision.Code = buckets.OverLimit
		}
		if choice&2 > 0 {
			s.ResetNS = limits.Never
		}
		switch {
		case choice&4 > 0:
			s.Limit, s.Override = limits.Override(uint32(d.int64()), int64(time.Minute), 1), true
		case choice&8 > 0 || s.Code == buckets.OverLimit:
			s.Limit = limits.Limit{Key: names, MaxTPS: min(d.size(), limits.MaxMaxTPS)}.Compile(1)
		}
		decision.Statuses = append(decision.Statuses, s)
	}
	return decision
}

// meant is the answer to r as DESIGN.md §5.8 says it, made of the library's own messages.
func meant(r *Request, d *buckets.Decision, withHeaders bool) *ratelimitv3.RateLimitResponse {
	m := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_Code(d.Code)}
	longest, neverPasses := int64(1), false
	for i, s := range d.Statuses {
		status := &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_Code(s.Code)}
		m.Statuses = append(m.Statuses, status)
		if s.Limit == nil {
			continue
		}
		unit := ratelimitv3.RateLimitResponse_RateLimit_SECOND
		if s.Override {
			unit = ratelimitv3.RateLimitResponse_RateLimit_Unit(r.fields[i].unit)
		}
		status.CurrentLimit = &ratelimitv3.RateLimitResponse_RateLimit{Name: s.Limit.Name(), RequestsPerUnit: uint32(s.Limit.MaxTPS), Unit: unit}
		status.LimitRemaining = uint32(s.Remaining)
		if s.ResetNS < limits.Never {
			whole := s.ResetNS / 1e9
			if s.ResetNS%1e9 > 0 {
				whole++
			}
			status.DurationUntilReset = durationpb.New(time.Duration(whole) * time.Second)
			status.DurationUntilReset.Seconds = whole // also beyond what a time.Duration holds
			status.DurationUntilReset.Nanos = 0
		}
		if s.Code == buckets.OverLimit {
			longest = max(longest, status.DurationUntilReset.GetSeconds())
			neverPasses = neverPasses || status.DurationUntilReset == nil
		}
	}
	if d.Code == buckets.OverLimit && !neverPasses {
		meantHeader(m, "retry-after", longest)
	}
	if withHeaders {
		meantLimitHeaders(m)
	}
	meantMetadata(m, r, d)
	return m
}

func meantHeader(m *ratelimitv3.RateLimitResponse, key string, value int64) {
	m.ResponseHeadersToAdd = append(m.ResponseHeadersToAdd, &corev3.HeaderValue{Key: key, Value: strconv.FormatInt(value, 10)})
}

func meantLimitHeaders(m *ratelimitv3.RateLimitResponse) {
	var least *ratelimitv3.RateLimitResponse_DescriptorStatus
	for _, s := range m.Statuses {
		if s.CurrentLimit != nil && (least == nil || s.LimitRemaining < least.LimitRemaining) {
			least = s
		}
	}
	if least == nil {
		return
	}
	meantHeader(m, "x-ratelimit-limit", int64(least.CurrentLimit.RequestsPerUnit))
	meantHeader(m, "x-ratelimit-remaining", int64(least.LimitRemaining))
	if least.DurationUntilReset != nil {
		meantHeader(m, "x-ratelimit-reset", least.DurationUntilReset.Seconds)
	}
}

func meantMetadata(m *ratelimitv3.RateLimitResponse, r *Request, d *buckets.Decision) {
	first := func(is func(i int) bool) int {
		for i := range r.Descriptors {
			if r.Descriptors[i].HasGateway && is(i) {
				return i
			}
		}
		return -1
	}
	i := first(func(i int) bool { return d.Statuses[i].Code == buckets.OverLimit })
	if i < 0 {
		i = first(func(i int) bool { return r.Descriptors[i].HasEndpoint })
	}
	if i < 0 {
		i = first(func(int) bool { return true })
	}
	if i < 0 {
		return
	}
	fields := map[string]*structpb.Value{"domain": structpb.NewStringValue(shown(r.Domain)), "gateway": structpb.NewStringValue(shown(r.Descriptors[i].Gateway))}
	if r.Descriptors[i].HasEndpoint {
		fields["endpoint"] = structpb.NewStringValue(shown(r.Descriptors[i].Endpoint))
	}
	if limit := d.Statuses[i].Limit; limit != nil {
		fields["limit"] = structpb.NewStringValue(limit.Name())
		if d.Statuses[i].Override {
			fields["limit"] = structpb.NewStringValue("override")
		}
	}
	if d.Code == buckets.OverLimit {
		fields["throttled"] = structpb.NewBoolValue(true)
	}
	if d.Held {
		fields["waited_ms"] = structpb.NewNumberValue(float64(d.WaitedNS) / 1e6)
	}
	m.DynamicMetadata = &structpb.Struct{Fields: fields}
}

// checkSafe fails where a byte of an answer could get into a header that is not ours to choose.
func checkSafe(t *testing.T, m *ratelimitv3.RateLimitResponse) {
	t.Helper()
	printable := func(s string) bool {
		return !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
	}
	for _, h := range m.ResponseHeadersToAdd {
		if !printable(h.Key) || !printable(h.Value) || h.Key == "" || h.Value == "" || len(h.RawValue) > 0 {
			t.Errorf("header %q: %q (%x): is not printable ASCII", h.Key, h.Value, h.RawValue)
		}
	}
	if len(m.RequestHeadersToAdd) > 0 || len(m.RawBody) > 0 {
		t.Errorf("request headers %v, body %q: are never sent", m.RequestHeadersToAdd, m.RawBody)
	}
	for _, s := range m.Statuses {
		if name := s.GetCurrentLimit().GetName(); !printable(name) || strings.ContainsAny(name, "\"\\") {
			t.Errorf("current_limit.name %q: is not printable ASCII without quote and backslash", name)
		}
	}
}

// FuzzEncodeAnswer makes decisions about requests of any bytes, by limits of any names, and
// compares what the stock decoder reads with what was meant.
func FuzzEncodeAnswer(f *testing.F) {
	for i, seed := range requestSeeds(f) {
		f.Add(seed, "pay", "charge", "", fmt.Appendf(nil, "%c\x00\x10\x00", i), i%2 == 0)
		f.Add(seed, "z\u00fcrich\"\\%", "a\r\nb: c", "k\xff", []byte("\x0b\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x03\x0b\x05\x07\x0f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), i%2 > 0)
	}
	f.Fuzz(func(t *testing.T, request []byte, gateway, endpoint, per string, choices []byte, withHeaders bool) {
		var r Request
		if err := r.UnmarshalWire(request); err != nil {
			t.Fatal(err)
		}
		cfg := Config{GatewayKeys: []string{"gateway", "a"}, EndpointKeys: []string{"endpoint", ""}}
		if err := r.prepare(&cfg); err != nil {
			return
		}
		if gateway == "" {
			gateway = "g" // rows have one
		}
		d := decisionOf(&r, limits.Key{Gateway: gateway, Endpoint: endpoint, Per: per}, &dice{choices})
		b := appendAnswer([]byte("before"), &r, d, withHeaders)
		var got ratelimitv3.RateLimitResponse
		if err := proto.Unmarshal(b[len("before"):], &got); err != nil {
			t.Fatalf("request %x, decision %+v: answer %x is no RateLimitResponse: %v", request, d, b, err)
		}
		if diff := cmp.Diff(meant(&r, d, withHeaders), &got, protocmp.Transform()); diff != "" || string(b[:len("before")]) != "before" {
			t.Errorf("request %x, decision %+v: answer %x, -want +got: %s", request, d, b, diff)
		}
		checkSafe(t, &got)
	})
}
