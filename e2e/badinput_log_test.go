//go:build e2e

package e2e_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"google.golang.org/grpc"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const streamAccessLogs = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

// sentLog is an access-log message, and what becomes of it: rows of tps_metrics as
// domain|gateway|endpoint|duration_ms|success|status_code|throttled|waited_ms, all of them timed to
// the minute of the test; and entries that were counted as malformed or ignored.
type sentLog struct {
	name      string
	message   []byte
	rows      []string
	malformed int
	ignored   int
}

// input sends the message and a good entry after it on the same stream, which must go on.
func (c *sentLog) input() badInput {
	return badInput{c.name, func(tb testing.TB, v *victim) {
		tb.Helper()
		const malformed, ignored = `ratelimitd_recorder_dropped_total{reason="malformed"}`, "ratelimitd_recorder_ignored_total"
		before := v.metrics(tb, "ratelimitd_recorder_")
		stream := v.logStream(tb)
		for _, message := range [][]byte{c.message, httpLogs(httpEntry("marker"))} {
			if err := stream.SendMsg(message); err != nil {
				tb.Fatal(err)
			}
		}
		if err := stream.CloseSend(); err != nil {
			tb.Fatal(err)
		}
		var answer []byte
		if err := stream.RecvMsg(&answer); err != nil || len(answer) != 0 {
			tb.Errorf("the stream ends with %x, %v; want an empty message", answer, err)
		}
		got := v.takeRows(tb)
		slices.Sort(got)
		want := slices.Sorted(slices.Values(append(slices.Clone(c.rows), "|marker||0|t|200|f|0")))
		if diff := cmp.Diff(want, got); diff != "" {
			tb.Errorf("rows, want -, got +:\n%s", diff)
		}
		after := v.metrics(tb, "ratelimitd_recorder_")
		for name, n := range map[string]int{malformed: c.malformed, ignored: c.ignored, "ratelimitd_recorder_received_total": len(c.rows) + 1} {
			if got := after[name] - before[name]; got != float64(n) {
				tb.Errorf("%s went up by %g, want %d", name, got, n)
			}
		}
	}}
}

func (v *victim) logStream(tb testing.TB) grpc.ClientStream {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	tb.Cleanup(cancel)
	stream, err := v.grpc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, streamAccessLogs, grpc.ForceCodecV2(bytesCodec{}))
	if err != nil {
		tb.Fatal(err)
	}
	return stream
}

// takeRows returns the rows up to the marker, and removes them.
func (v *victim) takeRows(tb testing.TB) []string {
	tb.Helper()
	testenv.Eventually(tb, 20*time.Second, "the row of the good entry", func() error {
		if n := query[int](tb, v.stack, "SELECT count(*) FROM tps_metrics WHERE gateway = 'marker'"); n != 1 {
			return fmt.Errorf("%d rows", n)
		}
		return nil
	})
	rows, err := v.stack.conn.Query(tb.Context(), `DELETE FROM tps_metrics RETURNING
		concat_ws('|', domain, gateway, endpoint, duration_ms, success, status_code, throttled, waited_ms)
		|| CASE WHEN timestamp BETWEEN now() - interval '1 minute' AND now() + interval '1 minute' THEN '' ELSE ' at ' || timestamp END`)
	if err != nil {
		tb.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		tb.Fatal(err)
	}
	return found
}

// httpLogs is a StreamAccessLogsMessage of entries.
func httpLogs(entries ...[]byte) []byte { return pbMessage(2, entries...) }

// httpEntry is the log_entry of a request to a cluster that answered 200, and what parts of the
// common properties say.
func httpEntry(cluster string, common ...[]byte) []byte {
	return pbMessage(1, pbMessage(1, pbText(15, cluster), slices.Concat(common...)), httpStatus(200))
}

func httpStatus(code uint64) []byte { return pbMessage(4, pbMessage(1, pbNumber(1, code))) }

// lasted and began are common properties.
func lasted(seconds, nanos uint64) []byte {
	return pbMessage(23, pbNumber(1, seconds), pbNumber(2, nanos))
}

func began(seconds, nanos uint64) []byte {
	return pbMessage(5, pbNumber(1, seconds), pbNumber(2, nanos))
}

func customTag(key, value string) []byte { return pbMessage(22, pbText(1, key), pbText(2, value)) }

// decided is the metadata of our decision with one more field.
func decided(name string, value []byte) []byte {
	field := func(name string, value []byte) []byte { return pbMessage(1, pbText(1, name), pbMessage(2, value)) }
	return pbMessage(17, pbMessage(1, pbText(1, "envoy.filters.http.ratelimit"), pbMessage(2,
		field("domain", pbText(3, "edge")), field("gateway", pbText(3, "told")), field(name, value))))
}

