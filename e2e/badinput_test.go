//go:build e2e

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// badInput is one thing that a careless operator or a hostile client sends, and the check of its
// one answer.
type badInput struct {
	name string
	try  func(tb testing.TB, v *victim)
}

// surface is one way into ratelimitd.
type surface struct {
	name   string
	start  func(tb testing.TB) *victim // nil: every case is a start of its own
	inputs []badInput
}

func surfaces() []surface {
	return []surface{
		{"gRPC", postgresVictim, requestInputs()},
		{"json", postgresVictim, jsonInputs()},
		{"REST", postgresVictim, restInputs()},
		{"row", postgresVictim, rowInputs()},
		{"access log", postgresVictim, logInputs()},
		{"file", fileVictim, fileInputs()},
		{"setting", nil, settingInputs()},
	}
}

// Every bad input has one clear error or a harmless answer, and whatever it was, the server goes on
// and other limits keep their state.
func TestBadInput(t *testing.T) {
	const least = 80
	total := 0
	for _, s := range surfaces() {
		total += len(s.inputs)
		t.Logf("%s: %d inputs", s.name, len(s.inputs))
		t.Run(s.name, func(t *testing.T) { s.run(t) })
	}
	t.Logf("%d inputs", total)
	if total < least {
		t.Errorf("the table has %d inputs, want at least %d", total, least)
	}
}

func (s *surface) run(t *testing.T) {
	t.Helper()
	var v *victim
	if s.start != nil {
		v = s.start(t)
	}
	seen := map[string]bool{}
	for _, input := range s.inputs {
		if seen[input.name] {
			t.Errorf("%q stands in the table twice", input.name)
		}
		seen[input.name] = true
		t.Run(input.name, func(t *testing.T) {
			input.try(t, v)
			if v != nil {
				v.assertServes(t)
			}
		})
	}
}

// The limits that no bad input may touch: kept gives back one token a second, closed none ever.
const (
	keptBurst = 1_000_000
	keptUsed  = 500_000
	goodRows  = `('good', 'kept', 1, 1000000), ('good', 'closed', 0, NULL)`
	goodFile  = `limits:
- {gateway: good, endpoint: kept, max_tps: 1, burst: 1000000}
- {gateway: good, endpoint: closed, max_tps: 0}
`
)

// victim is a running ratelimitd that gets bad input.
type victim struct {
	*daemon
	stack *stack // its Postgres; nil = limits are in a file
	file  string // of limits
	grpc  *grpc.ClientConn

	charged         int       // of kept, since the first charge
	earliest, least time.Time // when the first charge was made: not before, not after
}

func postgresVictim(tb testing.TB) *victim {
	tb.Helper()
	s := &stack{database: testenv.Database(tb)}
	s.conn = testenv.Connect(tb, s.database)
	s.daemon = newDaemon(tb, "TPS_DATABASE_URL="+s.database, "TPS_POLL_INTERVAL=200ms")
	s.daemon.start(tb)
	s.setLimits(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps, burst) VALUES "+goodRows)
	v := &victim{daemon: s.daemon, stack: s}
	v.begin(tb)
	return v
}

func (v *victim) connect(tb testing.TB) {
	tb.Helper()
	conn, err := grpc.NewClient(v.grpcAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = conn.Close() }) // the test is over
	v.grpc = conn
}

// begin charges kept for the first time.
func (v *victim) begin(tb testing.TB) {
	tb.Helper()
	v.connect(tb)
	v.earliest = time.Now()
	got := v.ask(tb, asks("edge", pbNumber(3, keptUsed), descriptor(entry("gateway", "good"), entry("endpoint", "kept"))))
	v.least = time.Now()
	want := `OK {OK "good/kept" 1/SECOND, 500000 left, reset 500000s} domain="edge" endpoint="kept" gateway="good" limit="good/kept"`
	if got != want {
		tb.Fatalf("before any bad input the answer is\n%s, want\n%s", got, want)
	}
}

// assertServes asks for the good limits: what was used of them is exactly what was used by us.
func (v *victim) assertServes(tb testing.TB) {
	tb.Helper()
	if !v.server.Running() {
		tb.Fatalf("ratelimitd has ended:\n%s", v.server.Output())
	}
	v.charged++
	sent := time.Now()
	got := v.ask(tb, asks("edge", descriptor(entry("gateway", "good"), entry("endpoint", "kept"))))
	received := time.Now()
	var left, reset int
	if _, err := fmt.Sscanf(got, `OK {OK "good/kept" 1/SECOND, %d left, reset %ds}`, &left, &reset); err != nil {
		tb.Errorf("a neighbouring limit answers %s: %v", got, err)
	}
	fewest := keptBurst - keptUsed - v.charged + int(sent.Sub(v.least).Seconds())
	most := keptBurst - keptUsed - v.charged + int(received.Sub(v.earliest).Seconds())
	if left < fewest || left > most {
		tb.Errorf("a neighbouring limit has %d tokens left, want %d to %d", left, fewest, most)
	}
	const closed = `OVER_LIMIT {OVER_LIMIT "good/closed" 0/SECOND, 0 left} domain="edge" endpoint="closed" gateway="good" limit="good/closed" throttled=true`
	if got := v.ask(tb, asks("edge", descriptor(entry("gateway", "good"), entry("endpoint", "closed")))); got != closed {
		tb.Errorf("a neighbouring limit answers\n%s, want\n%s", got, closed)
	}
	assertNoTrace(tb, v.server.Output())
}

// assertNoTrace looks for what Go prints of a panic, or a library of one that it has caught.
func assertNoTrace(tb testing.TB, output string) {
	tb.Helper()
	for _, sign := range []string{"panic", "goroutine ", "runtime error", ".go:"} {
		if _, after, found := strings.Cut(output, sign); found {
			tb.Errorf("the output has %q, and then %.2000s", sign, after)
		}
	}
}
