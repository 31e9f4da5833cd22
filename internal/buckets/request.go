package buckets

import (
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// MaxHits is the most hits that one descriptor may ask for; the caller refuses more.
const MaxHits = 1_000_000_000

// Entry is one key and value of a descriptor. Both may be any bytes.
type Entry struct{ Key, Value string }

// Descriptor is what one RateLimitDescriptor asks for, with the request's own defaults
// already filled in.
type Descriptor struct {
	Entries []Entry // all, in their order

	Gateway     string // counts only with HasGateway; an empty one is a name
	Endpoint    string // counts only with HasEndpoint; an empty one is a name
	HasGateway  bool
	HasEndpoint bool

	Hits     uint64 // 0 = check only: refused exactly when one hit would be, charges nothing
	Negative bool   // Hits are given back; never refused

	// Override replaces the row of the endpoint level, or of the gateway level where there is
	// no endpoint: this many requests per window. OverrideWindowNS 0 = no override.
	Override         uint32
	OverrideWindowNS int64

	// Counter counts the descriptor where a file names its limit; rows do not apply then.
	Counter Counter

	// MaxWaitMS lowers how long the request may wait; negative = the descriptor says nothing.
	MaxWaitMS int64
}

// Request is one RateLimitRequest. It can be used again after Reset; what it holds is only
// read during Do or Decide (a request that waits keeps its own copy of the names).
type Request struct {
	Domain      string
	Descriptors []Descriptor

	// FromFiles: a file names the limits of the domain, so that no rows need to be loaded.
	FromFiles bool
	// ChargeEach: Engine.ChargeEach decides it, which Explain has to know.
	ChargeEach bool
}

// Code is the answer to a request or a descriptor.
type Code int

// The zero Code is no answer.
const (
	OK Code = iota + 1
	OverLimit
)

func (c Code) String() string {
	switch c {
	case OK:
		return "OK"
	case OverLimit:
		return "OVER_LIMIT"
	}
	return "UNKNOWN"
}

// Status is the answer to one descriptor.
type Status struct {
	Code Code
	// Limit is the limit that the status names, nil when none applies. Its Name is empty for
	// an override. Limits are immutable and outlive the decision.
	Limit     *limits.Limit
	Override  bool  // Limit is what the request brought along
	Shadow    bool  // Limit is in shadow mode (only when no enforced one applies)
	Remaining int64 // whole tokens left; 0 when refused and while others queue
	// ResetNS: admitted: until the bucket is full again, 0 = full. Refused: until this request
	// could pass, at least 1. limits.Never = it never can.
	ResetNS int64
	// ShadowRefused: a shadow limit would have refused (for metrics).
	ShadowRefused bool
	// Used is, for a Counter with ChargeEach, what counts once this was charged: of a fixed window also
	// what exceeds the limit.
	Used uint64
}

// Decision is the answer to a request. It can be used again: Do and Decide overwrite it, and
// allocate only when it has to grow.
type Decision struct {
	Code     Code
	Statuses []Status // one per descriptor, in order
	Held     bool     // the request had to wait
	WaitedNS int64    // how long, 0 when not held
	// BoundHit names the bound that refused the request instead of a limit: "" or "waiters".
	BoundHit string

	scratch
}
