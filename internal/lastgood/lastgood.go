// Package lastgood keeps the newest good content of a source in a file of the data directory, so that a
// process that starts while the source is bad or away has it.
//
//	Put --> newest --Run--> file --Read--> the next process
//
// Put never waits: a disk that is full or hangs costs nothing but the file, which is tried again. What
// comes while one content is written replaces what waits.
package lastgood

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/atomicfile"
)

// saveAgain is the pause after a write that went wrong.
const saveAgain = 10 * time.Second

// Config of a File.
type Config struct {
	What string // names the content in logs: "the last good descriptor files"
	Dir  string // the data directory
	Name string // of the file in it
	// Prepare makes the directory and keeps other processes out of it. It is called before each write;
	// nil = nothing is to be done.
	Prepare func() error
	Errors  prometheus.Counter // writes and reads that went wrong
}

// File keeps one content.
type File struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu      sync.Mutex
	waiting any // nil = nothing
	failing bool
}

// New returns a File that does nothing before Run.
func New(cfg Config, log *slog.Logger) *File {
	return &File{cfg: cfg, log: log.With(slog.String("content", cfg.What)), wake: make(chan struct{}, 1)}
}

func (f *File) path() string { return filepath.Join(f.cfg.Dir, f.cfg.Name) }

// Read decodes what an earlier process has kept into v, and tells whether there was something. What
// cannot be read is logged and counted. It is to be called before Run.
func (f *File) Read(ctx context.Context, v any) (found bool) {
	atomicfile.RemoveLeft(f.path())
	body, err := os.ReadFile(f.path())
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err == nil {
		err = json.Unmarshal(body, v)
	}
	if err != nil {
		f.cfg.Errors.Inc()
		f.log.ErrorContext(ctx, "what was kept in the data directory cannot be used", slog.Any("error", fmt.Errorf("reading %s: %w", f.path(), err)))
		return false
	}
	return true
}

// Put has v written as JSON. Nobody may change it any more.
func (f *File) Put(v any) {
	f.mu.Lock()
	f.waiting = v
	f.mu.Unlock()
	f.notify()
}

// Run writes what is put until ctx ends, and what waits then once more. It returns nil.
func (f *File) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			f.save(context.WithoutCancel(ctx))
			return nil
		case <-f.wake:
		}
		if f.save(ctx) {
			continue
		}
		select {
		case <-ctx.Done():
		case <-time.After(saveAgain):
			f.notify()
		}
	}
}

// RunWhile is Run until source, which puts content, has ended: what it puts at its end is written, too.
func (f *File) RunWhile(ctx context.Context, source func()) {
	ctx, end := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { _ = f.Run(ctx) }) // it returns nil
	source()
	end()
	running.Wait()
}

// notify has Run look at what waits.
func (f *File) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// save writes what waits, and puts it back if that went wrong and nothing newer waits.
func (f *File) save(ctx context.Context) (ok bool) {
	f.mu.Lock()
	v := f.waiting
	f.waiting = nil
	f.mu.Unlock()
	if v == nil {
		return true
	}
	err := f.write(v)
	f.report(ctx, err)
	if err == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.waiting == nil {
		f.waiting = v
	}
	return false
}

func (f *File) report(ctx context.Context, err error) {
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

func (f *File) write(v any) error {
	if f.cfg.Prepare != nil {
		if err := f.cfg.Prepare(); err != nil {
			return err
		}
	}
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encoding %s: %w", f.path(), err)
	}
	return atomicfile.Write(f.path(), append(body, '\n'))
}
