package rls

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// lenientRequest is RateLimitRequest with bytes for every string: the stock decoder takes any
// bytes there, and is the oracle for what is not valid UTF-8.
func lenientRequest(tb testing.TB) protoreflect.MessageDescriptor {
	tb.Helper()
	single, repeated := descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL, descriptorpb.FieldDescriptorProto_LABEL_REPEATED
	f := func(name string, n int32, label descriptorpb.FieldDescriptorProto_Label, kind descriptorpb.FieldDescriptorProto_Type, message string) *descriptorpb.FieldDescriptorProto {
		f := &descriptorpb.FieldDescriptorProto{Name: &name, Number: &n, Label: &label, Type: &kind}
		if message != "" {
			f.TypeName = new(".lenient." + message)
		}
		return f
	}
	m := func(name string, fields ...*descriptorpb.FieldDescriptorProto) *descriptorpb.DescriptorProto {
		return &descriptorpb.DescriptorProto{Name: &name, Field: fields}
	}
	const (
		text    = descriptorpb.FieldDescriptorProto_TYPE_BYTES
		number  = descriptorpb.FieldDescriptorProto_TYPE_UINT32
		long    = descriptorpb.FieldDescriptorProto_TYPE_UINT64
		boolean = descriptorpb.FieldDescriptorProto_TYPE_BOOL
		message = descriptorpb.FieldDescriptorProto_TYPE_MESSAGE
	)
	file, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
		Name: new("lenient.proto"), Package: new("lenient"), Syntax: new("proto3"),
		MessageType: []*descriptorpb.DescriptorProto{
			m("Request", f("domain", 1, single, text, ""), f("descriptors", 2, repeated, message, "Descriptor"), f("hits", 3, single, number, "")),
			m("Descriptor", f("entries", 1, repeated, message, "Entry"), f("limit", 2, single, message, "Limit"), f("hits", 3, single, message, "Hits"), f("negative", 4, single, boolean, "")),
			m("Entry", f("key", 1, single, text, ""), f("value", 2, single, text, "")),
			m("Limit", f("number", 1, single, number, ""), f("unit", 2, single, number, "")),
			m("Hits", f("value", 1, single, long, "")),
		},
	}, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return file.Messages().ByName("Request")
}

// said is what a request says, whichever decoder read it.
type said struct {
	Domain      string
	Hits        uint32
	Descriptors []saidDescriptor
}

type saidDescriptor struct {
	Entries             [][2]string
	HasHits, HasLimit   bool
	Hits                uint64
	Negative            bool
	LimitNumber, LimitU uint32
}

func saidByUs(r *Request) said {
	s := said{Domain: r.Domain, Hits: r.hits}
	for i := range r.Descriptors {
		f := &r.fields[i]
		d := saidDescriptor{HasHits: f.hasHits, HasLimit: f.hasLimit, Hits: f.hits, Negative: f.negative, LimitNumber: f.limit, LimitU: f.unit}
		for _, e := range r.Descriptors[i].Entries {
			d.Entries = append(d.Entries, [2]string{e.Key, e.Value})
		}
		s.Descriptors = append(s.Descriptors, d)
	}
	return s
}

func saidByStock(r *ratelimitv3.RateLimitRequest) said {
	s := said{Domain: r.Domain, Hits: r.HitsAddend}
	for _, from := range r.Descriptors {
		d := saidDescriptor{
			HasHits: from.HitsAddend != nil, Hits: from.HitsAddend.GetValue(), Negative: from.IsNegativeHits,
			HasLimit: from.Limit != nil, LimitNumber: from.GetLimit().GetRequestsPerUnit(), LimitU: uint32(from.GetLimit().GetUnit()),
		}
		for _, e := range from.Entries {
			d.Entries = append(d.Entries, [2]string{e.Key, e.Value})
		}
		s.Descriptors = append(s.Descriptors, d)
	}
	return s
}

