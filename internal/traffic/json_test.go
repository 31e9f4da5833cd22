package traffic_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

var now = time.Unix(1_790_000_000, 123_456_789)

func TestParseJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 9, 20, 10, 0, 0, 123_456_789, time.UTC)
	for in, want := range map[string]traffic.Transaction{
		`{"gateway":"shop"}`: {Gateway: "shop", At: now, Success: true},
		`{ "gateway" : "shop" , "endpoint" : "pay" , "domain":"edge" }`:                                      {Gateway: "shop", Endpoint: "pay", Domain: "edge", At: now, Success: true},
		`{"gateway":"shop","timestamp":"2026-09-20T12:00:00.123456789+02:00"}`:                               {Gateway: "shop", At: at, Success: true},
		`{"gateway":"shop","duration_ms":1.5,"waited_ms":2,"status_code":201,"success":true}`:                {Gateway: "shop", At: now, Duration: 1500 * time.Microsecond, Waited: 2 * time.Millisecond, StatusCode: 201, Success: true},
		`{"gateway":"shop","duration_ms":31622400000,"waited_ms":1800000,"status_code":999}`:                 {Gateway: "shop", At: now, Duration: traffic.MaxDuration, Waited: traffic.MaxWaited, StatusCode: 999},
		`{"gateway":"shop","throttled":true,"status_code":200}`:                                              {Gateway: "shop", At: now, Throttled: true, StatusCode: 200},
		`{"gateway":"shop","throttled":true,"success":false}`:                                                {Gateway: "shop", At: now, Throttled: true},
		`{"gateway":"shop","status_code":0}`:                                                                 {Gateway: "shop", At: now},
		`{"gateway":"shop","status_code":429}`:                                                               {Gateway: "shop", At: now, StatusCode: 429},
		`{"gateway":"shop","status_code":499}`:                                                               {Gateway: "shop", At: now, StatusCode: 499, Success: true},
		`{"gateway":"shop","status_code":500}`:                                                               {Gateway: "shop", At: now, StatusCode: 500},
		`{"gateway":"shop","status_code":500,"success":true}`:                                                {Gateway: "shop", At: now, StatusCode: 500, Success: true},
		`{"gateway":"shop","status_code":200,"success":false}`:                                               {Gateway: "shop", At: now, StatusCode: 200},
		`{"g\u0061teway":"sh\u006fp\"\\\/\ud83d\ude00é","endpoint":"a,b}c]{"}`:                               {Gateway: `shop"\/😀é`, Endpoint: "a,b}c]{", At: now, Success: true},
		`{"gateway":"shop","endpoint":"\ufffd"}`:                                                             {Gateway: "shop", Endpoint: "\uFFFD", At: now, Success: true},
		`{"gateway":"shop","endpoint":null,"domain":null,"timestamp":null,"duration_ms":null}`:               {Gateway: "shop", At: now, Success: true},
		`{"gateway":"shop","waited_ms":null,"status_code":null,"throttled":null,"success":null}`:             {Gateway: "shop", At: now, Success: true},
		`{"gateway":"` + strings.Repeat("é", 127) + `","endpoint":"` + strings.Repeat("x", 255) + `"}`:       {Gateway: strings.Repeat("é", 127), Endpoint: strings.Repeat("x", 255), At: now, Success: true},
		"{\"gateway\":\"shop\",\r\n\t\"duration_ms\":0.000001}":                                              {Gateway: "shop", At: now, Duration: 1, Success: true},
		`{"gateway":"shop","duration_ms":1.5e3}`:                                                             {Gateway: "shop", At: now, Duration: 1500 * time.Millisecond, Success: true},
		`{"gateway":"shop","duration_ms":0.0000016}`:                                                         {Gateway: "shop", At: now, Duration: 2, Success: true},
		`{"gateway":"shop","duration_ms":-0}`:                                                                {Gateway: "shop", At: now, Success: true},
		`{"gateway":"shop","duration_ms":31622399999.999999}`:                                                {Gateway: "shop", At: now, Duration: traffic.MaxDuration - 1, Success: true},
		`{"gateway":"shop","timestamp":"` + now.Add(-traffic.OldestAt).UTC().Format(time.RFC3339Nano) + `"}`: {Gateway: "shop", At: now.Add(-traffic.OldestAt), Success: true},
		`{"gateway":"shop","timestamp":"` + now.Add(traffic.NewestAt).UTC().Format(time.RFC3339Nano) + `"}`:  {Gateway: "shop", At: now.Add(traffic.NewestAt), Success: true},
	} {
		got, err := traffic.ParseJSON([]byte(in), now)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", in, err, diff)
		}
	}
}

