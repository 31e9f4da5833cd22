package descsync

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/filewatch"
	"github.com/tps-agent/ratelimitd/internal/lastgood"
)

// DirConfig names the directory.
type DirConfig struct {
	Dir          string
	PollInterval time.Duration // the directory is looked at this often, beside notifications; 0 = 1 s
	DataDir      string        // keeps the last good files
	Prepare      func() error  // makes DataDir and keeps other processes out of it
	Publish      func(*descriptors.Set)
}

// Dir follows one directory.
type Dir struct {
	cfg     DirConfig
	log     *slog.Logger
	metrics *metrics
	kept    *lastgood.File[savedFiles]
	state   atomic.Pointer[state]
	ready   atomic.Bool // every file that there was at some instant was good at least once

	// Below: only touched by Load, then by Run.
	seen   map[string]stat // of the files of set
	set    *descriptors.Set
	good   map[string]string // the content of files when they were good last
	newest map[string]string // the content of files when they were read last
	faults map[string]string // of files, as they were logged
}

// state is how the last look ended.
type state struct {
	set   *descriptors.Set
	fault error // of the directory itself
}

// savedFiles is what the data directory keeps.
type savedFiles struct {
	Dir   string            `json:"dir"`
	Files map[string]string `json:"files"`
}

// filesName is that of the file in the data directory.
const filesName = "descriptors.json"