func saidByLenient(m protoreflect.Message) said {
	get := func(m protoreflect.Message, name protoreflect.Name) protoreflect.Value {
		return m.Get(m.Descriptor().Fields().ByName(name))
	}
	has := func(m protoreflect.Message, name protoreflect.Name) bool {
		return m.Has(m.Descriptor().Fields().ByName(name))
	}
	s := said{Domain: string(get(m, "domain").Bytes()), Hits: uint32(get(m, "hits").Uint())}
	list := get(m, "descriptors").List()
	for i := range list.Len() {
		from := list.Get(i).Message()
		limit := get(from, "limit").Message()
		d := saidDescriptor{
			HasHits: has(from, "hits"), Hits: get(get(from, "hits").Message(), "value").Uint(), Negative: get(from, "negative").Bool(),
			HasLimit: has(from, "limit"), LimitNumber: uint32(get(limit, "number").Uint()), LimitU: uint32(get(limit, "unit").Uint()),
		}
		entries := get(from, "entries").List()
		for j := range entries.Len() {
			e := entries.Get(j).Message()
			d.Entries = append(d.Entries, [2]string{string(get(e, "key").Bytes()), string(get(e, "value").Bytes())})
		}
		s.Descriptors = append(s.Descriptors, d)
	}
	return s
}

// requestSeeds are messages of every shape that the decoder tells apart.
func requestSeeds(tb testing.TB) [][]byte {
	tb.Helper()
	whole, err := proto.Marshal(&ratelimitv3.RateLimitRequest{Domain: "shop", HitsAddend: 7, Descriptors: []*commonv3.RateLimitDescriptor{
		{Entries: []*commonv3.RateLimitDescriptor_Entry{{Key: "gateway", Value: "pay"}, {Key: "endpoint", Value: ""}}, HitsAddend: wrapperspb.UInt64(0)},
		{Limit: &commonv3.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: 1<<32 - 1, Unit: 6}, HitsAddend: wrapperspb.UInt64(1 << 63), IsNegativeHits: true},
		{},
	}})
	if err != nil {
		tb.Fatal(err)
	}
	seeds := [][]byte{nil, whole, whole[:len(whole)-1], bytes.ReplaceAll(whole, []byte("pay"), []byte("p\xff\xc3"))}
	for _, s := range []string{
		"\x0a\x01a\x0a\x02\xff\xfe",                                    // a field that comes twice, invalid UTF-8
		"\x08\x05\x1a\x01a",                                            // known fields of other wire types
		"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",                 // a uint32 of 64 bits
		"\x18\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",             // a varint that is too long
		"\x12\x08\x12\x02\x08\x05\x12\x02\x10\x02",                     // a limit in two parts
		"\x12\x08\x1a\x02\x08\x05\x1a\x02\x10\x02",                     // hits in two parts
		"\x12\x04\x20\x80\x80\x04",                                     // a bool that is neither 0 nor 1
		"\x12\x0d\x12\x0b\x10\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", // a unit of -1
		"\x0b\x08\x01\x0c\x0a\x01a",                                    // a group
		"\x0b\x13\x14\x0c", "\x0b\x14", "\x0b", "\x0c",                 // groups in groups, of another end, without, alone
		"\x00\x01", "\x07", "\x0f", // number 0, wire types that are none
		"\xf8\xff\xff\xff\x0f\x01", "\xf8\xff\xff\xff\x1f\x01", // the largest number, the next beyond what 29 bits hold
		"\x29\x01\x02\x03\x04\x05\x06\x07\x08\x2d\x01\x02\x03\x04", // fixed64, fixed32
	} {
		seeds = append(seeds, []byte(s))
	}
	return seeds
}

// checkDecoding holds our decoder to the stock one: it takes what that takes and reads the same;
// where only the UTF-8 of a string is invalid it takes the message too, and keeps the bytes.
func checkDecoding(t *testing.T, lenient protoreflect.MessageDescriptor, b []byte) {
	t.Helper()
	var r Request
	kept := bytes.Clone(b)
	if err := r.UnmarshalWire(b); err != nil {
		t.Fatalf("%x: UnmarshalWire failed, which grpc makes an Internal error: %v", b, err)
	}
	clear(b) // the transport uses its memory again
	b = kept
	var stock ratelimitv3.RateLimitRequest
	oracle := dynamicpb.NewMessage(lenient)
	stockErr, oracleErr := proto.Unmarshal(b, &stock), proto.Unmarshal(b, oracle)
	if (r.decodingIs == nil) != (oracleErr == nil) || (stockErr == nil && r.decodingIs != nil) {
		t.Fatalf("%x: ours says %v, the stock decoder %v, with bytes for strings %v", b, r.decodingIs, stockErr, oracleErr)
	}
	if oracleErr != nil {
		return
	}
	if diff := cmp.Diff(saidByLenient(oracle), saidByUs(&r)); diff != "" {
		t.Errorf("%x, -stock with bytes for strings +ours: %s", b, diff)
	}
	if stockErr != nil {
		return
	}
	if diff := cmp.Diff(saidByStock(&stock), saidByUs(&r)); diff != "" {
		t.Errorf("%x, -stock +ours: %s", b, diff)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	lenient := lenientRequest(f)
	for _, seed := range requestSeeds(f) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, b []byte) { checkDecoding(t, lenient, b) })
}