func TestParseJSONFaults(t *testing.T) {
	t.Parallel()
	with := func(member string) string { return `{"gateway":"shop",` + member + `}` }
	name256 := strings.Repeat("x", 256)
	for in, want := range map[string]string{
		`[]`:                                                   "transaction []: is no JSON object",
		`7`:                                                    "transaction 7: is no JSON object",
		`"{}"`:                                                 `transaction "{}": is no JSON object`,
		`{}`:                                                   `gateway "": is missing`,
		`{"gateway":null}`:                                     `gateway null: is missing`,
		`{"gateway":""}`:                                       `gateway "": is empty`,
		`{"gateway":7}`:                                        `gateway 7: is no text`,
		`{"gateway":{"a":["}"]}}`:                              `gateway {"a":["}"]}: is no text`,
		`{"gateway":["a",{"b":"]"}]}`:                          `gateway ["a",{"b":"]"}]: is no text`,
		`{"gateway":"a\u0000"}`:                                `gateway "a\u0000": has a control character`,
		`{"gateway":"a\u0085"}`:                                `gateway "a\u0085": has a control character`,
		"{\"gateway\":\"a\xff\"}":                              "gateway \"a\uFFFD\": is not valid UTF-8",
		`{"gateway":"\ud83d"}`:                                 `gateway "\ud83d": has one half of a surrogate pair`,
		`{"gateway":"\ude00\ud83d"}`:                           `gateway "\ude00\ud83d": has one half of a surrogate pair`,
		`{"gateway":"\ud83d\n"}`:                               `gateway "\ud83d\n": has one half of a surrogate pair`,
		`{"gateway":"\ud83dabcdef"}`:                           `gateway "\ud83dabcdef": has one half of a surrogate pair`,
		`{"gateway":"` + name256 + `"}`:                        `gateway "` + name256[:63] + `…: is longer than 255 bytes`,
		with(`"gateway":"another"`):                            `gateway "another": comes twice`,
		with(`"Gateway":"another"`):                            `field "Gateway": is no column of a transaction`,
		with(`"server_id":"x"`):                                `field "server_id": is no column of a transaction`,
		with(`"":0`):                                           `field "": is no column of a transaction`,
		with(`"\udc00":0`):                                     `field "\udc00": is no column of a transaction`,
		with(`"domain":true`):                                  `domain true: is no text`,
		with(`"endpoint":"` + name256 + `"`):                   `is longer than 255 bytes`,
		with(`"timestamp":1790000000`):                         `timestamp 1790000000: is no text`,
		with(`"timestamp":"yesterday"`):                        `timestamp "yesterday": is no time as RFC 3339 has it`,
		with(`"timestamp":"2026-09-20 10:00:00Z"`):             `is no time as RFC 3339 has it`,
		with(`"timestamp":"2026-09-20T10:00:00"`):              `is no time as RFC 3339 has it`,
		with(`"timestamp":"2026-09-20T1:00:00Z"`):              `is no time as RFC 3339 has it`,
		with(`"timestamp":"2026-09-20T10:00:00,5Z"`):           `is no time as RFC 3339 has it`,
		with(`"timestamp":"2026-09-31T10:00:00Z"`):             `is no time as RFC 3339 has it`,
		with(`"timestamp":"2025-09-19T14:13:20Z"`):             `timestamp "2025-09-19T14:13:20Z": is more than 366 days ago, or a day ahead`,
		with(`"timestamp":"9999-12-31T23:59:59.5+00:00"`):      `timestamp "9999-12-31T23:59:59.5Z": is more than 366 days ago, or a day ahead`,
		with(`"duration_ms":"5"`):                              `duration_ms "5": is no number`,
		with(`"duration_ms":-1`):                               `duration_ms -1: is not within 0 to 31622400000`,
		with(`"duration_ms":-0.0000001`):                       `is not within 0 to 31622400000`,
		with(`"duration_ms":31622400000.000001`):               `is not within 0 to 31622400000`,
		with(`"duration_ms":9223372036854775807`):              `is not within 0 to 31622400000`,
		with(`"duration_ms":1e999`):                            `duration_ms 1e999: is not within 0 to 31622400000`,
		with(`"waited_ms":1800000.1`):                          `waited_ms 1800000.1: is not within 0 to 1800000`,
		with(`"waited_ms":true`):                               `waited_ms true: is no number`,
		with(`"status_code":200.5`):                            `status_code 200.5: is no whole number, written in digits`,
		with(`"status_code":2e2`):                              `status_code 2e2: is no whole number, written in digits`,
		with(`"status_code":1000`):                             `status_code 1000: is not within 0 to 999`,
		with(`"status_code":-1`):                               `status_code -1: is not within 0 to 999`,
		with(`"status_code":99999999999999999999`):             `status_code 99999999999999999999: is not within 0 to 999`,
		with(`"status_code":"200"`):                            `status_code "200": is no number`,
		with(`"throttled":1`):                                  `throttled 1: is not true or false`,
		with(`"success":"true"`):                               `success "true": is not true or false`,
		with(`"throttled":true,"success":true`):                `success true: cannot be where throttled is true`,
		with(`"status_code":429,"success":true`):               `success true: cannot be where status_code is 429`,
		`{"gateway":7,"success":0,"x":[1,2],"duration_ms":-1}`: "gateway 7: is no text\nsuccess 0: is not true or false\nfield \"x\": is no column of a transaction\nduration_ms -1: is not within 0 to 31622400000",
	} {
		_, err := traffic.ParseJSON([]byte(in), now)
		if _, ok := errors.AsType[*traffic.FieldError](err); !ok || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a FieldError that says %s", in, err, want)
		}
	}
	many := "{" + strings.Repeat(`"x":0,`, 100) + `"gateway":"shop"}`
	if _, err := traffic.ParseJSON([]byte(many), now); err == nil || strings.Count(err.Error(), "field \"x\"") != 10 || strings.Contains(err.Error(), "missing") {
		t.Errorf("of a hundred faults it says %v, want ten", err)
	}
	for in, want := range map[string]string{
		``: "unexpected end of JSON input", `{`: "at byte 1", `{"gateway":"a"} x`: "at byte 17", `{"gateway":NaN}`: "at byte 12", `{"gateway":"a",}`: "at byte 16",
		"{\"gateway\":\"a\nb\"}": "at byte 14", `{"duration_ms":01}`: "at byte 17",
	} {
		_, err := traffic.ParseJSON([]byte(in), now)
		if _, ok := errors.AsType[*traffic.FieldError](err); ok || err == nil || !strings.Contains(err.Error(), "is not JSON: ") || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want that it is not JSON, %s", in, err, want)
		}
	}
}

