package rls

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tps-agent/ratelimitd/internal/buckets"
)

// invalidError is what a caller gets who sends no valid RateLimitRequest: InvalidArgument over
// gRPC, 400 over HTTP.
type invalidError struct{ error }

// Unwrap returns what is wrong.
func (e invalidError) Unwrap() error { return e.error }

// unitNS is the length of the window of an override, by envoy.type.v3.RateLimitUnit. A month
// has 30 days and a year 365, as in Envoy.
func unitNS(unit uint32) (int64, bool) {
	const day = 24 * time.Hour
	windows := [...]time.Duration{1: time.Second, 2: time.Minute, 3: time.Hour, 4: day, 5: 30 * day, 6: 365 * day}
	if unit < 1 || unit >= uint32(len(windows)) {
		return 0, false
	}
	return int64(windows[unit]), true //nolint:gosec // unit was compared with the length
}

// prepare fills what the engine asks for from what the message says, and refuses what is no
// valid request.
func (r *Request) prepare(cfg *Config) error {
	switch {
	case r.decodingIs != nil:
		return invalidError{r.decodingIs}
	case r.Domain == "":
		return invalidError{errors.New("domain is empty")}
	case len(r.Descriptors) == 0:
		return invalidError{errors.New("descriptors is empty")}
	}
	for i := range r.Descriptors {
		if err := r.prepareDescriptor(i, cfg); err != nil {
			return invalidError{fmt.Errorf("descriptors[%d].%w", i, err)}
		}
	}
	return nil
}

func (r *Request) prepareDescriptor(i int, cfg *Config) error {
	d, f := &r.Descriptors[i], &r.fields[i]
	d.Hits = max(uint64(r.hits), 1)
	field := "hits_addend (of the request)"
	if f.hasHits {
		d.Hits, field = f.hits, "hits_addend"
	}
	if d.Hits > buckets.MaxHits {
		return fmt.Errorf("%s %d: is more than %d", field, d.Hits, buckets.MaxHits)
	}
	d.Negative = f.negative
	if err := prepareLimit(d, f); err != nil {
		return err
	}
	d.Gateway, d.HasGateway = firstKey(d.Entries, cfg.GatewayKeys)
	d.Endpoint, d.HasEndpoint = firstKey(d.Entries, cfg.EndpointKeys)
	d.MaxWaitMS = maxWaitMS(d.Entries)
	return nil
}

// firstKey returns the value of the first of keys that the descriptor carries; of one that
// comes twice, the first.
func firstKey(entries []buckets.Entry, keys []string) (string, bool) {
	for _, key := range keys {
		for i := range entries {
			if entries[i].Key == key {
				return entries[i].Value, true
			}
		}
	}
	return "", false
}

// maxWaitMS is the entry that lowers how long the request may wait; -1 where there is none, or
// none that is a number.
func maxWaitMS(entries []buckets.Entry) int64 {
	for i := range entries {
		if entries[i].Key != buckets.MaxWaitKey {
			continue
		}
		if ms, err := strconv.ParseUint(entries[i].Value, 10, 63); err == nil {
			return int64(ms)
		}
		return -1
	}
	return -1
}

// prepareLimit takes over the limit that the descriptor carries. One without entries is
// unlimited, whatever it carries.
func prepareLimit(d *buckets.Descriptor, f *descriptorFields) error {
	if !f.hasLimit {
		return nil
	}
	window, ok := unitNS(f.unit)
	if !ok {
		return fmt.Errorf("limit.unit %d: is not SECOND, MINUTE, HOUR, DAY, MONTH or YEAR", f.unit)
	}
	if len(d.Entries) > 0 {
		d.Override, d.OverrideWindowNS = f.limit, window
	}
	return nil
}

// maxShown is the longest name that answers and metrics show.
const maxShown = 255

// shown cuts a name to maxShown bytes, not within a rune, and makes it valid UTF-8.
func shown(s string) string {
	if len(s) > maxShown {
		cut := maxShown
		for back := 0; back < utf8.UTFMax && cut > 0 && !utf8.RuneStart(s[cut]); back++ {
			cut--
		}
		s = s[:cut]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}
