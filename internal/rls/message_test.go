package rls_test

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

type rowOption func(*limits.Limit)

// row is a row of the domain shop. An endpoint of "" is the gateway level.
func row(gateway, endpoint string, maxTPS int64, options ...rowOption) limits.Limit {
	l := limits.Limit{Key: limits.Key{Domain: "shop", Gateway: gateway, Endpoint: endpoint}, MaxTPS: maxTPS, Enabled: true}
	for _, o := range options {
		o(&l)
	}
	return l
}

func common(l *limits.Limit)                { l.Domain = "" }
func disabled(l *limits.Limit)              { l.Enabled = false }
func shadow(l *limits.Limit)                { l.Shadow = true }
func per(key string) rowOption              { return func(l *limits.Limit) { l.Per = key } }
func burst(n int64) rowOption               { return func(l *limits.Limit) { l.Burst = n } }
func maxWait(ms int64) rowOption            { return func(l *limits.Limit) { l.MaxWaitMS = ms } }
func in(domain string) rowOption            { return func(l *limits.Limit) { l.Domain = domain } }
func rows(r ...limits.Limit) []limits.Limit { return r }

// ask is a request of the domain shop.
func ask(descriptors ...*commonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: "shop", Descriptors: descriptors}
}

func askIn(domain string, descriptors ...*commonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: domain, Descriptors: descriptors}
}

// askHits is a request whose own hits_addend is n.
func askHits(n uint32, descriptors ...*commonv3.RateLimitDescriptor) *ratelimitv3.RateLimitRequest {
	return &ratelimitv3.RateLimitRequest{Domain: "shop", HitsAddend: n, Descriptors: descriptors}
}

// d is a descriptor of keys and values in turn.
func d(keysAndValues ...string) *commonv3.RateLimitDescriptor {
	r := &commonv3.RateLimitDescriptor{}
	for i := 0; i+1 < len(keysAndValues); i += 2 {
		r.Entries = append(r.Entries, &commonv3.RateLimitDescriptor_Entry{Key: keysAndValues[i], Value: keysAndValues[i+1]})
	}
	return r
}

// gw is the descriptor of a gateway, ep that of an endpoint of it.
func gw(gateway string, more ...string) *commonv3.RateLimitDescriptor {
	return d(append([]string{"gateway", gateway}, more...)...)
}

func ep(gateway, endpoint string, more ...string) *commonv3.RateLimitDescriptor {
	return d(append([]string{"gateway", gateway, "endpoint", endpoint}, more...)...)
}

// hits is the descriptor with its own hits_addend; 0 = check only.
func hits(n uint64, r *commonv3.RateLimitDescriptor) *commonv3.RateLimitDescriptor {
	r.HitsAddend = wrapperspb.UInt64(n)
	return r
}

// back makes the descriptor give its hits back.
func back(r *commonv3.RateLimitDescriptor) *commonv3.RateLimitDescriptor {
	r.IsNegativeHits = true
	return r
}

// bring is the descriptor with a limit that it brings along.
func bring(n uint32, unit typev3.RateLimitUnit, r *commonv3.RateLimitDescriptor) *commonv3.RateLimitDescriptor {
	r.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: n, Unit: unit}
	return r
}

type part func(*ratelimitv3.RateLimitResponse)

func ok(parts ...part) *ratelimitv3.RateLimitResponse {
	return respond(ratelimitv3.RateLimitResponse_OK, parts)
}

// over is a refusal. Its metadata, if there is any, says throttled.
func over(parts ...part) *ratelimitv3.RateLimitResponse {
	r := respond(ratelimitv3.RateLimitResponse_OVER_LIMIT, parts)
	if r.DynamicMetadata != nil {
		r.DynamicMetadata.Fields["throttled"] = structpb.NewBoolValue(true)
	}
	return r
}

func respond(code ratelimitv3.RateLimitResponse_Code, parts []part) *ratelimitv3.RateLimitResponse {
	r := &ratelimitv3.RateLimitResponse{OverallCode: code}
	for _, p := range parts {
		p(r)
	}
	return r
}

// never as a number of seconds is a duration that is absent.
const never = -1

func duration(seconds int64) *durationpb.Duration {
	if seconds == never {
		return nil
	}
	return &durationpb.Duration{Seconds: seconds}
}

