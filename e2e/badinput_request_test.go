//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

const shouldRateLimit = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"

// bytesCodec sends and receives messages as they are: the protobuf library would refuse to make
// most of those below.
type bytesCodec struct{}

func (bytesCodec) Name() string { return "proto" }

func (bytesCodec) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (bytesCodec) Unmarshal(data mem.BufferSlice, v any) error {
	*v.(*[]byte) = data.Materialize()
	return nil
}

func pbMessage(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), slices.Concat(parts...))
}

func pbText(num protowire.Number, s string) []byte { return pbMessage(num, []byte(s)) }

func pbNumber(num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), v)
}

func pbDouble(num protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), math.Float64bits(v))
}

// asks is a RateLimitRequest, descriptor and entry are its parts.
func asks(domain string, parts ...[]byte) []byte {
	return slices.Concat(pbText(1, domain), slices.Concat(parts...))
}

func descriptor(parts ...[]byte) []byte { return pbMessage(2, parts...) }

func entry(key, value string) []byte { return pbMessage(1, pbText(1, key), pbText(2, value)) }

// gateway is a descriptor of a gateway, and what else parts say.
func gateway(name string, parts ...[]byte) []byte {
	return descriptor(entry("gateway", name), slices.Concat(parts...))
}

// hits and override are parts of a descriptor.
func hits(n uint64) []byte { return pbMessage(3, pbNumber(1, n)) }

func override(n, unit uint64) []byte { return pbMessage(2, pbNumber(1, n), pbNumber(2, unit)) }

// ask returns the answer to a message as told has it, or code and text of the error.
func (v *victim) ask(tb testing.TB, message []byte) string {
	tb.Helper()
	return v.call(tb, shouldRateLimit, message)
}

func (v *victim) call(tb testing.TB, method string, message []byte) string {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	return v.askFor(ctx, tb, method, message)
}

// askFor waits for the answer as long as ctx lasts.
func (v *victim) askFor(ctx context.Context, tb testing.TB, method string, message []byte) string {
	tb.Helper()
	var answer []byte
	if err := v.grpc.Invoke(ctx, method, message, &answer, grpc.ForceCodecV2(bytesCodec{})); err != nil {
		return status.Code(err).String() + ": " + status.Convert(err).Message()
	}
	var r ratelimitv3.RateLimitResponse
	if err := proto.Unmarshal(answer, &r); err != nil {
		tb.Errorf("the answer %x is no RateLimitResponse: %v", answer, err)
	}
	return told(&r)
}

// told is an answer in one line: the code, each status (equal neighbours as one), headers, metadata.
func told(r *ratelimitv3.RateLimitResponse) string {
	var b strings.Builder
	b.WriteString(r.GetOverallCode().String())
	for left := r.GetStatuses(); len(left) > 0; {
		same := 1
		for same < len(left) && proto.Equal(left[0], left[same]) {
			same++
		}
		fmt.Fprintf(&b, " {%s}", statusText(left[0]))
		if same > 1 {
			fmt.Fprintf(&b, " x %d", same)
		}
		left = left[same:]
	}
	for _, h := range r.GetResponseHeadersToAdd() {
		fmt.Fprintf(&b, " %s: %q", h.GetKey(), h.GetValue())
	}
	fields := r.GetDynamicMetadata().AsMap()
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(&b, " %s=%#v", name, fields[name])
	}
	return b.String()
}

func statusText(s *ratelimitv3.RateLimitResponse_DescriptorStatus) string {
	text := s.GetCode().String()
	if l := s.GetCurrentLimit(); l != nil {
		text += fmt.Sprintf(" %q %d/%s, %d left", l.GetName(), l.GetRequestsPerUnit(), l.GetUnit(), s.GetLimitRemaining())
	}
	if d := s.GetDurationUntilReset(); d != nil {
		text += fmt.Sprintf(", reset %ds", d.GetSeconds())
	}
	return text
}

// request is a message and its answer.
func request(name string, message []byte, want string) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		if got := v.ask(tb, message); got != want {
			tb.Errorf("got\n%s, want\n%s", got, want)
		}
	}}
}

// garbled is a message that is none. The reason is the protobuf library's, in words that change.
func garbled(name string, message []byte) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		const want = "InvalidArgument: the bytes are no envoy.service.ratelimit.v3.RateLimitRequest: "
		if got := v.ask(tb, message); !strings.HasPrefix(got, want) || len(got) > len(want)+60 {
			tb.Errorf("got %s, want %s and the reason", got, want)
		}
	}}
}

// byDefault is what the default limit answers to the first hit of a gateway.
func byDefault(shown string) string {
	return fmt.Sprintf(`OK {OK "default" 1000/SECOND, 99 left, reset 1s} domain="edge" gateway=%q limit="default"`, shown)
}

const (
	unlimited = "OK {OK}"
	badUnit   = ": is not SECOND, MINUTE, HOUR, DAY, MONTH or YEAR"
	tooMany   = ": is more than 1000000000"
)

