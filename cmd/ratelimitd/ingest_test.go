package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// ingestLines are n lines of an access log, which can be told apart by their route.
func ingestLines(first, n int) string {
	var b strings.Builder
	at := time.Now().Add(-30 * 24 * time.Hour).UTC().Format(time.RFC3339Nano)
	for i := range n {
		fmt.Fprintf(&b, `{"start_time":%q,"method":"GET","path":"/x","duration":%d,"response_code":200,"upstream_cluster":"shop","route_name":"r%d"}`+"\n", at, i%50, first+i)
	}
	return b.String()
}

func fileOf(tb testing.TB, name, body string) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), name)
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}

func zipOf(tb testing.TB, body string) string {
	tb.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := io.WriteString(w, body)
	if err := errors.Join(err, w.Close()); err != nil {
		tb.Fatal(err)
	}
	return b.String()
}

// table is what ingest prints of a file.
func table(lines, accepted, duplicate, ignored, malformed int) string {
	return fmt.Sprintf("lines      %d\naccepted   %d\nduplicate  %d\nignored    %d\nmalformed  %d\n", lines, accepted, duplicate, ignored, malformed)
}

// Into a whole server, again and again in several forms.
func TestIngest(t *testing.T) {
	d := start(t)
	odd := `{"response_code":"x","duration":1}` + "\n\n{\n" + `{"msg":"starting"}` + "\n" + strings.Repeat("x", 2<<20) + "\n"
	body := ingestLines(0, 4500) + odd + strings.TrimSuffix(ingestLines(4500, 500), "\n")
	plain, zipped := fileOf(t, "access.log", body), fileOf(t, "access.log.1", zipOf(t, body))
	got := d.ratelimitd(t, "ingest", plain)
	got.wants(t, 0, table(5004, 5000, 0, 1, 3)+"  line 4505: is longer than a line may be\n", "")
	for _, line := range []string{"  line 4501: ", "  line 4503: is not JSON"} {
		if !strings.Contains(got.stdout, line) || got.stderr != "" {
			t.Errorf("%+v does not tell of %s", got, line)
		}
	}
	for _, name := range []string{plain, zipped} {
		d.ratelimitd(t, "ingest", name).wants(t, 0, table(5004, 0, 5000, 1, 3), "")
	}
	d.ratelimitd(t, "ingest", fileOf(t, "grown.log", body+"\n"+ingestLines(5000, 3000))).wants(t, 0, table(8004, 3000, 5000, 1, 3), "")
	if _, stats := get(t, d.api+"/api/v1/stats"); !strings.Contains(stats, `"transactions":8000,`) {
		t.Errorf("the server counts %.200s", stats)
	}
}

func TestIngestRows(t *testing.T) {
	d := start(t)
	rows := `{"gateway":"a","success":true}` + "\n" + `{"gateway":"","success":7}` + "\n\n" + `{"gateway":"b","timestamp":"2001-01-01T00:00:00Z"}` + "\n" + `{"gateway":"c"}` + "\r\n"
	path := fileOf(t, "rows", rows)
	want := "  line 2: gateway \"\": is empty; success 7: is not true or false\n  line 4: timestamp \"2001-01-01T00:00:00Z\": is more than 366 days ago, or a day ahead\n"
	d.ratelimitd(t, "ingest", "--rows", path).wants(t, 0, table(4, 2, 0, 0, 2)+want, "")
	d.ratelimitd(t, "ingest", "--rows", path).wants(t, 0, table(4, 0, 2, 0, 2)+want, "")
	d.ratelimitd(t, "ingest", "--rows", fileOf(t, "bad", strings.Repeat("[]\n", 12))).wants(t, 1, "  line 10: transaction []: is no JSON object\n  and 2 more\n", "ratelimitd: no line was taken\n")
	d.ratelimitd(t, "ingest", fileOf(t, "empty", "")).wants(t, 0, table(0, 0, 0, 0, 0), "")
}

func TestIngestOfWhatIsNoFile(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{filepath.Join(dir, "missing")}, "missing: no such file or directory"},
		{[]string{dir}, dir + ": is a directory"},
		{[]string{fileOf(t, "half", zipOf(t, ingestLines(0, 100))[:200])}, "stopped after line 0: reading the file: unexpected EOF (started again"},
		{[]string{fileOf(t, "no.gz", "\x1f\x8bno")}, "reading the file: unpacking: "},
		{[]string{"--timeout=0", dir}, `--timeout "0": is not a duration of a second or more`},
		{[]string{"--ca=/nope", dir}, "reading the authority: open /nope"},
	} {
		got := command(t.Context(), nil, append([]string{"ingest"}, c.args...)...)
		if got.wants(t, 1, "", "ratelimitd: "); !strings.Contains(got.stderr, c.want) || lines(got.stderr) != 1 {
			t.Errorf("%q: %q, want %s", c.args, got.stderr, c.want)
		}
	}
}

