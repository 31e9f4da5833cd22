package accesslog

import (
	"testing"
	"time"

	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// batch is how many entries of testenv.AccessLogEntry a message has.
const batch = 100

func perEntry(b *testing.B) {
	b.Helper()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*batch), "ns/entry")
}

// BenchmarkDecode compares a message in the protobuf library with the same message here.
func BenchmarkDecode(b *testing.B) {
	message := marshal(b, testenv.AccessLogMessage(0, batch))
	b.Run("stock", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var m alspb.StreamAccessLogsMessage
			if err := proto.Unmarshal(message, &m); err != nil {
				b.Fatal(err)
			}
		}
		perEntry(b)
		b.ReportMetric(float64(len(message))/batch, "wire-B/entry")
	})
	b.Run("own", func(b *testing.B) {
		b.ReportAllocs()
		v := visitor{entry: func(*entry) {}, bad: func(err error) { b.Error(err) }}
		for b.Loop() {
			if err := v.message(message); err != nil {
				b.Fatal(err)
			}
		}
		perEntry(b)
	})
}

// pathTemplates are 101 templates, one of which the entries of testenv have.
func pathTemplates() []string {
	all := []string{"/v1/orders/{id}"}
	for _, kind := range []string{"users", "carts", "files", "items", "shops", "tags", "teams", "notes", "plans", "jobs"} {
		for _, form := range []string{"", "/{id}", "/{id}/owner", "/{id}/parts", "/{id}/parts/{part}", "/latest", "/search/{rest...}", "/{id}/log/{$}", "/{id}/a/b/c", "/new"} {
			all = append(all, "/v1/"+kind+form)
		}
	}
	return all
}

// receiver is the receiving end of a stream that counts nothing.
func receiver(tb testing.TB, cfg MappingConfig) *message {
	tb.Helper()
	s, err := New(Config{Mapping: must(NewMapping(cfg))}, Deps{
		Record: func([]traffic.Transaction) {}, Malformed: func(err error) { tb.Error(err) },
	}, prometheus.NewRegistry())
	if err != nil {
		tb.Fatal(err)
	}
	return newMessage(s)
}

// BenchmarkTransaction is all that happens to a message before its transactions are counted.
func BenchmarkTransaction(b *testing.B) {
	message := marshal(b, testenv.AccessLogMessage(0, batch))
	for _, c := range []struct {
		name string
		cfg  MappingConfig
	}{
		{"default", MappingConfig{}},
		{"authority and 101 templates", MappingConfig{Gateway: []string{"authority"}, Endpoint: []string{"path"}, PathTemplates: pathTemplates()}},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := receiver(b, c.cfg)
			b.ReportAllocs()
			for b.Loop() {
				if err := m.UnmarshalWire(message); err != nil {
					b.Fatal(err)
				}
			}
			perEntry(b)
		})
	}
}

// Names that were seen before, whatever they come from, cost no memory.
func TestAllocTransactions(t *testing.T) {
	message := marshal(t, testenv.AccessLogMessage(0, batch))
	for _, cfg := range []MappingConfig{{}, {Gateway: []string{"authority"}, Endpoint: []string{"path"}, PathTemplates: pathTemplates()}} {
		m := receiver(t, cfg)
		read := func() {
			if err := m.UnmarshalWire(message); err != nil {
				t.Error(err)
			}
		}
		read()
		if allocs := testing.AllocsPerRun(100, read); allocs != 0 {
			t.Errorf("mapping %+v: %v allocations for %d entries, want none", cfg, allocs, batch)
		}
	}
}

func BenchmarkTemplates(b *testing.B) {
	t := must(newTemplates(pathTemplates()))
	for name, path := range map[string]string{"deep": "/v1/notes/4711/a/b/c", "rest": "/v1/jobs/search/a/b/c?q=1", "escaped": "/v1/%75sers/4711/parts/a%2fb", "none": "/v1/nowhere/1/2/3"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_ = t.match("GET", path)
			}
		})
	}
}

const istioLine = `{"start_time":"2026-09-21T12:13:14.123Z","method":"GET","path":"/v1/orders/4711?page=2","protocol":"HTTP/2","response_code":200,"response_flags":"-",` +
	`"response_code_details":"via_upstream","connection_termination_details":null,"upstream_transport_failure_reason":null,"bytes_received":0,"bytes_sent":2048,"duration":25,` +
	`"upstream_service_time":"24","x_forwarded_for":"203.0.113.7","user_agent":"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",` +
	`"request_id":"5f0c7a52-91c3-4b1e-8f7a-000000000017","authority":"shop.example.com","upstream_host":"10.0.3.17:8080","upstream_cluster":"outbound|80||orders.shop.svc.cluster.local",` +
	`"upstream_local_address":"10.0.0.5:40112","downstream_local_address":"10.0.0.5:443","downstream_remote_address":"203.0.113.7:51234","requested_server_name":"shop.example.com","route_name":"orders",` +
	`"ratelimit":{"domain":"edge","gateway":"gw-main","endpoint":"orders","limit":"gw-main/orders"}}`

func BenchmarkLine(b *testing.B) {
	line := []byte(istioLine)
	now := time.Date(2026, 9, 21, 12, 14, 0, 0, time.UTC)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, counted, err := defaultMapping.Line(line, now); err != nil || !counted {
			b.Fatal(err)
		}
	}
}