// TestDecodeCut cuts a message of every field after each of its bytes, and spoils each byte.
func TestDecodeCut(t *testing.T) {
	lenient := lenientRequest(t)
	whole := requestSeeds(t)[1]
	for i := range whole {
		checkDecoding(t, lenient, bytes.Clone(whole[:i]))
		for _, bit := range []byte{1, 4, 0x80, 0xff} {
			b := bytes.Clone(whole)
			b[i] ^= bit
			checkDecoding(t, lenient, b)
		}
	}
}

// TestDecodeAgain decodes into a Request that held another before: nothing of it may be left.
func TestDecodeAgain(t *testing.T) {
	var used Request
	for _, first := range requestSeeds(t) {
		for _, second := range requestSeeds(t) {
			var fresh Request
			errs := errors.Join(used.UnmarshalWire(first), used.UnmarshalWire(second), fresh.UnmarshalWire(second))
			if errs != nil {
				t.Fatal(errs)
			}
			cfg := Config{GatewayKeys: []string{"gateway"}, EndpointKeys: []string{"endpoint"}}
			if used, fresh := used.prepare(&cfg), fresh.prepare(&cfg); (used == nil) != (fresh == nil) {
				t.Errorf("%x after %x: %v, fresh: %v", second, first, used, fresh)
			}
			if diff := cmp.Diff(fresh.Request, used.Request, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%x after %x, -fresh +used: %s", second, first, diff)
			}
			if diff := cmp.Diff(saidByUs(&fresh), saidByUs(&used)); diff != "" {
				t.Errorf("%x after %x, -fresh +used: %s", second, first, diff)
			}
		}
	}
}

// TestAppendMessage writes contents around each length at which a length takes one byte more.
func TestAppendMessage(t *testing.T) {
	for _, n := range []int{0, 1, 127, 128, 129, 1<<14 - 1, 1 << 14, 1<<21 - 1, 1 << 21, 1<<21 + 1, 3 << 20} {
		content := strings.Repeat("0123456", n/7+1)[:n]
		got := appendMessage([]byte("before"), 9, func(b []byte) []byte { return append(b, content...) })
		want := protowire.AppendString(protowire.AppendTag([]byte("before"), 9, protowire.BytesType), content)
		if !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %d bytes from %.20x, want %d from %.20x", n, len(got), got, len(want), want)
		}
	}
}

// TestShown cuts and cleans names.
func TestShown(t *testing.T) {
	a := func(n int) string { return strings.Repeat("a", n) }
	for _, c := range []struct{ name, want string }{
		{"", ""},
		{"pay", "pay"},
		{a(255), a(255)},
		{a(256), a(255)},
		{a(254) + "\u00e9", a(254)},
		{a(253) + "\u00e9", a(253) + "\u00e9"},
		{a(252) + "\U0001F600", a(252)},
		{"a\xffb\xc3", "a\uFFFDb\uFFFD"},
		{"\xed\xa0\x80", "\uFFFD"}, // half of a surrogate pair
		{"a\x00\r\n", "a\x00\r\n"},
	} {
		if got := shown(c.name); got != c.want {
			t.Errorf("shown(%q) = %q, want %q", c.name, got, c.want)
		}
	}
	if got := shown(strings.Repeat("\x80", 300)); got != "\uFFFD" {
		t.Errorf("shown of 300 bytes that begin no character = %q, want one U+FFFD", got)
	}
}
