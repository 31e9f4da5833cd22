package accesslog

import (
	"bytes"
	"math"
	"strings"
	"testing"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// decoded is what eachEntry has shown.
type decoded struct {
	entries []entry
	faults  []error
}

func decodeAll(b []byte) (d decoded) {
	v := visitor{
		entry:   func(e *entry) { d.entries = append(d.entries, *e) },
		bad:     func(err error) { d.faults = append(d.faults, err) },
		request: true,
	}
	if err := v.message(b); err != nil {
		d.faults = append(d.faults, err)
	}
	return d
}

// stockHTTP is what the protobuf library reads in an entry of HTTP.
func stockHTTP(e *logpb.HTTPAccessLogEntry) entry {
	r, out := e.GetResponse(), stockCommon(e.GetCommonProperties(), metadataNamespace)
	out.status, out.grpcHeader, out.grpcTrailer = r.GetResponseCode().GetValue(), r.GetResponseHeaders()["grpc-status"], r.GetResponseTrailers()["grpc-status"]
	out.authority, out.path = e.GetRequest().GetAuthority(), e.GetRequest().GetPath()
	if method := e.GetRequest().GetRequestMethod(); method >= corepb.RequestMethod_GET && method <= corepb.RequestMethod_PATCH {
		out.method = method.String()
	}
	return out
}

// stockTCP is what it reads in an entry of TCP.
func stockTCP(e *logpb.TCPAccessLogEntry) entry {
	out := stockCommon(e.GetCommonProperties(), tcpMetadataNamespace)
	out.tcp = true
	return out
}

func stockCommon(c *logpb.AccessLogCommon, namespace string) entry {
	fields := c.GetMetadata().GetFilterMetadata()[namespace].GetFields()
	return entry{
		logType:  int32(c.GetAccessLogType()),
		underway: c.GetIntermediateLogEntry(), //nolint:staticcheck // older Envoys have nothing else
		start:    secondsAndNanos{c.GetStartTime().GetSeconds(), c.GetStartTime().GetNanos()},
		took:     secondsAndNanos{c.GetDuration().GetSeconds(), c.GetDuration().GetNanos()},
		cluster:  c.GetUpstreamCluster(), route: c.GetRouteName(), flags: stockFlags(c.GetResponseFlags()),
		tagGateway: c.GetCustomTags()["gateway"], tagEndpoint: c.GetCustomTags()["endpoint"],
		decision: decision{
			domain: fields["domain"].GetStringValue(), gateway: fields["gateway"].GetStringValue(), endpoint: fields["endpoint"].GetStringValue(),
			throttled: fields["throttled"].GetBoolValue(), waitedMS: fields["waited_ms"].GetNumberValue(),
		},
	}
}

// stockFlags has the bit of each field that is set, those of newer Envoys included, which the library
// knows as numbers alone.
func stockFlags(f *logpb.ResponseFlags) (out responseFlags) {
	m := f.ProtoReflect()
	m.Range(func(field protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
		out |= flag(field.Number())
		return true
	})
	for b := m.GetUnknown(); len(b) > 0; {
		num, kind, n := protowire.ConsumeField(b)
		if kind == protowire.VarintType && num < 64 && m.Descriptor().Fields().ByNumber(num) == nil {
			_, _, tag := protowire.ConsumeTag(b)
			set, _ := protowire.ConsumeVarint(b[tag:])
			if out &^= flag(num); set != 0 {
				out |= flag(num)
			}
		}
		b = b[n:]
	}
	return out
}

var exactly = cmp.Options{
	cmp.AllowUnexported(entry{}, decision{}, secondsAndNanos{}),
	cmp.Comparer(func(a, b float64) bool { return math.Float64bits(a) == math.Float64bits(b) }), // NaN too
}

// assertLikeStock compares with the protobuf library wherever that takes the message. Of the two
// kinds of logs in one message it keeps the last, so such a message is left out.
func assertLikeStock(tb testing.TB, b []byte, got decoded) {
	tb.Helper()
	var m alspb.StreamAccessLogsMessage
	if proto.Unmarshal(b, &m) != nil || hasField(b, 3) && hasField(b, 2) {
		return
	}
	var want decoded
	for _, e := range m.GetHttpLogs().GetLogEntry() {
		want.entries = append(want.entries, stockHTTP(e))
	}
	for _, e := range m.GetTcpLogs().GetLogEntry() {
		want.entries = append(want.entries, stockTCP(e))
	}
	if len(got.faults) > 0 {
		tb.Errorf("message %x: faults %v, want none as the protobuf library has none", b, got.faults)
	}
	if diff := cmp.Diff(want.entries, got.entries, exactly); diff != "" {
		tb.Errorf("message %x (-protobuf library, +own):\n%s", b, diff)
	}
}

func hasField(b []byte, wanted protowire.Number) bool {
	for len(b) > 0 {
		num, _, n := protowire.ConsumeField(b)
		if n < 0 {
			return false
		}
		if num == wanted {
			return true
		}
		b = b[n:]
	}
	return false
}

// Pieces of wire format, for what no encoder makes.

func field(num protowire.Number, content ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(content, nil))
}