// NewDir returns a Dir that has read nothing yet.
func NewDir(cfg DirConfig, reg prometheus.Registerer, log *slog.Logger) (*Dir, error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("finding the directory %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	d := &Dir{cfg: cfg, log: log, faults: make(map[string]string)}
	if d.metrics, err = newMetrics(reg, d.Ready); err != nil {
		return nil, err
	}
	d.kept = lastgood.New(lastgood.Config[savedFiles]{What: "the last good descriptor files", Dir: cfg.DataDir, Name: filesName, Prepare: cfg.Prepare, Errors: d.metrics.stateErrors}, log)
	return d, nil
}

// Load reads the directory for the first time. The error says that it cannot be read and that nothing
// of it was kept.
func (s *Dir) Load(ctx context.Context) error {
	s.recall(ctx)
	s.look(ctx)
	if st := s.state.Load(); st.fault != nil && s.set.Len() == 0 {
		return st.fault
	}
	return nil
}

// recall puts in force what an earlier process has kept of the directory.
func (s *Dir) recall(ctx context.Context) {
	var was savedFiles
	if !s.kept.Read(ctx, &was) {
		return
	}
	if was.Dir != s.cfg.Dir {
		s.log.WarnContext(ctx, "the last good descriptor files are those of another directory and are not used", slog.String("theirs", was.Dir), slog.String("dir", s.cfg.Dir))
		return
	}
	files := make(map[string]descriptors.File, len(was.Files))
	for name, body := range was.Files {
		files[name] = descriptors.File{Body: []byte(body)}
	}
	s.good = was.Files
	s.set = descriptors.Update(nil, files)
}

// Run follows the directory until ctx ends, and returns nil then.
func (s *Dir) Run(ctx context.Context) error {
	s.kept.RunWhile(ctx, func() {
		filewatch.Follow(ctx, filewatch.Config{What: "the descriptor files", Tree: s.cfg.Dir, Poll: s.cfg.PollInterval}, s.log, s.look)
	})
	return nil
}

// look puts in force what the directory holds now.
func (s *Dir) look(ctx context.Context) {
	began := time.Now()
	files, changed, err := s.read()
	if err != nil {
		s.unreadable(ctx, err)
		return
	}
	before := s.state.Load()
	if before != nil && before.fault != nil {
		s.log.InfoContext(ctx, "the directory of the descriptor files can be read again")
	}
	if !changed && before != nil {
		s.state.Store(&state{set: s.set})
		return
	}
	prev := s.set
	s.set = descriptors.Update(prev, files)
	if before == nil || !s.set.Same(prev) {
		s.cfg.Publish(s.set)
		s.metrics.loaded(s.set)
		s.report(ctx, time.Since(began))
		s.keep(files)
	}
	if s.set.Loaded() == nil {
		s.ready.Store(true)
	}
	s.state.Store(&state{set: s.set}) // last: who waits for Ready finds the rest done
}

// read reads the files that are not for sure what they were, and tells whether there is any, or one more
// or less, or whether this is the first time that they could be read.
func (s *Dir) read() (files map[string]descriptors.File, changed bool, err error) {
	changed = s.seen == nil
	seen := make(map[string]stat, len(s.seen))
	files, err = descriptors.ReadDir(s.cfg.Dir, func(name string, info fs.FileInfo) bool {
		now := statOf(info)
		seen[name] = now
		if !now.same(s.seen[name]) {
			changed = true
			return false
		}
		return true
	})
	if err != nil {
		return nil, false, err
	}
	maps.DeleteFunc(seen, func(name string, _ stat) bool {
		f, found := files[name]
		return !found || f.Err != nil // which is tried again, whatever it looks like
	})
	changed = changed || len(files) != len(seen) || len(files) != len(s.seen)
	s.seen = seen
	return files, changed, nil
}

// unreadable leaves in force what is.
func (s *Dir) unreadable(ctx context.Context, err error) {
	defer s.state.Store(&state{set: s.set, fault: err}) // last: who waits for Ready finds the rest done
	before := s.state.Load()
	if before == nil && s.set.Len() == 0 { // Load tells it
		return
	}
	if before == nil {
		s.cfg.Publish(s.set)
		s.metrics.loaded(s.set)
	}
	if before == nil || before.fault == nil || before.fault.Error() != err.Error() {
		s.metrics.errors.Inc()
		s.log.ErrorContext(ctx, "the directory of the descriptor files cannot be read; what is in force stays", slog.Any("error", err))
	}
}

// report logs each fault once, and what is in force now.
func (s *Dir) report(ctx context.Context, took time.Duration) {
	faults := make(map[string]string)
	for src := range s.set.Sources() {
		if src.Err == nil {
			continue
		}
		faults[src.Name] = src.Err.Error()
		if s.faults[src.Name] != src.Err.Error() {
			s.metrics.errors.Inc()
			s.log.ErrorContext(ctx, "a descriptor file is not in force as it is", slog.String("file", src.Name), slog.String("in_force", inForce(src)), slog.Any("error", src.Err))
		}
	}
	s.faults = faults
	s.log.InfoContext(ctx, "descriptor files are in force", slog.Int("domains", s.set.Len()), slog.Int("limits", s.set.Rules()),
		slog.Int("bad_files", len(faults)), slog.Duration("took", took))
}

func inForce(src descriptors.Source) string {
	switch {
	case src.Loaded:
		return "what it said when it was good last"
	case src.Domain != nil:
		return "its domain, without limits"
	}
	return "nothing"
}

// keep has the data directory keep what each file said when it was good last.
func (s *Dir) keep(files map[string]descriptors.File) {
	good, newest := make(map[string]string), make(map[string]string)
	for src := range s.set.Sources() {
		body, read := s.newest[src.Name], files[src.Name]
		if !read.Unchanged && read.Err == nil {
			body = string(read.Body)
		}
		newest[src.Name] = body
		was, known := s.good[src.Name]
		switch {
		case src.Loaded && src.Err == nil: // perhaps only now, though it says the same: another file had its domain
			good[src.Name] = body
		case src.Loaded && known:
			good[src.Name] = was
		}
	}
	s.newest = newest
	if !maps.Equal(good, s.good) {
		s.good = good
		s.kept.Put(savedFiles{Dir: s.cfg.Dir, Files: good})
	}
}

// Ready returns nil when what is in force is what the files say, else what is wrong with them. It never
// waits.
func (s *Dir) Ready() error {
	st := s.state.Load()
	if st == nil {
		return fmt.Errorf("the directory %s has not been read yet", s.cfg.Dir)
	}
	return errors.Join(st.fault, st.set.Err())
}

// Loaded returns nil once every file was good at least once, else which was not. A bad file that comes
// later does not change it: all replicas would stop to serve at once, for one file.
func (s *Dir) Loaded() error {
	st := s.state.Load()
	if s.ready.Load() {
		return nil
	}
	if st == nil {
		return s.Ready()
	}
	return st.set.Loaded()
}
