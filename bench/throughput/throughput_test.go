package main

import (
	"bytes"
	"math"
	"net"
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const h2loadOutput = `starting benchmark...
finished in 5.21s, 38378.19 req/s, 4.5MB/s
requests: 1000 total, 1000 started, 1000 done, 1000 succeeded, 0 failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
`

func TestParseH2load(t *testing.T) {
	got, err := parseH2load(h2loadOutput, 1000)
	if err != nil || got != 38378.19 {
		t.Errorf("parseH2load = %v, %v, want 38378.19", got, err)
	}
	for what, out := range map[string]string{
		"an answer that is no 200": strings.Replace(h2loadOutput, "1000 2xx, 0 3xx, 0 4xx", "999 2xx, 0 3xx, 1 4xx", 1),
		"a request without answer": strings.Replace(h2loadOutput, "1000 2xx", "999 2xx", 1),
		"no speed":                 strings.Replace(h2loadOutput, "finished in", "ended after", 1),
	} {
		if got, err := parseH2load(out, 1000); err == nil {
			t.Errorf("%s: parseH2load = %v without an error", what, got)
		}
	}
}

func TestCPUMicros(t *testing.T) {
	// The name of the program holds what the fields are cut at.
	stat := "42 (a) b (c) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 5 0 100 1 1"
	if got, err := cpuMicros(stat); err != nil || got != 3_000_000 {
		t.Errorf("cpuMicros = %v, %v, want 3000000: 250 ticks of user and 50 of system time", got, err)
	}
	if got, err := cpuMicros("42 (a) S 1"); err == nil {
		t.Errorf("cpuMicros of too few fields = %v without an error", got)
	}
}

func TestRatioIsTheMedianOfRounds(t *testing.T) {
	r := result{rounds: map[string][]measured{
		ownServer:  {{perSecond: 90}, {perSecond: 45}, {perSecond: 10}},
		bareServer: {{perSecond: 100}, {perSecond: 50}, {perSecond: 100}},
	}}
	if got := r.ratio(bareServer); got != 0.9 {
		t.Errorf("ratio = %v, want 0.9: the median of 0.9, 0.9 and 0.1", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median = %v, want 2.5", got)
	}
	r.config.least = 0.91
	r.rounds[rawServer] = r.rounds[bareServer]
	if err := r.finish(&bytes.Buffer{}); err == nil {
		t.Error("finish accepts a ratio below the least")
	}
}

func TestGRPCFrame(t *testing.T) {
	message := requestBytes()
	frame := grpcFrame(message)
	if want := append([]byte{0, 0, 0, 0, byte(len(message))}, message...); !bytes.Equal(frame, want) {
		t.Errorf("grpcFrame = %x, want %x", frame, want)
	}
}

// Both other servers answer exactly the bytes that they were given, so that all answers have the
// same size.
func TestConstantServersAnswerTheConstant(t *testing.T) {
	want := &ratelimitv3.RateLimitResponse{
		OverallCode: ratelimitv3.RateLimitResponse_OK,
		Statuses:    []*ratelimitv3.RateLimitResponse_DescriptorStatus{{Code: ratelimitv3.RateLimitResponse_OK, LimitRemaining: math.MaxUint32}},
	}
	bytesOfIt, err := proto.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{bareServer, rawServer} {
		addr := serve(t, name, bytesOfIt)
		got, err := ask(t.Context(), addr)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !proto.Equal(got, want) {
			t.Errorf("%s answers %v, want %v", name, got, want)
		}
	}
	if _, err := constantServer("other", nil); err == nil {
		t.Error("there is a server of any name")
	}
}

func serve(t *testing.T, name string, answer []byte) string {
	t.Helper()
	s, err := constantServer(name, answer)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-ended; err != nil {
			t.Errorf("%s: %v", name, err)
		}
	})
	return l.Addr().String()
}
