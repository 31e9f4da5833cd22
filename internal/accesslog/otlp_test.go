package accesslog

import (
	"bytes"
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	resourcepb "go.opentelemetry.io/proto/otlp/resource/v1"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

const exportMethod = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"

// anyOf is an AnyValue of a Go value: text, whole number, float, truth, list of pairs, or none.
func anyOf(v any) *commonpb.AnyValue {
	switch v := v.(type) {
	case string:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_StringValue{StringValue: v}}
	case int:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_IntValue{IntValue: int64(v)}}
	case float64:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_DoubleValue{DoubleValue: v}}
	case bool:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BoolValue{BoolValue: v}}
	case []byte:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_BytesValue{BytesValue: v}}
	case []*commonpb.KeyValue:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_KvlistValue{KvlistValue: &commonpb.KeyValueList{Values: v}}}
	case []*commonpb.AnyValue:
		return &commonpb.AnyValue{Value: &commonpb.AnyValue_ArrayValue{ArrayValue: &commonpb.ArrayValue{Values: v}}}
	}
	return nil
}

// pairs are attributes: names and values in turn.
func pairs(namesAndValues ...any) (all []*commonpb.KeyValue) {
	for i := 0; i < len(namesAndValues); i += 2 {
		all = append(all, &commonpb.KeyValue{Key: namesAndValues[i].(string), Value: anyOf(namesAndValues[i+1])})
	}
	return all
}

// exported is a request of these records of one resource. An ExportLogsServiceRequest has the same wire
// format as LogsData.
func exported(resource []*commonpb.KeyValue, records ...*logspb.LogRecord) *logspb.LogsData {
	return &logspb.LogsData{ResourceLogs: []*logspb.ResourceLogs{{
		Resource:  &resourcepb.Resource{Attributes: resource},
		ScopeLogs: []*logspb.ScopeLogs{{Scope: &commonpb.InstrumentationScope{Name: "envoy"}, LogRecords: records}},
	}}}
}

// record is one that began at `started`, with attributes.
func record(namesAndValues ...any) *logspb.LogRecord {
	return &logspb.LogRecord{TimeUnixNano: uint64(started.UnixNano()), Attributes: pairs(namesAndValues...)}
}

// read is what has become of the records of a request.
type read struct {
	Transactions       []traffic.Transaction
	Malformed, Ignored int
}