func logInputs() []badInput {
	var inputs []badInput
	for _, c := range slices.Concat(logsOfGarbage(), logsOfOddNumbers(), logsOfOddNames()) {
		inputs = append(inputs, c.input())
	}
	return inputs
}

func logsOfGarbage() []sentLog {
	cut := httpEntry("cut")
	return []sentLog{
		{"nothing", nil, nil, 0, 0},
		{"0xff", []byte{0xff}, nil, 1, 0},
		{"text", []byte("{\"http_logs\":{}}"), nil, 1, 0},
		{"cut in an entry", httpLogs(cut[:len(cut)-2]), nil, 1, 0},
		{"cut within an entry, between good ones", httpLogs(httpEntry("one"), pbMessage(1, []byte{0x0a, 0x7f}), httpEntry("two")), []string{"|one||0|t|200|f|0", "|two||0|t|200|f|0"}, 1, 0},
		{"entries as a number", pbNumber(2, 7), nil, 0, 0},
		{"an entry as a number", pbMessage(2, pbNumber(1, 7)), nil, 0, 0},
		{"an empty entry", httpLogs(pbMessage(1)), []string{"|-||0|f|0|f|0"}, 0, 0},
		{"properties of wrong types", httpLogs(pbMessage(1, pbMessage(1, pbNumber(15, 1), pbNumber(5, 1), pbText(27, "x"), pbText(33, "x"), pbDouble(23, 1)), httpStatus(200))), []string{"|-||0|t|200|f|0"}, 0, 0},
		{"TCP entries that are garbage", pbMessage(3, pbMessage(1, []byte{0x0a, 0x7f}), []byte{0xff}), nil, 2, 0},
		{"a type of entry that there is not", httpLogs(httpEntry("typed", pbNumber(33, 99))), nil, 0, 1},
		{"a type of entry of 64 bits", httpLogs(httpEntry("typed", pbNumber(33, math.MaxUint64))), nil, 0, 1},
		{"a request that goes on", httpLogs(httpEntry("typed", pbNumber(27, 1))), nil, 0, 1},
		{"a flag far beyond those that there are", httpLogs(httpEntry("flags", pbMessage(16, pbNumber(536870911, 1)))), []string{"|flags||0|t|200|f|0"}, 0, 0},
		{"flags of a later Envoy, which may be faults", httpLogs(httpEntry("flags", pbMessage(16, pbNumber(63, 1)))), []string{"|flags||0|f|200|f|0"}, 0, 0},
		{"a flag that is garbage", httpLogs(httpEntry("flags", pbMessage(16, pbText(13, "\xff")))), []string{"|flags||0|f|200|f|0"}, 0, 0},
		{"metadata that is garbage", httpLogs(httpEntry("meta", pbMessage(17, []byte{0x0a, 0x7f}))), nil, 1, 0},
		{"metadata 5000 messages deep", httpLogs(httpEntry("deep", decided("x", deepList(5000)))), []string{"edge|told||0|t|200|f|0"}, 0, 0},
		{"a message of 5 MiB", httpLogs(httpEntry("big", pbText(99, strings.Repeat("x", 5<<20)))), []string{"|big||0|t|200|f|0"}, 0, 0},
		{"1000 garbage entries", httpLogs(bytes.Repeat(pbMessage(1, []byte{0x0a, 0x7f}), 1000)), nil, 1000, 0},
	}
}

// deepList is a google.protobuf.Value of lists within lists.
func deepList(depth int) []byte {
	var value []byte
	for range depth {
		value = pbMessage(6, pbMessage(1, value))
	}
	return value
}