func current(name string, n uint32, unit ratelimitv3.RateLimitResponse_RateLimit_Unit) *ratelimitv3.RateLimitResponse_RateLimit {
	return &ratelimitv3.RateLimitResponse_RateLimit{Name: name, RequestsPerUnit: n, Unit: unit}
}

func statusOf(s *ratelimitv3.RateLimitResponse_DescriptorStatus) part {
	return func(r *ratelimitv3.RateLimitResponse) { r.Statuses = append(r.Statuses, s) }
}

// left is the status OK of a descriptor: the limit that it names, what remains, the seconds
// until the bucket is full.
func left(name string, maxTPS, remaining uint32, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OK, CurrentLimit: current(name, maxTPS, ratelimitv3.RateLimitResponse_RateLimit_SECOND),
		LimitRemaining: remaining, DurationUntilReset: duration(reset),
	})
}

// refused is the status OVER_LIMIT of a descriptor.
func refused(name string, maxTPS uint32, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OVER_LIMIT, CurrentLimit: current(name, maxTPS, ratelimitv3.RateLimitResponse_RateLimit_SECOND),
		DurationUntilReset: duration(reset),
	})
}

// leftOf and refusedOf are the same for a limit that the request brought along.
func leftOf(n uint32, unit ratelimitv3.RateLimitResponse_RateLimit_Unit, remaining uint32, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OK, CurrentLimit: current("", n, unit), LimitRemaining: remaining, DurationUntilReset: duration(reset),
	})
}

func refusedOf(n uint32, unit ratelimitv3.RateLimitResponse_RateLimit_Unit, reset int64) part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{
		Code: ratelimitv3.RateLimitResponse_OVER_LIMIT, CurrentLimit: current("", n, unit), DurationUntilReset: duration(reset),
	})
}

// free is the status of a descriptor that no limit applies to.
func free() part {
	return statusOf(&ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OK})
}

func header(key, value string) part {
	return func(r *ratelimitv3.RateLimitResponse) {
		r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, &corev3.HeaderValue{Key: key, Value: value})
	}
}

func retryAfter(seconds string) part { return header("retry-after", seconds) }

// meta is the metadata of a request of the domain shop for a gateway, or of ("gateway",
// "endpoint") with metaOf; a limit of "" is none.
func meta(gateway, limit string) part {
	return metadata("domain", "shop", "gateway", gateway, "limit", limit)
}

func metaOf(gateway, endpoint, limit string) part {
	return metadata("domain", "shop", "gateway", gateway, "endpoint", endpoint, "limit", limit)
}

func metadata(namesAndTexts ...string) part {
	return func(r *ratelimitv3.RateLimitResponse) {
		r.DynamicMetadata = &structpb.Struct{Fields: map[string]*structpb.Value{}}
		for i := 0; i+1 < len(namesAndTexts); i += 2 {
			if namesAndTexts[i] != "limit" || namesAndTexts[i+1] != "" {
				r.DynamicMetadata.Fields[namesAndTexts[i]] = structpb.NewStringValue(namesAndTexts[i+1])
			}
		}
	}
}

// waited comes after the metadata that it adds to.
func waited(wait time.Duration) part {
	return func(r *ratelimitv3.RateLimitResponse) {
		r.DynamicMetadata.Fields["waited_ms"] = structpb.NewNumberValue(float64(wait) / float64(time.Millisecond))
	}
}

// encode is proto.Marshal by hand, which takes strings that are not valid UTF-8.
func encode(r *ratelimitv3.RateLimitRequest) []byte {
	b := field(nil, 1, []byte(r.Domain))
	for _, d := range r.Descriptors {
		b = field(b, 2, encodeDescriptor(d))
	}
	return number(b, 3, uint64(r.HitsAddend))
}

func encodeDescriptor(d *commonv3.RateLimitDescriptor) []byte {
	var b []byte
	for _, e := range d.Entries {
		b = field(b, 1, field(field(nil, 1, []byte(e.Key)), 2, []byte(e.Value)))
	}
	if l := d.Limit; l != nil {
		b = field(b, 2, number(number(nil, 1, uint64(l.RequestsPerUnit)), 2, uint64(l.Unit)))
	}
	if d.HitsAddend != nil {
		b = field(b, 3, number(nil, 1, d.HitsAddend.Value))
	}
	return number(b, 4, protowire.EncodeBool(d.IsNegativeHits))
}

func field(b []byte, num protowire.Number, content []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), content)
}

func number(b []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, num, protowire.VarintType), v)
}