func readExport(tb testing.TB, b []byte) (got read) {
	tb.Helper()
	s, err := New(Config{}, Deps{
		Record:    func(ts []traffic.Transaction) { got.Transactions = append(got.Transactions, ts...) },
		Malformed: func(error) { got.Malformed++ },
	}, prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	newExport(s).read(b, receivedAt)
	got.Ignored = int(value(tb, s.ignored))
	return got
}

// stockExport is what the protobuf library reads, through the same vocabulary.
func stockExport(data *logspb.LogsData) (want read) {
	n := namer{mapping: defaultMapping}
	for _, resource := range data.GetResourceLogs() {
		base := facts{vocabulary: &defaultMapping.vocabulary}
		stockTell(&base, resource.GetResource().GetAttributes(), nil, 0)
		for _, scope := range resource.GetScopeLogs() {
			for _, r := range scope.GetLogRecords() {
				f := base
				f.tellText(r.GetBody().GetStringValue(), nil, -1)
				stockTell(&f, r.GetBody().GetKvlistValue().GetValues(), nil, 0)
				stockTell(&f, r.GetAttributes(), nil, 0)
				want.add(&n, &f, r)
			}
		}
	}
	return want
}

func (w *read) add(n *namer, f *facts, r *logspb.LogRecord) {
	var e entry
	switch err := f.entry(&e); {
	case !f.ofRequest():
		w.Ignored++
		return
	case err != nil:
		w.Malformed++
		return
	}
	if e.start == (secondsAndNanos{}) && e.end == (secondsAndNanos{}) {
		if at := r.GetTimeUnixNano(); at != 0 {
			e.start = secondsAndNanos{int64(at / 1e9), int32(at % 1e9)}
		} else if at := r.GetObservedTimeUnixNano(); at != 0 {
			e.end = secondsAndNanos{int64(at / 1e9), int32(at % 1e9)}
		}
	}
	if !e.counted() {
		w.Ignored++
		return
	}
	w.Transactions = append(w.Transactions, n.transaction(&e, receivedAt))
}

func stockTell(f *facts, all []*commonpb.KeyValue, path []byte, depth int) {
	for _, pair := range all {
		path, ok := fold(bytes.Clone(path), pair.GetKey())
		if !ok {
			continue
		}
		var s scalar
		switch v := pair.GetValue().GetValue().(type) {
		case *commonpb.AnyValue_StringValue:
			s = textScalar(v.StringValue)
		case *commonpb.AnyValue_BoolValue:
			s = truthScalar(v.BoolValue)
		case *commonpb.AnyValue_IntValue:
			s = wholeScalar(v.IntValue)
		case *commonpb.AnyValue_DoubleValue:
			s = floatScalar(v.DoubleValue)
		case *commonpb.AnyValue_KvlistValue:
			if depth < mostNested {
				stockTell(f, v.KvlistValue.GetValues(), path, depth+1)
			}
		}
		f.tell(path, pair.GetKey(), s, -1)
	}
}

func assertLikeStockExport(tb testing.TB, b []byte, got read) {
	tb.Helper()
	var data logspb.LogsData
	if proto.Unmarshal(b, &data) != nil {
		return
	}
	if diff := cmp.Diff(stockExport(&data), got); diff != "" {
		tb.Errorf("request %x (-protobuf library, +own):\n%s", b, diff)
	}
}

// exports are requests, and what becomes of them.
func exports() map[string]struct {
	data *logspb.LogsData
	want read
} {
	// plain is a transaction of a request that took 250 ms.
	plain := func(changes ...want) traffic.Transaction {
		t := traffic.Transaction{Gateway: "app", Endpoint: "api", At: started.Add(took), Duration: took, StatusCode: 200, Success: true}
		for _, change := range changes {
			change(&t)
		}
		return t
	}
	one := func(changes ...want) read { return read{Transactions: []traffic.Transaction{plain(changes...)}} }
	texts := []any{"duration", "250", "response_code", "200", "upstream_cluster", "app", "route_name", "api", "response_flags", "-"}
	with := func(more ...any) *logspb.LogRecord { return record(append(append([]any{}, texts...), more...)...) }
	metadata := pairs("domain", "edge", "gateway", "gw-main", "endpoint", "pay", "waited_ms", 100.5, "throttled", false)
	old := with()
	old.TimeUnixNano, old.ObservedTimeUnixNano = 0, uint64(started.UnixNano())
	timeless := with()
	timeless.TimeUnixNano = 0
	return map[string]struct {
		data *logspb.LogsData
		want read
	}{
		"texts, as Envoy sends them": {exported(nil, with()), one()},
		"numbers and names of OpenTelemetry": {exported(nil, record(
			"http.response.status_code", 503, "http.server.request.duration", 0.25, "http.route", "api", "upstream_cluster", "app", "http.request.method", "GET", "url.path", "/")), one(ended(503, false))},
		"flags":                          {exported(nil, with("response_flags", "UT,RL", "response_code", "429")), one(ended(429, false), throttled)},
		"tags":                           {exported(nil, with("gateway", "gw-main", "endpoint", "pay")), one(toPay)},
		"tags of the resource":           {exported(pairs("gateway", "gw-main", "endpoint", "other"), with("endpoint", "pay")), one(toPay)},
		"tags that found nothing":        {exported(pairs("gateway", "gw-main"), with("gateway", "-", "endpoint", "pay")), one(toPay)},
		"a decision as a list":           {exported(nil, with("metadata", pairs("envoy.filters.http.ratelimit", metadata))), one(toPay, inDomain("edge"), waited(took, 100500*time.Microsecond))},
		"a decision as JSON in a text":   {exported(nil, with("envoy.filters.http.ratelimit", `{"domain":"edge","gateway":"gw-main","endpoint":"pay","throttled":true}`)), one(toPay, inDomain("edge"), throttled)},
		"a decision by single names":     {exported(nil, with("ratelimit.gateway", "gw-main", "ratelimit.endpoint", "pay")), one(toPay)},
		"the body as a list":             {exported(nil, &logspb.LogRecord{TimeUnixNano: uint64(started.UnixNano()), Body: anyOf(pairs(texts...))}), one()},
		"the body as JSON":               {exported(nil, &logspb.LogRecord{TimeUnixNano: uint64(started.UnixNano()), Body: anyOf(` {"duration":250,"response_code":200,"upstream_cluster":"app","route_name":"api"}`)}), one()},
		"attributes go before the body":  {exported(nil, &logspb.LogRecord{TimeUnixNano: uint64(started.UnixNano()), Body: anyOf(`{"duration":9,"response_code":500}`), Attributes: pairs(texts...)}), one()},
		"a body that is any text":        {exported(nil, &logspb.LogRecord{Body: anyOf("GET / 200")}), read{Ignored: 1}},
		"logs of an application":         {exported(nil, record("level", "info", "path", "/", "time", "now"), with()), read{Transactions: []traffic.Transaction{plain()}, Ignored: 1}},
		"an entry of another kind":       {exported(nil, with("access_log_type", "DownstreamPeriodic")), read{Ignored: 1}},
		"a value that cannot be":         {exported(nil, with("response_code", "much"), with()), read{Transactions: []traffic.Transaction{plain()}, Malformed: 1}},
		"NaN":                            {exported(nil, with("duration", math.NaN())), read{Malformed: 1}},
		"infinity":                       {exported(nil, with("duration", math.Inf(1))), one(at(receivedAt), func(t *traffic.Transaction) { t.Duration = traffic.MaxDuration })},
		"the time at which it was seen":  {exported(nil, old), one(at(started))},
		"no time at all":                 {exported(nil, timeless), one(at(receivedAt))},
		"a time among the attributes":    {exported(nil, with("start_time", started.Add(time.Second).UTC().Format(time.RFC3339Nano))), one(at(started.Add(time.Second + took)))},
		"values that are none":           {exported(nil, with("gateway", []byte("x"), "endpoint", []*commonpb.AnyValue{anyOf("y")}, "domain", nil)), one()},
		"deep lists":                     {exported(nil, with("_", pairs("_", pairs("_", pairs("_", pairs("_", pairs("gateway", "gw-main"))))))), one(named("gw-main", ""))},
		"lists deeper than names can be": {exported(nil, with("_", pairs("_", pairs("_", pairs("_", pairs("_", pairs("_", pairs("gateway", "h")))))))), one()},
		"two resources":                  {&logspb.LogsData{ResourceLogs: append(exported(pairs("gateway", "gw-main", "endpoint", "pay"), with()).ResourceLogs, exported(nil, with()).ResourceLogs...)}, read{Transactions: []traffic.Transaction{plain(toPay), plain()}}},
		"a TCP connection":               {exported(nil, record("duration", 250, "upstream_cluster", "app", "access_log_type", "TcpConnectionEnd")), one(named("app", ""), ended(0, true))},
		"nothing":                        {exported(nil), read{}},
	}
}

func TestExport(t *testing.T) {
	for name, c := range exports() {
		t.Run(name, func(t *testing.T) {
			b := marshal(t, c.data)
			got := readExport(t, b)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			assertLikeStockExport(t, b, got)
		})
	}
}

// A request, whatever its bytes are, is answered with an empty success, and costs no other record.
func TestExportOverTheWire(t *testing.T) {
	good := func(endpoint string) []byte {
		return marshal(t, record("duration", "1", "endpoint", endpoint))
	}
	request := func(records ...[]byte) []byte {
		var all []byte
		for _, r := range records {
			all = append(all, field(2, r)...)
		}
		return field(1, field(2, all))
	}
	attribute := func(key string, value ...[]byte) []byte {
		return field(6, text(1, key), field(2, value...))
	}
	endless := []byte{0x7a, 0x7f, 'x'}
	for name, c := range map[string]struct {
		request []byte
		want    []string
		counts  counts
	}{
		"good":                 {request(good("a"), good("b")), []string{"a", "b"}, counts{}},
		"nothing":              {nil, nil, counts{}},
		"invalid UTF-8":        {request(good("a"), append(good("b"), attribute("endpoint", text(1, "caf\xe9"))...), good("c")), []string{"a", "caf\ufffd", "c"}, counts{}},
		"invalid UTF-8 in key": {request(append(good("b"), attribute("\xff", text(1, "\xff"))...)), []string{"b"}, counts{}},
		"broken records":       {request(good("a"), endless, append(good("x"), attribute("k", endless)...), append(good("y"), field(5, endless)...), good("b")), []string{"a", "b"}, counts{Malformed: 3}},
		"a broken resource":    {append(field(1, field(1, endless), field(2, field(2, good("a")))), request(good("b"))...), []string{"a", "b"}, counts{Malformed: 1}},
		"cut off":              {append(request(good("a")), 0x0a, 0x7f), []string{"a"}, counts{Malformed: 1}},
		"a scope cut off":      {append(field(1, field(2, field(2, good("a")), endless)), request(good("b"))...), []string{"a", "b"}, counts{Malformed: 1}},
		"a resource cut off":   {append(field(1, field(2, field(2, good("a"))), endless), request(good("b"))...), []string{"a", "b"}, counts{Malformed: 1}},
		"no protobuf":          {[]byte("POST / HTTP/1.1"), nil, counts{Malformed: 1}},
		"resource at the end":  {field(1, field(2, field(2, good("a"))), field(1, field(1, text(1, "endpoint"), field(2, text(1, "b"))))), []string{"a"}, counts{}},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			for range 2 { // what is used again has forgotten the first
				var answer []byte
				if err := s.conn.Invoke(t.Context(), exportMethod, c.request, &answer); err != nil || len(answer) != 0 {
					t.Fatalf("answer %x, error %v; want an empty success", answer, err)
				}
			}
			s.assertRecorded(t, append(c.want, c.want...)...)
			if got, want := s.counts(t), (counts{2 * c.counts.Malformed, 2 * c.counts.Ignored}); got != want {
				t.Errorf("counted %+v, want %+v", got, want)
			}
		})
	}
}

