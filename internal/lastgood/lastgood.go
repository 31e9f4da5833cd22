// Package lastgood keeps the newest good content of a source in a file of the data directory, so that a
// process that starts while the source is bad or away has it.
//
//	Put --> newest --Run--> file --Read--> the next process
//
// Put never waits: a disk that is full or hangs costs nothing but the file, which is tried again. What
// comes while one content is written, and in the pause after it, replaces what waits.
package lastgood

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
)

const (
	// saveEvery and saveShare bound how often the file is written: a write is followed by a pause of at
	// least the first, and of the second times what the write took.
	saveEvery = time.Second
	saveShare = 10
	// saveAgain is the pause after a write that went wrong.
	saveAgain = 10 * time.Second
)

// Config of a File.
type Config[T any] struct {
	What string // names the content in logs: "the last good descriptor files"
	Dir  string // the data directory
	Name string // of the file in it
	// Prepare makes the directory and keeps other processes out of it. It is called before each write;
	// nil = nothing is to be done.
	Prepare func() error
	// Encode writes v, to a writer with a buffer; nil = as JSON.
	Encode func(w io.Writer, v T) error
	Errors prometheus.Counter // writes and reads that went wrong
}

// File keeps one content.
type File[T any] struct {
	cfg  Config[T]
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	waiting *T // nil = nothing
	failing bool
}

// New returns a File that does nothing before Run.
func New[T any](cfg Config[T], log *slog.Logger) *File[T] {
	if cfg.Encode == nil {
		cfg.Encode = func(w io.Writer, v T) error { return json.NewEncoder(w).Encode(v) }
	}
	return &File[T]{cfg: cfg, log: log.With(slog.String("content", cfg.What)), wake: make(chan struct{}, 1)}
}

// Path is where the content is kept.
func (f *File[T]) Path() string { return filepath.Join(f.cfg.Dir, f.cfg.Name) }

// Read decodes the JSON that an earlier process has kept into v, and tells whether there was something. What
// cannot be read is logged and counted. It is to be called before Run.
func (f *File[T]) Read(ctx context.Context, v *T) (found bool) {
	atomicfile.RemoveLeft(f.Path())
	body, err := os.ReadFile(f.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		f.cfg.Errors.Inc()
		f.log.ErrorContext(ctx, "what was kept in the data directory cannot be used", slog.Any("error", fmt.Errorf("reading %s: %w", f.Path(), err)))
		return false
	}
	return true
}

// Put has v written. Nobody may change it any more.
func (f *File[T]) Put(v T) {
	f.mu.Lock()
	f.waiting = &v
	f.mu.Unlock()
	f.notify()
}

// Run writes what is put until ctx ends, and what waits then once more. It returns nil.
func (f *File[T]) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-f.wake:
			select {
			case <-ctx.Done():
			case <-time.After(f.save(ctx)):
			}
		}
	}
	f.save(context.WithoutCancel(ctx))
	return nil
}

// RunWhile is Run until source, which puts content, has ended: what it puts at its end is written, too.
func (f *File[T]) RunWhile(ctx context.Context, source func()) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) }) // it returns nil
	source()
	end()
	running.Wait()
}

// notify has Run look at what waits.
func (f *File[T]) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// save writes what waits, and returns how long to pause then. If that went wrong, it puts it back where
// nothing newer waits.
func (f *File[T]) save(ctx context.Context) (pause time.Duration) {
	f.mu.Lock()
	v := f.waiting
	f.waiting = nil
	f.mu.Unlock()
	if v == nil {
		return 0
	}
	began := time.Now()
	err := f.write(*v)
	f.report(ctx, err)
	if err == nil {
		return max(saveEvery, saveShare*time.Since(began))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting == nil {
		f.waiting = v
	}
	f.notify()
	return saveAgain
}

func (f *File[T]) report(ctx context.Context, err error) {
	switch {
	case err != nil:
		f.cfg.Errors.Inc()
		if !f.failing {
			f.log.WarnContext(ctx, "it cannot be kept in the data directory", slog.Any("error", err))
		}
	case f.failing:
		f.log.InfoContext(ctx, "it is kept in the data directory again")
	}
	f.failing = err != nil
}

func (f *File[T]) write(v T) error {
	if f.cfg.Prepare != nil {
		if err := f.cfg.Prepare(); err != nil {
			return err
		}
	}
	return atomicfile.WriteFunc(f.Path(), func(w io.Writer) error {
		const buffer = 64 << 10 // bytes
		out := bufio.NewWriterSize(w, buffer)
		return errors.Join(f.cfg.Encode(out, v), out.Flush())
	})
}