// takerAPI is the real API over a store in memory, which may fail.
type takerAPI struct {
	http.Handler
	mu     sync.Mutex
	stored map[string]int // by endpoint: how often it is there
	asked  int            // requests so far
	next   map[traffic.Source]int64
	fail   func(n int) error // nil = never
}

func newTakerAPI(tb testing.TB, fail func(n int) error) *takerAPI {
	tb.Helper()
	mapping, err := accesslog.NewMapping(accesslog.MappingConfig{Gateway: []string{"cluster"}, Endpoint: []string{"route"}})
	if err != nil {
		tb.Fatal(err)
	}
	a := &takerAPI{stored: map[string]int{}, next: map[traffic.Source]int64{}, fail: fail}
	a.Handler = admin.New(admin.Config{}, admin.Deps{
		Gatherer: prometheus.NewRegistry(), JSON: http.NotFoundHandler(), Log: slog.New(slog.DiscardHandler), Receive: a.receive,
		Line: func(line []byte) (traffic.Transaction, bool, error) { return mapping.Line(line, time.Now()) },
	})
	return a
}

func (a *takerAPI) receive(_ context.Context, b traffic.Batch) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asked++; a.fail != nil {
		if err := a.fail(a.asked); err != nil {
			return 0, err
		}
	}
	fresh := b.From(a.next[b.Source])
	a.next[b.Source] = b.Next()
	for _, t := range fresh.Transactions {
		a.stored[t.Endpoint]++
	}
	return len(fresh.Transactions), nil
}

// storedOnce fails where not exactly n transactions are stored, each once.
func (a *takerAPI) storedOnce(tb testing.TB, n int) {
	tb.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	for name, times := range a.stored {
		if times != 1 {
			tb.Errorf("%s is stored %d times", name, times)
		}
	}
	if len(a.stored) != n {
		tb.Errorf("%d are stored, want %d", len(a.stored), n)
	}
}

// An ingest that was interrupted is started again: nothing is lost, nothing comes twice.
func TestIngestThatIsInterrupted(t *testing.T) {
	path := fileOf(t, "access.log", ingestLines(0, 9000))
	ctx, interrupt := context.WithCancel(t.Context())
	api := newTakerAPI(t, nil)
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ctx.Err() != nil {
			api.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		if api.ServeHTTP(answer, r); api.asked == 3 { // it is stored, and nobody hears of it
			interrupt()
			<-r.Context().Done()
			return
		}
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes())
	}))
	got := command(ctx, nil, "ingest", "--server", url, path)
	got.wants(t, 1, table(2100, 2100, 0, 0, 0), "ratelimitd: stopped after line 2100: it was interrupted (started again with the same file, it takes nothing twice)\n")
	api.storedOnce(t, 4100)
	command(t.Context(), nil, "ingest", "--server", url, path).wants(t, 0, table(9000, 4900, 4100, 0, 0), "")
	api.storedOnce(t, 9000)
}

// What the server cannot take now it takes later.
func TestIngestTriesAgain(t *testing.T) {
	api := newTakerAPI(t, func(n int) error {
		if n <= 2 {
			return errors.New("no database")
		}
		return nil
	})
	cuts := 0
	url := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if cuts++; cuts == 4 { // the second batch is stored, and its answer gets lost
			api.ServeHTTP(httptest.NewRecorder(), r)
			panic(http.ErrAbortHandler)
		}
		api.ServeHTTP(w, r)
	}))
	got := command(t.Context(), nil, "ingest", "--server", url, fileOf(t, "access.log", ingestLines(0, 3000)))
	got.wants(t, 0, table(3000, 1000, 2000, 0, 0), "ratelimitd: trying again for 2m0s: lines 1 to 100: the server answered 503 Service Unavailable: no database\n")
	if api.storedOnce(t, 3000); lines(got.stderr) > 2 { // of a lost answer net/http itself may send the request again
		t.Errorf("it has said %q, want one line for each batch", got.stderr)
	}
}

func TestIngestGivesUp(t *testing.T) {
	path := fileOf(t, "access.log", ingestLines(0, 10))
	away := newTakerAPI(t, func(int) error { return errors.New("no database") })
	refuses := newTakerAPI(t, func(int) error { return &traffic.RefusedError{Err: errors.New("no such rows")} })
	answered := false
	hangs := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // once it has answered
		if !answered {
			answered = true
			away.ServeHTTP(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body) // else nobody notices that the client leaves
		<-r.Context().Done()
	})
	for server, want := range map[string]string{
		"127.0.0.1:1":                    "connection refused",
		serve(t, hangs):                  "the server answered 503 Service Unavailable: no database",
		serve(t, away):                   "the server answered 503 Service Unavailable: no database",
		serve(t, refuses):                "the server answered 422 Unprocessable Entity: no such rows",
		serve(t, http.NotFoundHandler()): "has no POST /api/v1/transactions",
	} {
		got := command(t.Context(), nil, "ingest", "--timeout=1s", "--server", server, path)
		got.wants(t, 1, table(0, 0, 0, 0, 0), "ratelimitd: stopped after line 0: lines 1 to 10: ")
		if !strings.Contains(got.stderr[strings.LastIndex(got.stderr, "stopped"):], want) {
			t.Errorf("%s: %q, want %s", server, got.stderr, want)
		}
	}
}

