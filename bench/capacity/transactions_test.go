package capacity_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corepb "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// batch is how many entries of this size Envoy puts into a message of 64 KiB.
const batch = 100

// entry is what Envoy logs of a request that was decided and answered.
func entry(b *testing.B, endpoint string) *logpb.HTTPAccessLogEntry {
	b.Helper()
	decision, err := structpb.NewStruct(map[string]any{"domain": "edge", "gateway": "shop", "endpoint": endpoint, "limit": "shop/" + endpoint})
	if err != nil {
		b.Fatal(err)
	}
	took := durationpb.New(25 * time.Millisecond)
	return &logpb.HTTPAccessLogEntry{
		CommonProperties: &logpb.AccessLogCommon{
			StartTime: timestamppb.Now(), Duration: took, TimeToLastRxByte: took, TimeToFirstUpstreamTxByte: took, TimeToLastUpstreamRxByte: took, TimeToLastDownstreamTxByte: took,
			UpstreamCluster: "app", RouteName: "api", AccessLogType: logpb.AccessLogType_DownstreamEnd, StreamId: "0e9d1a52-7d3b-4c53-9f0e-5f7a3b1c2d4e",
			Metadata:   &corepb.Metadata{FilterMetadata: map[string]*structpb.Struct{"envoy.filters.http.ratelimit": decision}},
			CustomTags: map[string]string{"gateway": "shop", "endpoint": endpoint},
		},
		ProtocolVersion: logpb.HTTPAccessLogEntry_HTTP11,
		Request: &logpb.HTTPRequestProperties{
			RequestMethod: corepb.RequestMethod_GET, Authority: "shop.example.com", Path: "/v1/" + endpoint, UserAgent: "Mozilla/5.0 (X11; Linux x86_64)",
			RequestId: "0e9d1a52-7d3b-4c53-9f0e-5f7a3b1c2d4e", RequestHeadersBytes: 300,
		},
		Response: &logpb.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32(200), ResponseCodeDetails: "via_upstream", ResponseBodyBytes: 1000},
	}
}

// send streams n entries, of so many endpoints in turn, as one Envoy does.
func send(b *testing.B, d *daemon, n, endpoints int) {
	b.Helper()
	stream, err := alspb.NewAccessLogServiceClient(d.dial(b, 1)[0]).StreamAccessLogs(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	for sent := 0; sent < n; sent += batch {
		entries := make([]*logpb.HTTPAccessLogEntry, batch)
		for i := range entries {
			entries[i] = entry(b, fmt.Sprintf("endpoint-%d", (sent+i)%endpoints))
		}
		message := &alspb.StreamAccessLogsMessage{LogEntries: &alspb.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alspb.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}}}
		if sent == 0 {
			message.Identifier = &alspb.StreamAccessLogsMessage_Identifier{LogName: "edge"}
		}
		if err := stream.Send(message); err != nil {
			b.Fatal(err)
		}
	}
	d.await(b, "ratelimitd_recorder_received_total", float64(n))
}

// BenchmarkSeries: metrics of names, each decided and logged.
func BenchmarkSeries(b *testing.B) {
	const names = 10_000
	for b.Loop() {
		d := start(b, template)
		first, _ := d.metrics(b)
		before := d.memory(b)
		ask(b, d, "endpoint", names)
		send(b, d, names, names)
		began := time.Now()
		series, size := d.metrics(b)
		b.ReportMetric(time.Since(began).Seconds(), "s/scrape")
		b.ReportMetric(float64(size)/1e6, "MB/scrape")
		b.ReportMetric(float64(len(first)), "series-before")
		b.ReportMetric(float64(len(series)-len(first))/names, "series/each")
		d.reportMemory(b, before, names)
	}
}

// BenchmarkQueue: memory while transactions wait, on disk, because Postgres is away.
func BenchmarkQueue(b *testing.B) {
	for b.Loop() {
		away := fmt.Sprintf("TPS_DATABASE_URL=postgres://tps@127.0.0.1:%d/tps?sslmode=disable", testenv.FreePort(b))
		d := start(b, "", away, "TPS_MAX_QUEUE_SIZE=10000000")
		send(b, d, batch, 50)
		before := d.memory(b)
		send(b, d, many, 50)
		d.await(b, `ratelimitd_spool_waiting{reader="postgres"}`, many+batch)
		d.reportMemory(b, before, many)
	}
}

// BenchmarkTransactions: rows into Postgres, as fast as they go, and what they take on its disk.
func BenchmarkTransactions(b *testing.B) {
	for b.Loop() {
		address := *database
		if address == "" {
			address = testenv.Database(b)
		}
		d := start(b, "", "TPS_DATABASE_URL="+address, "TPS_MAX_QUEUE_SIZE=10000000")
		d.await(b, "ratelimitd_postgres_up", 1)
		conn := testenv.Connect(b, address)
		const written = `ratelimitd_recorder_written_total{sink="postgres"}`
		before, _ := d.metrics(b)
		sizes := measure(b.Context(), b, conn)
		began := time.Now()
		send(b, d, *rows, 50)
		d.await(b, written, float64(*rows))
		took := time.Since(began).Seconds()
		after, _ := d.metrics(b)
		now := measure(b.Context(), b, conn)
		n := float64(*rows)
		b.ReportMetric(n/took, "transactions/s")
		b.ReportMetric((after["process_cpu_seconds_total"]-before["process_cpu_seconds_total"])/n*1e6, "µs-CPU/each")
		b.ReportMetric((now.table-sizes.table)/n, "table-B/each")
		b.ReportMetric((now.wal-sizes.wal)/n, "WAL-B/each")
		b.ReportMetric(0, "ns/op")
	}
}

// sizes are what Postgres has on disk, in bytes.
type sizes struct{ table, wal float64 }

// measure asks for all partitions with their indexes, and for the log that was written so far.
func measure(ctx context.Context, b *testing.B, conn *pgx.Conn) (s sizes) {
	b.Helper()
	err := conn.QueryRow(ctx, `SELECT sum(pg_total_relation_size(relid))::float8, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::float8
		FROM pg_partition_tree('tps_metrics')`).Scan(&s.table, &s.wal)
	if err != nil {
		b.Fatal(err)
	}
	return s
}