func text(num protowire.Number, s string) []byte { return field(num, []byte(s)) }

func varint(num protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), n)
}

func fixed64(num protowire.Number, n uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(nil, num, protowire.Fixed64Type), n)
}

// oneEntry is a message of one HTTP entry with these fields.
func oneEntry(fields ...[]byte) []byte { return field(2, field(1, fields...)) }

func common(fields ...[]byte) []byte { return field(1, fields...) }

func response(fields ...[]byte) []byte { return field(4, fields...) }

// unusual are messages that protobuf allows and no encoder makes.
func unusual() map[string][]byte {
	structField := func(name string, value ...[]byte) []byte { return field(1, text(1, name), field(2, value...)) }
	ours := func(fields ...[]byte) []byte {
		return common(field(17, field(1, text(1, metadataNamespace), field(2, fields...))))
	}
	return map[string][]byte{
		"scalars twice":                oneEntry(common(text(15, "a"), text(15, "b"), varint(33, 5), varint(33, 6))),
		"under way, and not":           oneEntry(common(varint(27, 1), varint(27, 0), varint(33, 0))),
		"messages twice":               oneEntry(common(field(5, varint(1, 7)), field(5, varint(2, 8)), field(23, varint(1, 1)), field(23, varint(2, 2))), common(text(19, "r"))),
		"a time made whole by parts":   oneEntry(common(field(5, varint(2, 5)), field(5, varint(1, 1_790_000_000)))),
		"a negative time, then a good": oneEntry(common(field(5, varint(1, math.MaxUint64), varint(2, 9)), field(5, varint(1, 12)))),
		"response twice":               oneEntry(response(field(1, varint(1, 503))), response(field(4, text(1, "grpc-status"), text(2, "3"))), response(field(1))),
		"flags twice":                  oneEntry(common(field(16, varint(12, 1), varint(3, 1)), field(16, varint(12, 0)))),
		"flags of newer Envoys":        oneEntry(common(field(16, varint(49, 1), varint(50, 1), varint(50, 0), varint(63, 9), varint(64, 1), field(51)))),
		"flags of other wire types":    oneEntry(common(field(16, field(12), varint(13, 1), field(13), fixed64(1, 1)))),
		"a tag twice":                  oneEntry(common(field(22, text(1, "gateway"), text(2, "a")), field(22, text(1, "gateway"), text(2, "b")))),
		"a tag without value":          oneEntry(common(field(22, text(1, "gateway"), text(2, "a")), field(22, text(1, "gateway")))),
		"value before key":             oneEntry(common(field(22, text(2, "a"), text(1, "endpoint")))),
		"key twice in a pair":          oneEntry(common(field(22, text(1, "endpoint"), text(2, "a"), text(1, "gateway")))),
		"entry of lists in parts":      append(field(2, field(1, common(text(15, "a")))), field(2, field(1, common(text(15, "b"))))...),
		"metadata twice":               oneEntry(ours(structField("gateway", text(3, "a"))), ours(structField("endpoint", text(3, "b")))),
		"namespace in two values":      oneEntry(common(field(17, field(1, text(1, metadataNamespace), field(2, structField("gateway", text(3, "a"))), field(2, structField("endpoint", text(3, "b"))))))),
		"field twice":                  oneEntry(ours(structField("gateway", text(3, "a")), structField("gateway", varint(4, 1)))),
		"field in two values":          oneEntry(ours(field(1, text(1, "gateway"), field(2, varint(4, 1)), field(2, text(3, "b"))))),
		"kinds one after the other":    oneEntry(ours(structField("throttled", text(3, "a"), varint(4, 1)), structField("waited_ms", fixed64(2, math.Float64bits(5)), text(3, "x")))),
		"null, struct and list last":   oneEntry(ours(structField("gateway", text(3, "a"), varint(1, 0)), structField("endpoint", text(3, "a"), field(5)), structField("domain", text(3, "a"), field(6)))),
		"other wire types":             oneEntry(common(varint(15, 1), text(33, "x"), varint(5, 1), fixed64(23, 1), varint(22, 1), varint(16, 1), varint(17, 2)), varint(4, 1), fixed64(1, 1)),
		"lists of other wire types":    append(varint(2, 1), append(fixed64(3, 1), field(2, varint(1, 1), fixed64(1, 1))...)...),
		"64-bit numbers in 32 bits":    oneEntry(common(varint(33, 1<<40|6), field(5, varint(2, 1<<35|3))), response(field(1, varint(1, 1<<32|200)))),
		"unknown fields and groups":    append(protowire.AppendTag(protowire.AppendTag(nil, 99, protowire.StartGroupType), 99, protowire.EndGroupType), oneEntry(common(text(1000, "x"), text(15, "a")))...),
		"long varints":                 {0x12, 0x84, 0x80, 0x00, 0x0a, 0x02, 0x0a, 0x00},
		"request in parts":             oneEntry(field(3, varint(1, 1), text(3, "a"), text(5, "/b")), field(3, varint(1, 3), text(5, "/c"))),
		"methods beyond all":           append(oneEntry(field(3, varint(1, 10))), oneEntry(field(3, varint(1, math.MaxUint64)))...),
		"request of other types":       oneEntry(field(3, text(1, "GET"), varint(3, 1), fixed64(5, 1)), varint(3, 1)),
		"nothing":                      nil,
		"empty parts":                  oneEntry(common(field(5), field(16), field(17, field(1)), field(22), field(23)), response(field(1), field(4), field(5))),
	}
}