// unusualExports are requests that protobuf allows and no encoder makes.
func unusualExports() map[string][]byte {
	attribute := func(parts ...[]byte) []byte { return field(6, parts...) }
	ofRecord := func(parts ...[]byte) []byte { return field(1, field(2, field(2, parts...))) }
	known := attribute(text(1, "duration"), field(2, varint(3, 5)))
	list := func(key, value string) []byte { return field(6, field(1, text(1, key), field(2, text(1, value)))) }
	return map[string][]byte{
		"key twice":                  ofRecord(known, attribute(text(1, "x"), field(2, text(1, "a")), text(1, "endpoint"))),
		"value in parts":             ofRecord(known, attribute(text(1, "endpoint"), field(2, text(1, "a")), field(2, varint(2, 1)), field(2, text(1, "b")))),
		"kinds one after the other":  ofRecord(known, attribute(text(1, "endpoint"), field(2, text(1, "a"), field(7)))),
		"text index":                 ofRecord(known, attribute(text(1, "endpoint"), field(2, text(1, "a"), varint(8, 1)))),
		"lists in parts":             ofRecord(known, attribute(text(1, "ratelimit"), field(2, list("gateway", "a")), field(2, list("endpoint", "b")))),
		"a list, a text, a list":     ofRecord(known, attribute(text(1, "ratelimit"), field(2, list("gateway", "a"), text(1, "t"), list("endpoint", "b")))),
		"a list, then nothing":       ofRecord(known, attribute(text(1, "ratelimit"), field(2, list("gateway", "a"), field(5)))),
		"body in parts":              ofRecord(known, field(5, list("gateway", "a")), field(5, list("endpoint", "b"))),
		"body before and after":      ofRecord(field(5, list("gateway", "a")), known, field(5, text(1, `{"gateway":"b"}`))),
		"an empty list":              ofRecord(known, attribute(text(1, "ratelimit"), field(2, field(6)))),
		"times twice":                ofRecord(known, fixed64(1, 5), fixed64(1, uint64(started.UnixNano())), fixed64(11, 7)),
		"times beyond all":           ofRecord(known, fixed64(1, math.MaxUint64)),
		"other wire types":           ofRecord(known, varint(1, 7), fixed64(5, 1), attribute(varint(1, 1), fixed64(2, 1)), varint(6, 1)),
		"resource in parts":          field(1, field(1, field(1, text(1, "gateway"), field(2, text(1, "a")))), field(2, field(2, known)), field(1, field(1, text(1, "endpoint"), field(2, text(1, "b"))))),
		"resource of other types":    field(1, varint(1, 1), field(2, varint(2, 1), field(2, known)), fixed64(2, 1)),
		"a truth that is many":       ofRecord(known, attribute(text(1, "throttled"), field(2, varint(2, 7)))),
		"a whole number below zero":  ofRecord(attribute(text(1, "duration"), field(2, varint(3, math.MaxUint64)))),
		"names that are separators":  ofRecord(known, attribute(text(1, "_-.:@"), field(2, list("gateway", "a")))),
		"the same name on two ways":  ofRecord(known, attribute(text(1, "endpoint"), field(2, text(1, "a"))), attribute(text(1, "End_Point"), field(2, text(1, "b")))),
		"a long name":                ofRecord(known, attribute(text(1, strings.Repeat("gateway", 50)), field(2, list("gateway", "a")))),
		"objects in texts in texts":  ofRecord(known, attribute(text(1, "metadata"), field(2, text(1, `{"ratelimit":"{\"gateway\":\"a\"}","gateway":"b"}`)))),
		"an object after its filter": ofRecord(known, attribute(text(1, "x.envoy.filters.http.ratelimit"), field(2, list("gateway", "a")))),
	}
}

