package spool

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// What a process has written is there after kill -9, in order and without a gap; what it had only
// taken may be, too. It is killed while it writes, several times on one directory.
func TestKill(t *testing.T) {
	if dir := os.Getenv(childVariable); dir != "" {
		appendForEver(t, dir)
		return
	}
	dir := t.TempDir()
	for life := range 3 {
		written := runAndKill(t, dir, 300*(life+1))
		l := open(t, Config{Dir: dir})
		got := drain(t, l.Reader("a"))
		for i, p := range got {
			if name, _, _ := strings.Cut(p, " "); name != strconv.Itoa(i) {
				t.Fatalf("frame %d of life %d is %q", i, life, p)
			}
		}
		if len(got) < written || written == 0 {
			t.Errorf("life %d has written %d frames, %d can be read", life, written, len(got))
		}
		l.end()
	}
}

// runAndKill returns how many frames the process had written by its own word.
func runAndKill(t *testing.T, dir string, atLeast int) (written int) {
	t.Helper()
	cmd := child(t, dir)
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		n := 0
		if _, err := fmt.Sscanf(lines.Text(), "written %d", &n); err != nil {
			continue
		}
		if written = n; n >= atLeast && cmd.Process.Kill() != nil {
			t.Error("the process has ended")
		}
	}
	_ = cmd.Wait() // it was killed
	return written
}

// appendForEver appends numbered frames of one record, and says how many are written.
func appendForEver(t *testing.T, dir string) {
	t.Helper()
	l := open(t, Config{Dir: dir, SegmentSize: 20_000})
	go func() { _ = l.Run(context.Background()) }()
	r := l.Reader("a")
	for i := 0; ; {
		for range 10 {
			l.mustAppend(t, fmt.Sprintf("%d %s", i, strings.Repeat("x", i%2000)), 1)
			i++
		}
		<-r.Arrived()
		fmt.Printf("written %d\n", r.Waiting())
		for l.Pending() > 5000 {
			<-r.Arrived()
		}
	}
}
