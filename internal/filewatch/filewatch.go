// Package filewatch tells when files may have changed, however they are written: in place, by
// rename, by the swap of a symbolic link above them (a Kubernetes ConfigMap or Secret), removed
// and put back.
//
//	directories of the files --fsnotify--> settle --> look
//	                          poll interval ----------^
//
// Notifications make a change known within milliseconds. They are not relied on: some file
// systems have none, and a queue of the system can run over. So the caller's look is also called
// from time to time, and has to find out by itself whether anything has changed. It is never
// called twice at once.
//
// Where the system gives no notifications, that is logged once and the poll does alone.
package filewatch

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// A notification is followed by a look when the files were left alone for settle, so that a
// write in several parts is read once, and in a busy directory at the latest after settleMost.
const (
	settle     = 10 * time.Millisecond
	settleMost = 100 * time.Millisecond
)

// Config says what to watch.
type Config struct {
	What  string        // names the files in logs: "the limits file"
	Paths []string      // of files, which need not exist; their directories are watched
	Tree  string        // a directory that is watched with all below it; empty = none
	Poll  time.Duration // look is called this often, beside notifications; 0 = 1 s
}

// Follow calls look once at the start, then whenever the files may have changed, until ctx ends.
func Follow(ctx context.Context, cfg Config, log *slog.Logger, look func(context.Context)) {
	w := &watch{paths: cfg.Paths, tree: cfg.Tree, log: log.With(slog.String("files", cfg.What))}
	var err error
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		w.watcher = &fsnotify.Watcher{} // whose channels are nil and stay silent
		w.log.WarnContext(ctx, "files are only polled: no notifications from the system", slog.Any("error", err))
	} else {
		defer w.watcher.Close() //nolint:errcheck // it only frees what the process had
		w.notifies = true
	}
	if _, err := w.add(); err != nil {
		w.log.WarnContext(ctx, "files are only polled: their directory cannot be watched", slog.Any("error", err))
	}
	look(ctx) // after the watch has begun, so that no change falls between
	if cfg.Poll <= 0 {
		cfg.Poll = time.Second
	}
	w.follow(ctx, cfg.Poll, look)
}

type watch struct {
	paths    []string
	tree     string
	watcher  *fsnotify.Watcher
	notifies bool
	log      *slog.Logger
}

// add asks for notifications about the directories that have the names by now: they may have
// been removed and made again, or mounted over.
//
// more = there are some that were not watched before: what happened in them was missed.
func (w *watch) add() (more bool, err error) {
	if !w.notifies {
		return false, nil
	}
	var dirs []string
	if w.tree != "" {
		dirs = treeDirs(w.tree)
	}
	for _, path := range w.paths {
		dirs = append(dirs, filepath.Dir(path))
	}
	dirs = resolved(dirs)
	watched := w.watcher.WatchList()
	var errs []error
	for _, dir := range dirs {
		err := w.watcher.Add(dir)
		errs = append(errs, err)
		more = more || err == nil && !slices.Contains(watched, dir)
	}
	for _, dir := range watched {
		if !slices.Contains(dirs, dir) {
			_ = w.watcher.Remove(dir) // it may be gone
		}
	}
	return more, errors.Join(errs...)
}

// resolved gives each directory one name, without symbolic links: under a second name the watcher does not
// list it, and under one that comes to mean another it keeps the old one. What cannot be found keeps its
// name.
func resolved(dirs []string) []string {
	names := make(map[string]bool, len(dirs))
	for _, dir := range dirs {
		if target, err := filepath.EvalSymlinks(dir); err == nil {
			dir = target
		}
		names[dir] = true
	}
	return slices.Sorted(maps.Keys(names))
}

func (w *watch) follow(ctx context.Context, poll time.Duration, look func(context.Context)) {
	ticker := time.NewTicker(poll)
	defer ticker.Stop()
	var settled, confirm <-chan time.Time
	var latest time.Time
	confirmed := false // the look that is due was asked for by confirm, and needs no other
	for {
		select {
		case <-ctx.Done():
			return
		case err := <-w.watcher.Errors: // a queue of the system that ran over: the poll finds what was missed
			w.log.DebugContext(ctx, "notifications about files were lost", slog.Any("error", err))
		case <-w.watcher.Events:
			if settled == nil {
				latest = time.Now().Add(settleMost)
			}
			settled, confirmed = time.After(min(settle, time.Until(latest))), false
		case <-settled:
			settled = nil
			if w.tree != "" {
				_, _ = w.add() // before the look, so that no change falls between
				if !confirmed {
					confirm = time.After(settleMost)
				}
				confirmed = false
			}
			look(ctx)
		case <-confirm: // the watch of a directory that was moved away ends late, and with it that of its successor
			confirm = nil
			if more, _ := w.add(); more && settled == nil {
				latest = time.Now().Add(settleMost)
				settled, confirmed = time.After(settle), true
			}
		case <-ticker.C:
			_, _ = w.add()      // a fault was logged at the start, and the poll does without
			if settled == nil { // else somebody is writing
				look(ctx)
			}
		}
	}
}