func TestExportLikeTheProtobufLibrary(t *testing.T) {
	for name, b := range unusualExports() {
		t.Run(name, func(t *testing.T) {
			if err := proto.Unmarshal(b, new(logspb.LogsData)); err != nil {
				t.Fatalf("request %x: the protobuf library does not take it: %v", b, err)
			}
			got := readExport(t, b)
			if len(got.Transactions)+got.Ignored+got.Malformed != 1 {
				t.Errorf("%+v: want one record", got)
			}
			assertLikeStockExport(t, b, got)
		})
	}
}

func FuzzExport(f *testing.F) {
	for _, c := range exports() {
		f.Add(marshal(f, c.data))
	}
	for _, b := range unusualExports() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got := readExport(t, b)
		assertLikeStockExport(t, b, got)
		for _, transaction := range got.Transactions {
			assertStorable(t, transaction)
		}
	})
}

// FuzzExportAttribute lets the fuzzer into a name and a value, which lie six messages deep.
func FuzzExportAttribute(f *testing.F) {
	for _, name := range []string{"duration", "start_time", "response_flags", "metadata", "waited_ms", "success", "access_log_type"} {
		for _, v := range []any{"1", 1, 0.5, true, "RL,UF", `{"gateway":"a"}`, pairs("gateway", "b"), "2026-09-21T00:00:00Z", "DownstreamEnd"} {
			f.Add(name, marshal(f, anyOf(v)))
		}
	}
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		b := field(1, field(2, field(2, field(6, text(1, "response_code"), field(2, varint(3, 200))), field(6, text(1, name), field(2, value)))))
		got := readExport(t, b)
		assertLikeStockExport(t, b, got)
		for _, transaction := range got.Transactions {
			assertStorable(t, transaction)
		}
	})
}

