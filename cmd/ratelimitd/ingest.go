package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/schollz/progressbar/v3"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
)

// ingestCmd brings a log file into a running server.
type ingestCmd struct {
	remote
	Rows    bool   `help:"The lines are transactions as POST /api/v1/transactions takes them, and not Envoy's access log."`
	Timeout string `default:"2m" help:"A server that cannot take lines is tried again for this time."`
	File    string `arg:"" help:"The file, plain or gzip; - stands for the standard input. Given again, also when it has grown, only new lines are counted; but one that had fewer than 100 lines and has grown counts anew."`
}

func (c *ingestCmd) run(ctx context.Context, env []string, stdout, stderr io.Writer) error {
	patience, err := admin.ParseDuration(c.Timeout)
	if err != nil || patience < time.Second {
		return fmt.Errorf("--timeout %q: is not a duration of a second or more, such as 30, 30s or 5m", c.Timeout)
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	file, size, err := openLog(c.File)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // it was only read
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	g := &ingestion{api: api, accessLog: !c.Rows, patience: patience, stderr: stderr, bar: progressBar(stderr, c.File, size)}
	batches := make(chan readBatch)
	go readBatches(ctx, &countedReader{file, g.bar}, c.Rows, batches) // not waited for: it may read until the process ends
	err = g.run(ctx, batches)
	_ = g.bar.Clear() // where it is shown at all
	g.print(stdout)
	return err
}

// openLog returns a file and its size, which is -1 where that is not known.
func openLog(name string) (*os.File, int64, error) {
	if name == "-" {
		return os.Stdin, -1, nil
	}
	file, err := os.Open(name) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, 0, errors.Join(err, file.Close())
	case info.IsDir():
		return nil, 0, errors.Join(fmt.Errorf("%s: is a directory", name), file.Close())
	case !info.Mode().IsRegular():
		return file, -1, nil
	}
	return file, info.Size(), nil
}

// progressBar counts the bytes that are read, in a terminal only.
func progressBar(stderr io.Writer, name string, size int64) *progressbar.ProgressBar {
	out, isFile := stderr.(*os.File)
	const width, every = 30, 100 * time.Millisecond
	return progressbar.NewOptions64(max(size, -1),
		progressbar.OptionSetWriter(stderr), progressbar.OptionSetVisibility(isFile && isatty.IsTerminal(out.Fd())),
		progressbar.OptionSetDescription(visible(name)), progressbar.OptionShowBytes(true), progressbar.OptionSetWidth(width),
		progressbar.OptionThrottle(every), progressbar.OptionSetSpinnerChangeInterval(0)) // no goroutine of its own
}

// countedReader counts for a bar, which a file that grows makes fuller than full.
type countedReader struct {
	io.Reader
	bar *progressbar.ProgressBar
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	_ = r.bar.Add(n) // it is for show
	return n, err
}

// readBatch is a batch, or why there is no further one.
type readBatch struct {
	*lineBatch
	err error
}

// readBatches brings all batches, then an error, until ctx ends.
func readBatches(ctx context.Context, from io.Reader, rows bool, to chan<- readBatch) {
	r, err := newBatchReader(from, rows)
	for {
		var b readBatch
		if b.err = err; err == nil {
			b.lineBatch, b.err = r.read()
		}
		select {
		case to <- b:
		case <-ctx.Done():
			return
		}
		if b.err != nil {
			return
		}
	}
}

// ingestion sends batches, and counts what becomes of their lines.
type ingestion struct {
	api       *client.Client
	accessLog bool
	patience  time.Duration
	stderr    io.Writer
	bar       *progressbar.ProgressBar

	done                                int // lines of the file that were sent, or need not be
	lines, accepted, duplicate, ignored int // lines that are not blank
	faults                              badLines
}

var errInterrupted = errors.New("it was interrupted")

func (g *ingestion) run(ctx context.Context, batches <-chan readBatch) error {
	for {
		var b readBatch
		select {
		case b = <-batches:
		case <-ctx.Done():
			return g.stopped(errInterrupted)
		}
		switch {
		case errors.Is(b.err, io.EOF):
			return g.verdict()
		case b.err != nil:
			return g.stopped(fmt.Errorf("reading the file: %w", b.err))
		}
		taken, err := g.send(ctx, b.lineBatch)
		switch {
		case ctx.Err() != nil && err != nil:
			return g.stopped(errInterrupted)
		case err != nil:
			return g.stopped(err)
		}
		g.count(b.lineBatch, taken)
	}
}

// stopped says how far it got.
func (g *ingestion) stopped(err error) error {
	return fmt.Errorf("stopped after line %d: %w (started again with the same file, it takes nothing twice)", g.done, err)
}

func (g *ingestion) verdict() error {
	if g.faults.count > 0 && g.accepted+g.duplicate == 0 {
		return errors.New("no line was taken")
	}
	return nil
}

// Pauses between requests that the server could not take.
const (
	firstIngestPause   = 200 * time.Millisecond
	longestIngestPause = 5 * time.Second
)

// send sends a batch until the server has taken it, or for as long as the patience lasts.
func (g *ingestion) send(ctx context.Context, b *lineBatch) (client.Taken, error) {
	if b.filled == b.faults.count {
		return client.Taken{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, g.patience)
	defer cancel()
	var last error // why the server did not take it when it was asked before
	for pause := firstIngestPause; ; pause = min(2*pause, longestIngestPause) {
		taken, err := g.try(ctx, b)
		if last != nil && ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) { // which says less
			return taken, last
		}
		last = err
		temporary, ok := errors.AsType[*client.TemporaryError](err)
		if !ok {
			return taken, err
		}
		if pause == firstIngestPause {
			_ = g.bar.Clear() // it shows itself again
			fmt.Fprintf(g.stderr, "ratelimitd: trying again for %s: %s\n", g.patience, visible(err.Error()))
		}
		pause = max(pause, min(temporary.After, longestIngestPause))
		if !waited(ctx, pause/2+rand.N(pause)) { //nolint:gosec // spreads requests, no secret
			return taken, err
		}
	}
}

// waited blocks for a time; false where ctx ended before.
func waited(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (g *ingestion) try(ctx context.Context, b *lineBatch) (client.Taken, error) {
	const answerTime = 40 * time.Second // the server gives up before
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	taken, err := g.api.SendTransactions(ctx, client.Upload{Lines: b.text, AccessLog: g.accessLog, Key: b.key})
	if err != nil {
		err = fmt.Errorf("lines %d to %d: %w", b.first, b.first+b.lines-1, err)
	}
	return taken, err
}

func (g *ingestion) count(b *lineBatch, taken client.Taken) {
	g.done += b.lines
	g.lines += b.filled
	g.accepted += taken.Accepted
	g.ignored += taken.Ignored
	g.duplicate += max(b.filled-b.faults.count-taken.Accepted-taken.Ignored-taken.Malformed, 0)
	g.faults.add(b.faults.count, b.faults.first...)
	var told []string
	for _, fault := range taken.Errors {
		told = append(told, b.told(fault))
	}
	g.faults.add(taken.Malformed, told...)
}

func (g *ingestion) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "lines\t%d\naccepted\t%d\nduplicate\t%d\nignored\t%d\nmalformed\t%d\n", g.lines, g.accepted, g.duplicate, g.ignored, g.faults.count)
	_ = t.Flush() // text for a reader
	for _, fault := range g.faults.first {
		fmt.Fprintln(w, "  "+fault)
	}
	if more := g.faults.count - len(g.faults.first); more > 0 {
		fmt.Fprintf(w, "  and %d more\n", more)
	}
}