func requestInputs() []badInput {
	return slices.Concat(requestsThatAreNone(), requestsOfOddNumbers(), requestsOfOddNames(), []badInput{
		{"a method that there is not", func(tb testing.TB, v *victim) {
			tb.Helper()
			const want = "Unimplemented: unknown method ShouldRateLimits for service envoy.service.ratelimit.v3.RateLimitService"
			if got := v.call(tb, shouldRateLimit+"s", nil); got != want {
				tb.Errorf("got %s, want %s", got, want)
			}
		}},
	})
}

func requestsThatAreNone() []badInput {
	domain, good := pbText(1, "edge"), gateway("none")
	group := func(depth int) []byte {
		return append(bytes.Repeat(protowire.AppendTag(nil, 9, protowire.StartGroupType), depth), bytes.Repeat(protowire.AppendTag(nil, 9, protowire.EndGroupType), depth)...)
	}
	return []badInput{
		request("nothing", nil, "InvalidArgument: domain is empty"),
		garbled("0xff", []byte{0xff}),
		garbled("text", []byte("GET / HTTP/1.1\r\n\r\n")),
		garbled("cut in a descriptor", asks("edge", good[:len(good)-3])),
		garbled("length beyond the end", append(domain, 0x12, 0xff, 0xff, 0xff, 0xff, 0x0f)),
		garbled("length of 64 bits", append(domain, 0x12, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)),
		garbled("number of eleven bytes", append(domain, 0x18, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01)),
		garbled("field 0", append(domain, 0x02, 0x00)),
		garbled("field 2^29", append(domain, protowire.AppendVarint(nil, 1<<29<<3)...)),
		garbled("end of no group", append(domain, protowire.AppendTag(nil, 9, protowire.EndGroupType)...)),
		garbled("wire type 6", append(domain, 9<<3|6)),
		garbled("100,000 groups within each other", append(domain, group(100_000)...)),
		garbled("entry that is cut", asks("edge", descriptor([]byte{0x0a, 0x05, 0x0a}))),
		request("no descriptors", domain, "InvalidArgument: descriptors is empty"),
		request("no domain", good, "InvalidArgument: domain is empty"),
		request("domain as a number", slices.Concat(pbNumber(1, 7), good), "InvalidArgument: domain is empty"),
		request("descriptors as a number", slices.Concat(domain, pbNumber(2, 7)), "InvalidArgument: descriptors is empty"),
		request("entries as a number", asks("edge", descriptor(pbNumber(1, 7))), unlimited),
		request("descriptor without entries", asks("edge", descriptor()), unlimited),
		request("entry without key and value", asks("edge", descriptor(pbMessage(1))), unlimited),
		request("unknown fields everywhere", asks("edge", pbText(99, "x"), group(100), descriptor(pbMessage(1, pbText(1, "gateway"), pbText(2, "unknown"), pbNumber(3, 1)), pbDouble(77, 1))), byDefault("unknown")),
		request("domain twice", slices.Concat(pbText(1, "other"), asks("edge", gateway("twice"))), byDefault("twice")),
		request("10,000 descriptors", asks("edge", bytes.Repeat(gateway("crowd"), 10_000)), strings.Replace(byDefault("crowd"), "1s}", "1s} x 10000", 1)),
		request("10,000 entries", asks("edge", gateway("long", bytes.Repeat(entry("k", "v"), 10_000))), byDefault("long")),
	}
}