// A request under way when the server stops is answered.
func TestExportWhileTheServerStops(t *testing.T) {
	s := serve(t)
	s.CloseStreams()
	var answer []byte
	if err := s.conn.Invoke(t.Context(), exportMethod, marshal(t, exported(nil, record("duration", 1))), &answer); err != nil {
		t.Fatal(err)
	}
	s.assertRecorded(t, "")
}

func BenchmarkExport(b *testing.B) {
	var records []*logspb.LogRecord
	for range batch {
		records = append(records, record("http.request.method", "GET", "url.path", "/v1/orders/7", "http.response.status_code", "200", "response_flags", "-", "duration", "25", "user_agent.original", "Mozilla/5.0 (X11; Linux x86_64)",
			"upstream_cluster", "orders", "route_name", "orders", "bytes_sent", "2048", "envoy.filters.http.ratelimit", `{"domain":"edge","gateway":"gw-main","endpoint":"orders"}`))
	}
	message := marshal(b, exported(pairs("service.name", "edge"), records...))
	s, err := New(Config{}, Deps{Record: func([]traffic.Transaction) {}, Malformed: func(err error) { b.Error(err) }}, prometheus.NewRegistry())
	if err != nil {
		b.Fatal(err)
	}
	decode := func(v any) error { return v.(*export).UnmarshalWire(message) }
	b.ReportAllocs()
	for b.Loop() {
		if _, err := exportLogs(s, context.Background(), decode, nil); err != nil {
			b.Fatal(err)
		}
	}
	perEntry(b)
}