// What another ratelimitd has recorded is not lost because of a clock.
func TestRelayedTimes(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]time.Time{
		"2026-09-21T14:13:21Z": time.Date(2026, 9, 21, 14, 13, 21, 0, time.UTC), "2026-09-25T00:00:00Z": now, "2001-01-01T00:00:00Z": now,
	} {
		got, err := traffic.ParseRelayedJSON([]byte(`{"gateway":"shop","timestamp":"`+at+`"}`), now)
		if err != nil || !got.At.Equal(want) {
			t.Errorf("%s is taken for %s, %v; want %s", at, got.At, err, want)
		}
	}
	if _, err := traffic.ParseRelayedJSON([]byte(`{"gateway":"shop","timestamp":"soon"}`), now); err == nil {
		t.Error("what is no time at all is taken")
	}
}

func TestJSONComesBackAsItWent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		want := anyTransaction(t)
		if want.Gateway == "" {
			want.Gateway = traffic.NoGateway
		}
		b := traffic.AppendJSON(nil, &want)
		got, err := traffic.ParseRelayedJSON(b, want.At)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Fatalf("%s: %v (-want +got):\n%s", b, err, diff)
		}
		if bytes.ContainsRune(b, '\n') || bytes.ContainsRune(b, '\r') {
			t.Fatalf("%q is more than one line", b)
		}
	})
}