func requestsOfOddNumbers() []badInput {
	limited := func(n, unit uint64) []byte { return asks("edge", gateway("override", override(n, unit))) }
	overridden := func(text string) string { return text + ` domain="edge" gateway="override" limit="override"` }
	return []badInput{
		request("hits of the request 2^32-1", asks("edge", pbNumber(3, math.MaxUint32), gateway("hits")), "InvalidArgument: descriptors[0].hits_addend (of the request) 4294967295"+tooMany),
		request("hits of the request 10^9+1", asks("edge", pbNumber(3, 1e9+1), gateway("hits")), "InvalidArgument: descriptors[0].hits_addend (of the request) 1000000001"+tooMany),
		request("hits of the request 2^32", asks("edge", pbNumber(3, 1<<32), gateway("low bits")), byDefault("low bits")),
		request("hits of the second descriptor 10^9+1", asks("edge", gateway("hits"), gateway("hits", hits(1e9+1))), "InvalidArgument: descriptors[1].hits_addend 1000000001"+tooMany),
		request("hits 2^64-1", asks("edge", gateway("hits", hits(math.MaxUint64))), "InvalidArgument: descriptors[0].hits_addend 18446744073709551615"+tooMany),
		request("refund of 2^64-1", asks("edge", gateway("hits", hits(math.MaxUint64), pbNumber(4, 1))), "InvalidArgument: descriptors[0].hits_addend 18446744073709551615"+tooMany),
		request("hits 10^9", asks("edge", gateway("billion", hits(1e9))),
			`OVER_LIMIT {OVER_LIMIT "default" 1000/SECOND, 0 left} domain="edge" gateway="billion" limit="default" throttled=true`),
		request("hits 0", asks("edge", gateway("zero", hits(0))), `OK {OK "default" 1000/SECOND, 100 left, reset 0s} domain="edge" gateway="zero" limit="default"`),
		request("hits as text", asks("edge", gateway("text", pbMessage(3, pbText(1, "5")))), `OK {OK "default" 1000/SECOND, 100 left, reset 0s} domain="edge" gateway="text" limit="default"`),
		request("refund to what is full", asks("edge", gateway("refund", hits(1e9), pbNumber(4, 1))), `OK {OK "default" 1000/SECOND, 100 left, reset 0s} domain="edge" gateway="refund" limit="default"`),
		request("override without unit", limited(5, 0), "InvalidArgument: descriptors[0].limit.unit 0"+badUnit),
		request("override of unit 7", limited(5, 7), "InvalidArgument: descriptors[0].limit.unit 7"+badUnit),
		request("override of unit -1", limited(5, math.MaxUint64), "InvalidArgument: descriptors[0].limit.unit 4294967295"+badUnit),
		request("override of unit 2^32+1", limited(5, 1<<32+1), overridden(`OK {OK "" 5/SECOND, 4 left, reset 1s}`)),
		request("override of nothing", limited(0, 1), overridden(`OVER_LIMIT {OVER_LIMIT "" 0/SECOND, 0 left}`)+" throttled=true"),
		request("override of 2^32-1 a year", limited(math.MaxUint32, 6), overridden(`OK {OK "" 4294967295/YEAR, 4294967294 left, reset 1s}`)),
		request("override of a descriptor without entries", asks("edge", descriptor(override(0, 1))), unlimited),
	}
}

func requestsOfOddNames() []badInput {
	long := strings.Repeat("n", 1<<20)
	waits := func(value string) []byte { return asks("edge", gateway("wait "+value, entry("max_wait_ms", value))) }
	return []badInput{
		request("gateway of invalid UTF-8", asks("edge", gateway("a\xff\xc0\xafb")), byDefault("a\uFFFDb")),
		request("gateway that is half a surrogate", asks("edge", gateway("\xed\xa0\x80")), byDefault("\uFFFD")),
		request("domain of invalid UTF-8", asks("\xff", gateway("bytes")), strings.Replace(byDefault("bytes"), "edge", "\uFFFD", 1)),
		request("key of invalid UTF-8", asks("edge", gateway("key", entry("\xff", "v"))), byDefault("key")),
		request("gateway with CR LF", asks("edge", gateway("a\r\nx-evil: 1")), byDefault("a\r\nx-evil: 1")),
		request("gateway with NUL", asks("edge", gateway("a\x00b")), byDefault("a\x00b")),
		request("gateway with U+202E", asks("edge", gateway("a\u202eb")), fmt.Sprintf(`OK {OK "default" 1000/SECOND, 99 left, reset 1s} domain="edge" gateway=%q limit="default"`, "a\u202eb")),
		request("empty gateway", asks("edge", gateway("")), byDefault("")),
		request("gateway that looks like a pattern", asks("edge", gateway("go*")), byDefault("go*")),
		request("gateway of another case than the row", asks("edge", gateway("GOOD", entry("endpoint", "closed"))), strings.Replace(byDefault("GOOD"), " gateway", ` endpoint="closed" gateway`, 1)),
		request("endpoint longer than a row's", asks("edge", gateway("good", entry("endpoint", "closed\x00"))), "OK {OK \"default\" 1000/SECOND, 99 left, reset 1s} domain=\"edge\" endpoint=\"closed\\x00\" gateway=\"good\" limit=\"default\""),
		request("gateway of 255 bytes", asks("edge", gateway(long[:255])), byDefault(long[:255])),
		request("gateway of 256 bytes", asks("edge", gateway(long[:256])), byDefault(long[:255])),
		request("gateway of 1 MiB", asks("edge", gateway(long)), byDefault(long[:255])),
		request("runes cut at 255 bytes", asks("edge", gateway(strings.Repeat("é", 200))), byDefault(strings.Repeat("é", 127))),
		request("5 MiB of values", asks("edge", gateway("big", bytes.Repeat(entry("k", long), 5))), byDefault("big")),
		request("gateway twice", asks("edge", descriptor(entry("gateway", "first"), entry("gateway", "second"))), byDefault("first")),
		request("wait NaN", waits("NaN"), byDefault("wait NaN")),
		request("wait -1", waits("-1"), byDefault("wait -1")),
		request("wait 1e400", waits("1e400"), byDefault("wait 1e400")),
		request("wait 2^64", waits("18446744073709551616"), byDefault("wait 18446744073709551616")),
	}
}
