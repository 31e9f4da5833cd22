//go:build e2e

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"testing"

	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// asIs sends bytes as they are.
type asIs struct{}

func (asIs) Name() string { return "proto" }

func (asIs) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}

func (asIs) Unmarshal(mem.BufferSlice, any) error { return nil }

// sendLogs sends messages over one stream, and returns when all were read.
func sendLogs(tb testing.TB, addr string, messages func(send func([]byte))) {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(asIs{})))
	if err != nil {
		tb.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	stream, err := conn.NewStream(tb.Context(), &grpc.StreamDesc{ClientStreams: true}, alspb.AccessLogService_StreamAccessLogs_FullMethodName)
	if err != nil {
		tb.Fatal(err)
	}
	messages(func(b []byte) {
		if err := stream.SendMsg(b); err != nil {
			tb.Fatalf("a message of %d bytes: %v", len(b), err)
		}
	})
	if err := stream.CloseSend(); err != nil {
		tb.Fatal(err)
	}
	var answer []byte
	if err := stream.RecvMsg(&answer); err != nil {
		tb.Fatalf("the stream ended with %v, want the empty answer", err)
	}
}

func wireField(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), bytes.Join(parts, nil))
}

func wireVarint(num protowire.Number, n uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), n)
}

// wireEntry is an HTTP entry of a gateway and endpoint, by custom tags, and more fields.
func wireEntry(gateway, endpoint string, common []byte, rest ...[]byte) []byte {
	tag := func(key, value string) []byte {
		return wireField(22, wireField(1, []byte(key)), wireField(2, []byte(value)))
	}
	return wireField(1, append([][]byte{wireField(1, tag("gateway", gateway), tag("endpoint", endpoint), common)}, rest...)...)
}

// absurd are entries that say what cannot be.
func absurd() [][]byte {
	negative := uint64(math.MaxUint64)
	return [][]byte{
		wireEntry("absurd", "duration", wireField(23, wireVarint(1, math.MaxInt64), wireVarint(2, 999_999_999))),
		wireEntry("absurd", "negative", wireField(23, wireVarint(1, negative), wireVarint(2, negative))),
		wireEntry("absurd", "future", wireField(5, wireVarint(1, 253402300799))),
		wireEntry("absurd", "past", wireField(5, wireVarint(1, 1))),
		wireEntry("absurd", "sizes", nil, wireField(3, wireVarint(10, negative), wireVarint(12, negative)), wireField(4, wireField(1, wireVarint(1, negative)), wireVarint(3, negative))),
		wireEntry("absurd", "\xff\xfe\x00\x1b[2J\r\n", nil),
		wireEntry("absurd", strings.Repeat("n", 1<<20), nil),
		wireEntry("absurd", "header", nil, wireField(3, wireField(13, wireField(1, []byte("x-large")), wireField(2, []byte(strings.Repeat("h", 10<<20)))))),
		wireField(1, []byte{0x0a, 0x7f}), // no entry
	}
}

// A hostile stream changes nothing of what is measured of others: a million names, absurd values, bytes
// that are no text, large headers.
func TestHostileAccessLogs(t *testing.T) {
	t.Parallel()
	database := testenv.Database(t)
	d := newDaemon(t, "TPS_DATABASE_URL="+database, "TPS_BATCH_SIZE=10000", "TPS_MAX_QUEUE_SIZE=1000000", "TPS_RAW_SAMPLE=0.01", "TPS_STREAM_MAX_AGE=0")
	d.start(t)
	const entries, names = 10_000, 1_000_000
	first := startNumbered(t, d.grpcAddr, "good", 500) // is known before the others come
	first.running.Wait()
	n := startNumbered(t, d.grpcAddr, "good", entries-500)
	sendLogs(t, d.grpcAddr, func(send func([]byte)) {
		var b []byte
		for i := range names {
			b = append(b, wireEntry("invented", fmt.Sprintf("name-%d", i), nil)...)
			if i%100 == 99 {
				send(wireField(2, b))
				b = nil
			}
		}
		for _, e := range absurd() {
			send(wireField(2, e))
		}
		send([]byte("GET / HTTP/1.1\r\n\r\n"))
	})
	n.running.Wait()
	d.awaitStored(t)

	if got := d.metric(t, "ratelimitd_recorder_received_total"); got != entries+names+float64(len(absurd())-1) {
		t.Errorf("%g transactions were received, want %d good, %d invented, %d absurd", got, entries, names, len(absurd())-1)
	}
	if lost := d.metric(t, "ratelimitd_spool_lost_total") + d.metric(t, "ratelimitd_recorder_dropped_total"); lost != 2 {
		t.Errorf("%g transactions were lost, want the two that are none", lost)
	}
	d.assertGood(t, entries)
	conn := testenv.Connect(t, database)
	for resolution, want := range map[string]int{"second": entries, "minute": entries, "hour": entries} {
		var requests, endpoints int
		if err := conn.QueryRow(t.Context(), "SELECT sum(requests), count(DISTINCT endpoint) FROM tps_rollups WHERE resolution = $1 AND gateway = 'good'", resolution).Scan(&requests, &endpoints); err != nil {
			t.Fatal(err)
		}
		if requests != want || endpoints != 7 {
			t.Errorf("rollups of %s have %d requests of %d endpoints, want %d of 7", resolution, requests, endpoints, want)
		}
	}
	var invented, all int
	if err := conn.QueryRow(t.Context(), "SELECT count(DISTINCT endpoint), sum(requests) FROM tps_rollups WHERE resolution = 'hour' AND gateway = 'invented'").Scan(&invented, &all); err != nil {
		t.Fatal(err)
	}
	if invented > 5001 || all != names {
		t.Errorf("%d invented endpoints with %d requests, want at most half of TPS_MAX_SERIES and one, with %d", invented, all, names)
	}
	if rss := residentMemory(t, d.server.PID()); rss > 600<<20 {
		t.Errorf("ratelimitd has %d MiB in memory", rss>>20)
	}
}

// assertGood looks at the figures of the gateway `good` in the API.
func (d *daemon) assertGood(tb testing.TB, entries int) {
	tb.Helper()
	_, body, err := d.get(tb.Context(), "/api/v1/stats?window=10m&gateway=good")
	if err != nil {
		tb.Fatal(err)
	}
	var stats struct {
		Endpoints []struct {
			Endpoint string
			Requests int
			P99MS    float64 `json:"p99_ms"`
		}
	}
	if err := json.Unmarshal([]byte(body), &stats); err != nil {
		tb.Fatalf("%s: %v", body, err)
	}
	requests := 0
	for _, e := range stats.Endpoints {
		requests += e.Requests
		if e.P99MS > 12 {
			tb.Errorf("endpoint %s has a p99 of %g ms, the longest took 9.5", e.Endpoint, e.P99MS)
		}
	}
	if requests != entries || len(stats.Endpoints) != 7 {
		tb.Errorf("%d requests of %d endpoints, want %d of 7: %s", requests, len(stats.Endpoints), entries, body)
	}
}

// residentMemory of a process, in bytes.
func residentMemory(tb testing.TB, pid int) int64 {
	tb.Helper()
	body, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		tb.Fatal(err)
	}
	var size, resident int64
	if _, err := fmt.Sscan(string(body), &size, &resident); err != nil {
		tb.Fatal(err)
	}
	return resident * int64(os.Getpagesize())
}