func logsOfOddNumbers() []sentLog {
	const year, hold = "31622400000", "1800000"
	one := func(name string, entry []byte, row string) sentLog {
		return sentLog{name, httpLogs(entry), []string{row}, 0, 0}
	}
	withStatus := func(code uint64) []byte { return pbMessage(1, pbMessage(1, pbText(15, "code")), httpStatus(code)) }
	waited := func(value []byte) []byte { return httpEntry("x", lasted(1, 0), decided("waited_ms", value)) }
	minus := func(n uint64) uint64 { return -n }
	grpcTrailer := func(value string) []byte {
		return pbMessage(1, pbMessage(1, pbText(15, "grpc")), pbMessage(4, pbMessage(1, pbNumber(1, 200)), pbMessage(5, pbText(1, "grpc-status"), pbText(2, value))))
	}
	return []sentLog{
		one("duration -1 s", httpEntry("d", lasted(minus(1), 0)), "|d||0|t|200|f|0"),
		one("duration of -1 ns", httpEntry("d", lasted(1, minus(1))), "|d||0|t|200|f|0"),
		one("duration of 2^63-1 s", httpEntry("d", lasted(math.MaxInt64, 999_999_999)), "|d||"+year+"|t|200|f|0"),
		one("duration of 10^9 ns beside a second", httpEntry("d", lasted(1, 1e9)), "|d||0|t|200|f|0"),
		one("started before 1970", httpEntry("s", began(minus(1), 0)), "|s||0|t|200|f|0"),
		one("started after 9999", httpEntry("s", began(math.MaxInt64, 0)), "|s||0|t|200|f|0"),
		one("started ten years ago", httpEntry("s", began(uint64(time.Now().AddDate(-10, 0, 0).Unix()), 0)), "|s||0|t|200|f|0"),
		one("started in a week", httpEntry("s", began(uint64(time.Now().AddDate(0, 0, 7).Unix()), 0)), "|s||0|t|200|f|0"),
		one("status 2^32-1", withStatus(math.MaxUint32), "|code||0|f|999|f|0"),
		one("status 1", withStatus(1), "|code||0|t|1|f|0"),
		one("waited NaN", waited(pbDouble(2, math.NaN())), "edge|told||1000|t|200|f|0"),
		one("waited +Inf", waited(pbDouble(2, math.Inf(1))), "edge|told||0|t|200|f|"+hold),
		one("waited -Inf", waited(pbDouble(2, math.Inf(-1))), "edge|told||1000|t|200|f|0"),
		one("waited 1e308", waited(pbDouble(2, 1e308)), "edge|told||0|t|200|f|"+hold),
		one("waited -5", waited(pbDouble(2, -5)), "edge|told||1000|t|200|f|0"),
		one("waited more than it took", waited(pbDouble(2, 1500)), "edge|told||0|t|200|f|1500"),
		one("waited as text", waited(pbText(3, "500")), "edge|told||1000|t|200|f|0"),
		one("throttled as text", httpEntry("x", decided("throttled", pbText(3, "true"))), "edge|told||0|t|200|f|0"),
		one("grpc-status -1", grpcTrailer("-1"), "|grpc||0|f|200|f|0"),
		one("grpc-status of text", grpcTrailer("OK\xff"), "|grpc||0|f|200|f|0"),
	}
}

func logsOfOddNames() []sentLog {
	one := func(name string, entry []byte, row string) sentLog {
		return sentLog{name, httpLogs(entry), []string{row + "|0|t|200|f|0"}, 0, 0}
	}
	long := strings.Repeat("n", 300)
	return []sentLog{
		one("cluster of invalid UTF-8", httpEntry("a\xff\xfeb"), "|a\uFFFD\uFFFDb|"),
		one("cluster with NUL", httpEntry("a\x00b"), "|a\uFFFDb|"),
		one("cluster with CR LF", httpEntry("a\r\nb"), "|a\uFFFD\uFFFDb|"),
		one("cluster of 300 bytes", httpEntry(long), "|"+long[:255]+"|"),
		one("cluster of 300 bytes that are no text", httpEntry(strings.Repeat("\xff", 300)), "|"+strings.Repeat("\uFFFD", 85)+"|"),
		one("cluster that is empty", httpEntry(""), "|-|"),
		one("cluster with quote and comma", httpEntry(`a"b,'c\N`), `|a"b,'c\N|`),
		one("cluster with U+202E", httpEntry("a\u202eb"), "|a\u202eb|"),
		one("route of invalid UTF-8", httpEntry("r", pbText(19, "\xc3(")), "|r|\uFFFD("),
		one("tags of invalid UTF-8", httpEntry("t", customTag("gateway", "\xc0\xaf"), customTag("endpoint", "\xed\xa0\x80")), "|\uFFFD\uFFFD|\uFFFD\uFFFD\uFFFD"),
		one("tag without key and value", httpEntry("t", pbMessage(22)), "|t|"),
		one("tag twice", httpEntry("t", customTag("gateway", "first"), customTag("gateway", "last")), "|last|"),
		one("decision with a gateway of invalid UTF-8", httpEntry("t", decided("gateway", pbText(3, "\xffx"))), "edge|\uFFFDx|"),
		one("decision with an endpoint that is a number", httpEntry("t", decided("endpoint", pbDouble(2, 7))), "edge|told|"),
		one("decision of an empty gateway", httpEntry("t", decided("gateway", pbText(3, ""))), "edge|t|"),
	}
}