// FuzzParseJSON has encoding/json as its oracle: both find the same texts valid, and the same values in
// them.
func FuzzParseJSON(f *testing.F) {
	for _, seed := range []string{
		`{"gateway":"shop","endpoint":"pay","domain":"d","timestamp":"2026-09-20T12:00:00.5Z","duration_ms":1.25,"waited_ms":3,"status_code":200,"throttled":false,"success":true}`,
		`{"gateway":"a\ud83d\ude00\"\\"}`, `{"gateway":"a","duration_ms":1e-3}`, ` {"gateway" : [1,{"a":"}"}] } `, `{"gateway":"a","gateway":"b"}`, "{\"gateway\":\"\xff\"}", `[`, `{"throttled":true}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := traffic.ParseJSON(b, now)
		_, isField := errors.AsType[*traffic.FieldError](err)
		if valid := json.Valid(b); valid != (err == nil || isField) {
			t.Fatalf("%q: %v, but that it is valid JSON is %v", b, err, valid)
		}
		if err != nil {
			return
		}
		checkAgainstStock(t, b, &got)
		again, err := traffic.ParseJSON(traffic.AppendJSON(nil, &got), now)
		if diff := cmp.Diff(got, again); err != nil || diff != "" {
			t.Fatalf("%q: written and read again: %v (-first +second):\n%s", b, err, diff)
		}
	})
}

func checkAgainstStock(t *testing.T, b []byte, got *traffic.Transaction) {
	t.Helper()
	var want struct {
		Gateway, Endpoint, Domain string
		Timestamp                 *time.Time
		Duration                  float64 `json:"duration_ms"`
		Waited                    float64 `json:"waited_ms"`
		Status                    int32   `json:"status_code"`
		Throttled                 bool
		Success                   *bool
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatalf("%q was read as %+v, and encoding/json says %v", b, got, err)
	}
	near := func(d time.Duration, ms float64) bool { return math.Abs(float64(d)-ms*1e6) <= 1+ms*1e6/(1<<50) }
	clean := func(s string) bool {
		return len(s) <= traffic.MaxName && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
	}
	switch {
	case got.Gateway != want.Gateway || got.Endpoint != want.Endpoint || got.Domain != want.Domain,
		!near(got.Duration, want.Duration) || !near(got.Waited, want.Waited),
		got.StatusCode != want.Status || got.Throttled != want.Throttled,
		want.Timestamp != nil && !got.At.Equal(*want.Timestamp), want.Timestamp == nil && !got.At.Equal(now),
		want.Success != nil && got.Success != *want.Success:
		t.Fatalf("%q was read as %+v, want %+v", b, got, want)
	case got.Gateway == "", !clean(got.Gateway), !clean(got.Endpoint), !clean(got.Domain), got.Success && got.Throttled,
		got.Duration < 0, got.Duration > traffic.MaxDuration, got.Waited < 0, got.Waited > traffic.MaxWaited, got.StatusCode < 0, got.StatusCode > 999,
		!traffic.Believable(got.At, now):
		t.Fatalf("%q was read as %+v, which is out of bounds", b, got)
	}
}

func BenchmarkAppendJSON(b *testing.B) {
	ts, buf := benchmarked(), []byte(nil)
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for i := range ts {
			buf = traffic.AppendJSON(buf, &ts[i])
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ts)), "ns/transaction")
	b.ReportMetric(float64(len(buf))/float64(len(ts)), "B/transaction")
}

func BenchmarkParseJSON(b *testing.B) {
	line := traffic.AppendJSON(nil, &benchmarked()[7])
	at := time.Unix(1_790_000_000, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := traffic.ParseJSON(line, at); err != nil {
			b.Fatal(err)
		}
	}
}