func TestDecodesLikeTheProtobufLibrary(t *testing.T) {
	for name, b := range unusual() {
		t.Run(name, func(t *testing.T) {
			var m alspb.StreamAccessLogsMessage
			if err := proto.Unmarshal(b, &m); err != nil {
				t.Fatalf("message %x: the protobuf library does not take it: %v", b, err)
			}
			assertLikeStock(t, b, decodeAll(b))
		})
	}
}

// The strings of clients are the only thing in which the protobuf library is stricter.
func TestTakesInvalidUTF8(t *testing.T) {
	const raw = "caf\xe9\xff"
	b := oneEntry(
		common(text(15, raw), text(19, raw), field(22, text(1, "endpoint"), text(2, raw)), field(22, text(1, raw), text(2, raw)), text(26, raw), field(5, varint(1, uint64(started.Unix())))),
		field(3, text(3, raw), text(4, raw)),
		response(field(1, varint(1, 200)), text(6, raw)),
	)
	if proto.Unmarshal(b, new(alspb.StreamAccessLogsMessage)) == nil {
		t.Fatal("the protobuf library takes the message: this test shows nothing")
	}
	got := transactionOf(decodeOne(t, b))
	want := traffic.Transaction{Gateway: "caf\ufffd\ufffd", Endpoint: "caf\ufffd\ufffd", At: started, StatusCode: 200, Success: true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOneBadEntryCostsNoOther(t *testing.T) {
	good := func(cluster string) []byte { return field(1, common(text(15, cluster))) }
	endless := []byte{0x7a, 0x7f, 'x'} // cluster, of 127 bytes
	for name, c := range map[string]struct {
		b    []byte
		want string
		bad  int
	}{
		"cut off inside an entry":     {field(2, good("a"), field(1, field(1, endless)), good("b")), "a b", 1},
		"a varint without end":        {field(2, field(1, bytes.Repeat([]byte{0xff}, 12)), good("b")), "b", 1},
		"an end without a group":      {field(2, good("a"), field(1, protowire.AppendTag(nil, 7, protowire.EndGroupType)), good("b")), "a b", 1},
		"field number 0":              {field(2, good("a"), field(1, []byte{0x00, 0x00}), good("b")), "a b", 1},
		"a bad tag":                   {field(2, good("a"), field(1, common(field(22, endless))), good("b")), "a b", 1},
		"a bad start":                 {field(2, field(1, common(field(5, endless))), field(1, common(field(23, endless))), good("b")), "b", 2},
		"bad metadata":                {field(2, field(1, common(field(17, field(1, text(1, metadataNamespace), field(2, endless))))), good("b")), "b", 1},
		"a bad field of ours":         {field(2, field(1, common(field(17, field(1, text(1, metadataNamespace), field(2, field(1, text(1, "gateway"), field(2, endless))))))), good("b")), "b", 1},
		"a bad response":              {field(2, field(1, response(field(1, endless))), field(1, response(field(4, endless))), good("b")), "b", 2},
		"a list cut off":              {append(field(2, good("a"), []byte{0x0a, 0x7f}), field(2, good("b"))...), "a b", 1},
		"a message cut off":           {append(field(2, good("a")), 0x12, 0x7f), "a", 1},
		"all bad":                     {field(2, field(1, endless), field(1, endless)), "", 2},
		"no message at all":           {[]byte("GET / HTTP/1.1"), "", 1},
		"a list of TCP logs, cut off": {append(field(3, good("a"), []byte{0x0a, 0x7f}), field(2, good("b"))...), "a b", 1},
	} {
		got := decodeAll(c.b)
		clusters := make([]string, 0, len(got.entries))
		for _, e := range got.entries {
			clusters = append(clusters, e.cluster)
		}
		if s := strings.Join(clusters, " "); s != c.want || len(got.faults) != c.bad {
			t.Errorf("%s: read %q with %d faults %v, want %q with %d", name, s, len(got.faults), got.faults, c.want, c.bad)
		}
	}
}

// seeds are messages of every kind that the tables above have.
func seeds(tb testing.TB) [][]byte {
	tb.Helper()
	var all [][]byte
	var whole []*logpb.HTTPAccessLogEntry
	for _, cases := range [][]meaning{seen, names, outcomes, times} {
		for _, c := range cases {
			whole = append(whole, logged(c.entry...))
			all = append(all, marshal(tb, httpLogs(logged(c.entry...))))
		}
	}
	first := httpLogs(whole...)
	first.Identifier = &alspb.StreamAccessLogsMessage_Identifier{Node: &corepb.Node{Id: "edge-1", Cluster: "edge"}, LogName: "edge"}
	all = append(all, marshal(tb, first))
	for _, b := range unusual() {
		all = append(all, b)
	}
	for _, c := range connections {
		all = append(all, marshal(tb, tcpLogs(connected(c.entry...))))
	}
	tcp, cut := field(3, field(1, common(text(15, "db"))), field(1)), field(2, field(1, common(text(15, "a"))), []byte{0x0a, 0x7f})
	return append(all, tcp, append(tcp, all[0]...), cut, append(cut, all[0]...), []byte("GET / HTTP/1.1"),
		oneEntry(common(varint(27, 1))), oneEntry(common(text(15, "\xff\x00"), field(22, text(1, "endpoint"), text(2, "\xe9")))))
}

func FuzzDecodeAccessLogs(f *testing.F) {
	for _, b := range seeds(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := decodeAll(b)
		assertLikeStock(t, b, got)
		for i := range got.entries {
			assertStorable(t, transactionOf(&got.entries[i]))
		}
	})
}

// FuzzDecodeEntry puts any bytes as an entry between two good ones, which it must not touch.
func FuzzDecodeEntry(f *testing.F) {
	for _, b := range seeds(f) {
		for _, list := range fieldsOf(b, 2) {
			for _, e := range fieldsOf(list, 1) {
				f.Add(e)
			}
		}
	}
	f.Add([]byte{0x0a, 0x7f, 'x'})
	f.Fuzz(func(t *testing.T, e []byte) {
		b := field(2, field(1, common(text(15, "before"))), field(1, e), field(1, common(text(15, "after"))))
		got := decodeAll(b)
		assertLikeStock(t, b, got)
		n := len(got.entries)
		if n < 2 || n+len(got.faults) != 3 {
			t.Fatalf("entry %x between good ones: %d entries, faults %v; want three, one of which may be a fault", e, n, got.faults)
		}
		want := []entry{{cluster: "before"}, {cluster: "after"}}
		if diff := cmp.Diff(want, []entry{got.entries[0], got.entries[n-1]}, exactly); diff != "" {
			t.Errorf("entry %x: its neighbours (-want +got):\n%s", e, diff)
		}
	})
}

// fieldsOf returns the contents of a field of bytes.
func fieldsOf(b []byte, wanted protowire.Number) (all [][]byte) {
	for len(b) > 0 {
		num, kind, n := protowire.ConsumeField(b)
		if n < 0 {
			return all
		}
		if num == wanted && kind == protowire.BytesType {
			_, _, tag := protowire.ConsumeTag(b)
			content, _ := protowire.ConsumeBytes(b[tag:])
			all = append(all, content)
		}
		b = b[n:]
	}
	return all
}

// FuzzDecodeMetadata lets the fuzzer into the values that decide about names and throttling, which
// lie six messages deep.
func FuzzDecodeMetadata(f *testing.F) {
	value := func(v *structpb.Value) []byte { return marshal(f, v) }
	for _, v := range []*structpb.Value{
		structpb.NewStringValue("gw"), structpb.NewNumberValue(math.Inf(-1)), structpb.NewBoolValue(true), structpb.NewNullValue(),
		structpb.NewStructValue(&structpb.Struct{}), structpb.NewListValue(&structpb.ListValue{}),
	} {
		f.Add("gateway", value(v), "waited_ms", value(v))
	}
	f.Add("throttled", []byte{0x20, 0x01}, "gateway", text(3, "\xff"))
	f.Fuzz(func(t *testing.T, key1 string, value1 []byte, key2 string, value2 []byte) {
		b := oneEntry(common(field(17, field(1, text(1, metadataNamespace), field(2,
			field(1, text(1, key1), field(2, value1)), field(1, text(1, key2), field(2, value2)))))))
		got := decodeAll(b)
		assertLikeStock(t, b, got)
		for i := range got.entries {
			assertStorable(t, transactionOf(&got.entries[i]))
		}
	})
}

func assertStorable(tb testing.TB, t traffic.Transaction) {
	tb.Helper()
	for _, name := range []string{t.Domain, t.Gateway, t.Endpoint} {
		assertName(tb, name, name)
	}
	if t.Gateway == "" || t.Duration < 0 || t.Duration > traffic.MaxDuration || t.Waited < 0 || t.Waited > traffic.MaxWaited || t.StatusCode < 0 || t.StatusCode > 999 {
		tb.Errorf("%+v: out of bounds", t)
	}
	if !traffic.Believable(t.At, receivedAt) {
		tb.Errorf("%+v: ended at a time that is not near %s", t, receivedAt)
	}
	if t.Throttled && t.Success {
		tb.Errorf("%+v: refused, and a success", t)
	}
}
