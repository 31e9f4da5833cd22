package traffic_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// anyTransaction draws one as the inputs make them.
func anyTransaction(t *rapid.T) traffic.Transaction {
	name := rapid.Custom(func(t *rapid.T) string {
		return traffic.Clean(string(rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "name")))
	})
	x := traffic.Transaction{
		Domain: name.Draw(t, "domain"), Gateway: name.Draw(t, "gateway"), Endpoint: name.Draw(t, "endpoint"),
		At:         time.Unix(rapid.Int64Range(-1e9, 9e9).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanosecond")),
		Duration:   time.Duration(rapid.Int64Range(0, int64(traffic.MaxDuration)).Draw(t, "duration")),
		Waited:     time.Duration(rapid.Int64Range(0, int64(traffic.MaxWaited)).Draw(t, "waited")),
		StatusCode: rapid.Int32Range(0, 999).Draw(t, "status"),
		Throttled:  rapid.Bool().Draw(t, "throttled"),
	}
	x.Success = !x.Throttled && rapid.Bool().Draw(t, "success")
	return x
}

func encode(ts []traffic.Transaction) (b []byte) {
	for i := range ts {
		b = traffic.AppendBinary(b, &ts[i])
	}
	return b
}

func TestBinaryComesBackAsItWent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOfN(rapid.Custom(anyTransaction), 0, 20).Draw(t, "transactions")
		var d traffic.Decoder
		got, err := d.Append(nil, encode(want))
		if err != nil {
			t.Fatal(err)
		}
		if len(want) == 0 {
			want = nil
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

// However the bytes are cut, what stands before the cut is read, and the cut is an error.
func TestBinaryThatIsCut(t *testing.T) {
	t.Parallel()
	one := []traffic.Transaction{{Domain: "d", Gateway: "gw", Endpoint: "pay", At: time.Unix(1_790_000_000, 5), Duration: time.Second, StatusCode: 200, Success: true}}
	whole := encode(one)
	for cut := 1; cut < len(whole); cut++ {
		var d traffic.Decoder
		got, err := d.Append(nil, append(bytes.Clone(whole), whole[:cut]...))
		if err == nil || len(got) != 1 {
			t.Errorf("cut after %d bytes: %d transactions, error %v; want one and an error", cut, len(got), err)
		}
	}
	var d traffic.Decoder
	whole[0] |= 1 << 7
	if got, err := d.Append(nil, whole); err == nil {
		t.Errorf("a flag of a later release: read %+v, want an error", got)
	}
}

// The decoder forgets names, and never mixes them up.
func TestDecoderOfManyNames(t *testing.T) {
	t.Parallel()
	var d traffic.Decoder
	for i := range 20_000 {
		want := []traffic.Transaction{{Gateway: "gw", Endpoint: time.Duration(i).String(), At: time.Unix(1, 0)}}
		got, err := d.Append(nil, encode(want))
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("transaction %d: %v (-want +got):\n%s", i, err, diff)
		}
	}
}

func FuzzDecodeBinary(f *testing.F) {
	f.Add(encode([]traffic.Transaction{{Gateway: "gw", Endpoint: "pay", At: time.Unix(1_790_000_000, 0), Success: true}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d traffic.Decoder
		got, err := d.Append(nil, b)
		again, errAgain := d.Append(nil, encode(got))
		if diff := cmp.Diff(got, again); errAgain != nil || diff != "" {
			t.Errorf("bytes %x, error %v: read, written and read again with error %v (-first +second):\n%s", b, err, errAgain, diff)
		}
	})
}

func benchmarked() []traffic.Transaction {
	ts := make([]traffic.Transaction, 100)
	for i := range ts {
		ts[i] = traffic.Transaction{Domain: "edge", Gateway: "payments", Endpoint: "/orders/{id}", At: time.Unix(1_790_000_000, int64(i)), Duration: 25 * time.Millisecond, StatusCode: 200, Success: true}
	}
	return ts
}

func BenchmarkAppendBinary(b *testing.B) {
	ts, buf := benchmarked(), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for i := range ts {
			buf = traffic.AppendBinary(buf, &ts[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ts)), "ns/transaction")
	b.ReportMetric(float64(len(buf))/float64(len(ts)), "B/transaction")
}

func BenchmarkDecodeBinary(b *testing.B) {
	buf := encode(benchmarked())
	var d traffic.Decoder
	var ts []traffic.Transaction
	b.ReportAllocs()
	for b.Loop() {
		ts, _ = d.Append(ts[:0], buf)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ts)), "ns/transaction")
}
