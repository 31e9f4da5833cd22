package admin_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// However small a body was made, what it costs is bounded.
func TestTransactionsThatUnpackToTooMuch(t *testing.T) {
	k := &keeper{}
	s := k.start(t)
	const much = 34 << 20
	for name, c := range map[string]struct {
		kind, start, repeated, detail string
	}{
		"blank lines":          {ndjson, "", strings.Repeat(" ", 15) + "\n", "body: is over 33554432 bytes unpacked"},
		"one line":             {ndjson, "", " ", "body: is over 33554432 bytes unpacked"},
		"one text":             {"application/json", `{"gateway":"`, "a", "body: is over 33554432 bytes unpacked"},
		"one array":            {"application/json", `[`, "[", "body: "},
		"transactions":         {ndjson, "", `{"gateway":"a"}` + "\n", "has too many transactions: at most 100000 are taken at once"},
		"transactions in JSON": {"application/json", "[" + `{"gateway":"a"}`, `,{"gateway":"a"}`, "has too many transactions: at most 100000 are taken at once"},
	} {
		packed := bomb(t, c.start, c.repeated, much)
		if len(packed) > 1<<20 {
			t.Fatalf("%s: %d bytes are sent", name, len(packed))
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		got := s.do(t, post("", c.kind, packed).with("Content-Encoding", "gzip"))
		runtime.ReadMemStats(&after)
		if got.code != http.StatusRequestEntityTooLarge && name != "one array" || !strings.Contains(got.body, c.detail) || got.code == http.StatusOK {
			t.Errorf("%s: %d %s, want 413 %s", name, got.code, got.body, c.detail)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
	}
	if len(k.recorded) > 0 {
		t.Errorf("%d were recorded", len(k.recorded))
	}
}

func bomb(tb testing.TB, start, repeated string, size int) string {
	tb.Helper()
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = io.WriteString(z, start)
	const at = 1 << 16
	for chunk := strings.Repeat(repeated, at); size > 0 && err == nil; size -= len(chunk) {
		_, err = io.WriteString(z, chunk)
	}
	if err := errors.Join(err, z.Close()); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// FuzzTransactions: a body is taken if and only if each of its parts is a transaction, and then all are.
func FuzzTransactions(f *testing.F) {
	for _, seed := range []string{
		"[]", "[" + one + "," + two + "]", `{"transactions":[` + one + `]}`, `{"transactions":[` + one + `],"a":1}`, one, one + "\n" + two, "\n\r\n" + one + "\r\n", "[" + one, `[[{"gateway":"}"}]]`, "{\"transactions\" :\n[] } ", "null", "{}x", "[]]",
	} {
		f.Add([]byte(fresh(seed)))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		for kind, oracle := range map[string]func([]byte) (parts [][]byte, ok bool){"application/json": partsOfJSON, ndjson: partsOfLines} {
			k := &keeper{}
			r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost"+path, bytes.NewReader(body))
			r.RemoteAddr, r.Header = "127.0.0.1:9", http.Header{"Content-Type": {kind}}
			w := httptest.NewRecorder()
			k.handler(admin.Config{}).ServeHTTP(w, r)
			if len(body) == 0 {
				continue // without a body there is no type
			}
			var want []traffic.Transaction
			parts, ok := oracle(body)
			for _, part := range parts {
				x, err := traffic.ParseJSON(part, time.Now())
				ok = ok && err == nil
				want = append(want, x)
			}
			if (w.Code == http.StatusOK) != ok || (kind != ndjson && w.Code == http.StatusBadRequest && json.Valid(body)) {
				t.Fatalf("%s %q: %d %s; that it is good is %v", kind, body, w.Code, w.Body, ok)
			}
			near := cmp.Comparer(func(a, b time.Time) bool { return a.Sub(b).Abs() < time.Minute })
			if diff := cmp.Diff(want, k.recorded, near); ok && diff != "" {
				t.Fatalf("%s %q (-want +got):\n%s", kind, body, diff)
			} else if !ok && len(k.recorded) > 0 {
				t.Fatalf("%s %q: recorded %+v", kind, body, k.recorded)
			}
		}
	})
}

func partsOfLines(body []byte) (parts [][]byte, ok bool) {
	for line := range bytes.SplitSeq(body, []byte{'\n'}) {
		if len(bytes.TrimSpace(line)) > 0 {
			parts = append(parts, line)
		}
	}
	return parts, true
}

func partsOfJSON(body []byte) (parts [][]byte, ok bool) {
	if !json.Valid(body) {
		return nil, false
	}
	var list []json.RawMessage
	var members map[string]json.RawMessage
	if json.Unmarshal(body, &members) == nil && len(members) == 1 && len(members["transactions"]) > 0 {
		body = members["transactions"]
		if body[0] != '[' {
			return nil, false
		}
	}
	if bytes.TrimLeft(body, " \t\r\n")[0] != '[' {
		return [][]byte{body}, true
	}
	if json.Unmarshal(body, &list) != nil {
		return nil, false
	}
	for _, raw := range list {
		parts = append(parts, raw)
	}
	return parts, true
}

func BenchmarkTransactions(b *testing.B) {
	at := time.Now()
	var body []byte
	const n = 10_000
	for i := range n {
		x := traffic.Transaction{Domain: "edge", Gateway: "payments", Endpoint: "/orders/{id}", At: at.Add(time.Duration(i)), Duration: 25*time.Millisecond + time.Duration(i)*time.Microsecond, StatusCode: 200, Success: true}
		body = append(traffic.AppendJSON(body, &x), '\n')
	}
	packed := zipped(b, string(body))
	k := &keeper{}
	h := k.handler(admin.Config{})
	b.ReportAllocs()
	for b.Loop() {
		k.received = k.received[:0]
		r := httptest.NewRequestWithContext(b.Context(), http.MethodPost, "http://localhost"+path+"?server=s&run=r&first=0", strings.NewReader(packed))
		r.RemoteAddr, r.Header = "127.0.0.1:9", http.Header{"Content-Type": {ndjson}, "Content-Encoding": {"gzip"}}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != http.StatusOK {
			b.Fatal(w.Body)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/transaction")
	b.ReportMetric(float64(len(packed))/n, "B/transaction")
}
