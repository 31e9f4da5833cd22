package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// The program itself, with few limits: every kind of change is measured with and without.
func TestRun(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "reload")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(binary, "-rows", "2000", "-pairs", "1", "-round", "200ms", "-rate", "8000", "-ratio", "1000", "-p99", "10s").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"reload       with true ", "reload       with false", "one row      with true ", "one row      with false", "2000 limits; 8000 requests/s"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the output has no %q:\n%s", want, out)
		}
	}
}

// A change reaches what requests meet.
func TestChangesAreInForce(t *testing.T) {
	s, err := newStand(config{rows: 2000})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range kinds() {
		before := s.current.Load()
		if err := k.change(s); err != nil {
			t.Fatalf("%s: %v", k.name, err)
		}
		if after := s.current.Load(); after.Len() != 2000 || after.Seq() <= before.Seq() {
			t.Errorf("%s: %d limits in table %d after table %d", k.name, after.Len(), after.Seq(), before.Seq())
		}
	}
}

func TestBounds(t *testing.T) {
	r := result{
		config: config{mostRatio: 1.5, mostP99: time.Millisecond},
		kinds:  []pairs{{kind: kinds()[0], with: []measured{{p99: 300}, {p99: 200}, {p99: 100}}, without: []measured{{p99: 100}, {p99: 150}, {p99: 900}}}},
	}
	if got := r.kinds[0].ratio(); got != 200.0/150 {
		t.Errorf("the ratio is %v, want that of the medians 200 and 150", got)
	}
	if err := r.finish(&bytes.Buffer{}); err != nil {
		t.Errorf("within all bounds: %v", err)
	}
	r.config.mostRatio = 1.3
	if err := r.finish(&bytes.Buffer{}); err == nil {
		t.Error("a ratio above the bound is accepted")
	}
	r.config = config{mostRatio: 1.5, mostP99: 199}
	if err := r.finish(&bytes.Buffer{}); err == nil {
		t.Error("a p99 above the bound is accepted")
	}
}
