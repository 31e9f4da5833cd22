//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	logpb "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// numbered sends access-log entries that are numbered by their duration in microseconds, from 1 on,
// over one stream after the other. Like Envoy it sends nothing again.
type numbered struct {
	gateway string
	size    int           // entries of a message
	every   time.Duration // between messages
	conn    *grpc.ClientConn

	running sync.WaitGroup
	mu      sync.Mutex
	sent    []numberedMessage
}

// numberedMessage is a message that was given to a stream.
type numberedMessage struct {
	stream    int
	first, to int       // numbers
	at        time.Time // when the stream had taken it
}

// startNumbered sends so many entries to the gRPC address, in messages of 50 and at 2,500 a second.
func startNumbered(tb testing.TB, addr, gateway string, entries int) *numbered {
	tb.Helper()
	return (&numbered{gateway: gateway, size: 50, every: 20 * time.Millisecond}).start(tb, addr, entries)
}

func (n *numbered) start(tb testing.TB, addr string, entries int) *numbered {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	n.conn = conn
	ctx := tb.Context()
	n.running.Go(func() { n.run(ctx, entries) })
	return n
}

func (n *numbered) run(ctx context.Context, entries int) {
	pace := time.NewTicker(n.every)
	defer pace.Stop()
	number, streams := 0, 0
	for number < entries && ctx.Err() == nil {
		stream, err := alspb.NewAccessLogServiceClient(n.conn).StreamAccessLogs(ctx, grpc.WaitForReady(true))
		if err != nil {
			continue
		}
		for streams++; number < entries && err == nil && ctx.Err() == nil; {
			<-pace.C
			to := min(number+n.size, entries)
			err = stream.Send(n.message(number, to))
			n.mu.Lock()
			n.sent = append(n.sent, numberedMessage{streams, number, to, time.Now()})
			n.mu.Unlock()
			number = to
		}
		if err == nil {
			_, _ = stream.CloseAndRecv() // the end of it all
		}
	}
}

func (n *numbered) message(from, to int) *alspb.StreamAccessLogsMessage {
	var entries []*logpb.HTTPAccessLogEntry
	for i := from; i < to; i++ {
		took := time.Duration(i+1) * time.Microsecond
		entries = append(entries, &logpb.HTTPAccessLogEntry{
			CommonProperties: &logpb.AccessLogCommon{
				StartTime: timestamppb.New(time.Now().Add(-took)), Duration: durationpb.New(took), AccessLogType: logpb.AccessLogType_DownstreamEnd,
				CustomTags: map[string]string{"gateway": n.gateway, "endpoint": fmt.Sprintf("e%d", i%7)},
			},
			Response: &logpb.HTTPResponseProperties{ResponseCode: wrapperspb.UInt32([]uint32{200, 503, 200}[i%3])},
		})
	}
	return &alspb.StreamAccessLogsMessage{LogEntries: &alspb.StreamAccessLogsMessage_HttpLogs{HttpLogs: &alspb.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: entries}}}
}

// stored returns how often each number of a gateway is in tps_metrics.
func (n *numbered) stored(tb testing.TB, conn *pgx.Conn) map[int]int {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), "SELECT round(duration_ms * 1000)::int FROM tps_metrics WHERE gateway = $1", n.gateway)
	if err != nil {
		tb.Fatal(err)
	}
	numbers, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		tb.Fatal(err)
	}
	times := map[int]int{}
	for _, i := range numbers {
		times[i]++
	}
	return times
}

// losable is the time from which on messages may have been lost to a kill: 100 ms before it. Where this
// process was late itself, these are as many messages as it sends in 100 ms.
func (n *numbered) losable(kill time.Time) time.Time {
	const window = 100 * time.Millisecond
	since := kill.Add(-window)
	before, _ := slices.BinarySearchFunc(n.sent, kill, func(m numberedMessage, at time.Time) int { return m.at.Compare(at) })
	if i := before - int(window/n.every); i >= 0 && n.sent[i].at.Before(since) {
		since = n.sent[i].at
	}
	return since
}

// assertStoredOnce wants each number once. What is missing must be the tail of a stream that was
// given to it at most 100 ms before a kill, or later.
func (n *numbered) assertStoredOnce(tb testing.TB, conn *pgx.Conn, kills ...time.Time) {
	tb.Helper()
	times, missing, last := n.stored(tb, conn), 0, map[int]bool{} // streams whose tail is missing
	for _, m := range slices.Backward(n.sent) {
		for i := m.to; i > m.first; i-- {
			switch {
			case times[i] > 1:
				tb.Fatalf("gateway %s: number %d is stored %d times", n.gateway, i, times[i])
			case times[i] == 1:
				last[m.stream] = true
			case last[m.stream]:
				tb.Fatalf("gateway %s: number %d is missing, though later ones of its stream are there", n.gateway, i)
			case !slices.ContainsFunc(kills, func(at time.Time) bool {
				return !m.at.Before(n.losable(at)) && m.at.Before(at.Add(5*time.Second))
			}):
				tb.Fatalf("gateway %s: number %d is missing, which was sent at %s, kills were at %v", n.gateway, i, m.at.Format(time.StampMicro), kills)
			default:
				missing++
			}
		}
	}
	tb.Logf("gateway %s: %d numbers sent, %d stored, %d missing as tails of streams that were cut", n.gateway, n.sent[len(n.sent)-1].to, len(times), missing)
}

// rollupsDiffer counts rollups of every resolution that are not the sums of tps_metrics, but for what
// double precision rounds off.
const rollupsDiffer = `
	WITH sums AS (
		SELECT resolution, date_trunc(resolution, timestamp) AS at, domain, gateway, endpoint, server_id, count(*) AS requests,
			count(*) FILTER (WHERE success) AS successes, count(*) FILTER (WHERE m.throttled) AS throttled, count(*) FILTER (WHERE waited_ms > 0) AS held,
			coalesce(sum(duration_ms) FILTER (WHERE NOT m.throttled), 0) AS duration_ms
		FROM tps_metrics m, (VALUES ('second'), ('minute'), ('hour')) AS r (resolution) GROUP BY 1, 2, 3, 4, 5, 6)
	SELECT count(*) FROM sums s FULL JOIN tps_rollups r USING (resolution, at, domain, gateway, endpoint, server_id)
	WHERE (s.requests, s.successes, s.throttled, s.held) IS DISTINCT FROM (r.requests, r.successes, r.throttled, r.held)
		OR abs(s.duration_ms - r.duration_ms) > 1e-12 * (1 + r.duration_ms) * r.requests`

// assertRollups fails the test where a rollup is not the sum of its rows.
func assertRollups(tb testing.TB, conn *pgx.Conn) {
	tb.Helper()
	var differ, rollups int
	if err := conn.QueryRow(tb.Context(), rollupsDiffer).Scan(&differ); err != nil {
		tb.Fatal(err)
	}
	if err := conn.QueryRow(tb.Context(), "SELECT count(*) FROM tps_rollups").Scan(&rollups); err != nil {
		tb.Fatal(err)
	}
	if differ != 0 || rollups == 0 {
		tb.Errorf("%d of %d rollups differ from the sums of the rows", differ, rollups)
	}
}