// pipeInto stands in for the standard input.
func pipeInto(tb testing.TB) *os.File {
	tb.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		tb.Fatal(err)
	}
	before := os.Stdin
	os.Stdin = r
	tb.Cleanup(func() {
		os.Stdin = before
		_ = w.Close()
	})
	return w
}

func TestIngestOfTheStandardInput(t *testing.T) {
	api := newTakerAPI(t, nil)
	url := serve(t, api)
	in := pipeInto(t)
	go func() {
		_, _ = io.WriteString(in, ingestLines(0, 2500))
		_ = in.Close()
	}()
	command(t.Context(), nil, "ingest", "--server", url, "-").wants(t, 0, table(2500, 2500, 0, 0, 0), "")
	api.storedOnce(t, 2500)

	in = pipeInto(t)
	if _, err := io.WriteString(in, ingestLines(0, 10)); err != nil {
		t.Fatal(err)
	}
	ctx, interrupt := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, interrupt)
	command(ctx, nil, "ingest", "--server", url, "-").wants(t, 1, table(0, 0, 0, 0, 0), "stopped after line 0: it was interrupted")
}

// A bar is shown in a terminal, and nowhere else.
func TestIngestShowsItsProgress(t *testing.T) {
	screen, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = errors.Join(screen.Close(), terminal.Close()) }()
	shown := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 4096)
		for !strings.Contains(all.String(), "the end") {
			n, err := screen.Read(buf)
			if all.Write(buf[:n]); err != nil {
				break
			}
		}
		shown <- all.String()
	}()
	api := newTakerAPI(t, nil)
	var stdout output
	if code := run(t.Context(), []string{"ingest", "--server", serve(t, api), fileOf(t, "access.log", ingestLines(0, 3000))}, nil, &stdout, terminal); code != 0 {
		t.Errorf("status %d, %s", code, &stdout)
	}
	fmt.Fprintln(terminal, "the end")
	if got := <-shown; !strings.Contains(got, "access.log") || !strings.Contains(got, "100%") {
		t.Errorf("the terminal shows %q", got)
	}
}

func TestBatchesOfLines(t *testing.T) {
	all := func(body string) (batches []*lineBatch) {
		r, err := newBatchReader(strings.NewReader(body), false)
		for err == nil {
			var b *lineBatch
			if b, err = r.read(); err == nil {
				batches = append(batches, b)
			}
		}
		if !errors.Is(err, io.EOF) {
			t.Fatal(err)
		}
		return batches
	}
	many := all(strings.Repeat("a\n", 4101))
	if len(many) != 4 || many[0].lines != 100 || many[1].first != 101 || many[2].first != 2101 || many[2].lines != 2000 || many[3].first != 4101 || many[3].lines != 1 {
		t.Errorf("4101 lines are %+v", many)
	}
	keys := func(batches []*lineBatch) (keys []string) {
		for _, b := range batches {
			keys = append(keys, b.key)
		}
		return keys
	}
	before := keys(many)
	if slices.Sort(before); len(slices.Compact(before)) != 4 || len(before[0]) < 32 {
		t.Errorf("the keys are %q", before)
	}
	// A file that has grown keeps its keys; one that is another in its first lines has none of them.
	if grown := keys(all(strings.Repeat("a\n", 4500) + "b\n")); !slices.Equal(grown, keys(many)) {
		t.Errorf("the keys are %q, were %q", grown, keys(many))
	}
	for _, other := range keys(all("b\n" + strings.Repeat("a\n", 4100))) {
		if slices.Contains(before, other) {
			t.Errorf("another file has the key %s too", other)
		}
	}
	wide := all(strings.Repeat(strings.Repeat("x", 200<<10)+"\n", 5) + strings.Repeat("y", 1<<20) + "\nz\n" + strings.Repeat("l", 1<<20+1) + "\n")
	var shape []string
	for _, b := range wide {
		shape = append(shape, fmt.Sprintf("%d+%d:%d", b.first, b.lines, bytes.Count(b.text, []byte{'\n'})))
	}
	if got, want := strings.Join(shape, " "), "1+2:2 3+2:2 5+1:1 6+1:1 7+2:2"; got != want {
		t.Errorf("wide lines are cut into %s, want %s", got, want)
	}
	if last := wide[4]; string(last.text) != "z\n\n" || last.filled != 2 || last.faults.count != 1 || last.faults.first[0] != "line 8: is longer than a line may be" {
		t.Errorf("the last batch is %+v", last)
	}
	if got := all("\n\na\n\n"); len(got) != 1 || got[0].filled != 1 || got[0].lines != 4 {
		t.Errorf("blank lines: %+v", got[0])
	}
}
