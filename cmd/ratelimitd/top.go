package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/mattn/go-isatty"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/client"
)

// topCmd shows what a running server measures.
type topCmd struct {
	remote
	Window   string `default:"10s" help:"Figures of this time up to now: 1s to 1h."`
	Sort     string `default:"tps" enum:"tps,peak,p50,p95,p99,success,throttled,held,name" help:"Order: ${enum}."`
	Domain   string `help:"Only this domain."`
	Gateway  string `help:"Only this gateway."`
	Endpoint string `help:"Only this endpoint."`
	Once     bool   `help:"Print one table as text, as is done where the output is no terminal."`
}

func (c *topCmd) run(ctx context.Context, env []string, stdout io.Writer) error {
	window, err := admin.ParseDuration(c.Window)
	if err != nil || window < time.Second {
		return fmt.Errorf("--window %q: is not a duration of a second or more, such as 30, 30s, 5m or 1h", c.Window)
	}
	api, err := c.client(env)
	if err != nil {
		return err
	}
	f := &feed{api: api, query: client.StatsQuery{Window: window, Domain: c.Domain, Gateway: c.Gateway, Endpoint: c.Endpoint}}
	first, err := f.once(ctx)
	if err != nil {
		return err
	}
	v := &topView{server: c.Server, window: window, stats: first, sort: c.Sort}
	out, isFile := stdout.(*os.File)
	if c.Once || !isFile || !isatty.IsTerminal(out.Fd()) {
		_, err := io.WriteString(stdout, v.print())
		return err
	}
	return v.live(ctx, f, os.Stdin, out)
}

// feed brings figures of a server.
type feed struct {
	api   *client.Client
	query client.StatsQuery
}

// update is what a feed brings: figures, or why there are none.
type update struct {
	stats client.Stats
	err   error
}

// once asks for the figures, and waits no longer than somebody before a screen does.
func (f *feed) once(ctx context.Context) (client.Stats, error) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return f.api.Stats(ctx, f.query)
}

// run brings updates until ctx ends: from the stream of the server, and while there is none, from
// asking once a second.
func (f *feed) run(ctx context.Context, updates chan<- update) {
	bring := func(u update) {
		select {
		case updates <- u:
		case <-ctx.Done():
		}
	}
	for ctx.Err() == nil {
		came := false
		err := f.api.StreamStats(ctx, f.query, func(s client.Stats) {
			came = true
			bring(update{stats: s})
		})
		polls := 1 // the server may be back at once
		if !came || errors.Is(err, client.ErrNoStream) {
			polls = 30 // a proxy may keep the stream back
		}
		f.poll(ctx, polls, bring)
	}
}

func (f *feed) poll(ctx context.Context, times int, bring func(update)) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for range times {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s, err := f.once(ctx)
		bring(update{s, err})
	}
}

// live shows the view in a terminal until somebody quits, ctx ends or a signal comes. Whatever ends
// it leaves the terminal as it was.
func (v *topView) live(ctx context.Context, f *feed, in, out *os.File) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	s, err := openScreen(in, out)
	if err != nil {
		return err
	}
	defer s.restore()
	updates, keys := make(chan update), make(chan byte)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop() // what runs beside ends before it is waited for
	parts.Go(s.guarded(func() { f.run(ctx, updates) }))
	go s.guarded(func() { s.read(keys, ctx.Done()) })() // not waited for: it may read until the process ends
	return v.loop(ctx, s, updates, keys)
}

// guarded is f, of which a panic leaves the terminal as it was, too.
func (s *screen) guarded(f func()) func() {
	return func() {
		defer func() {
			if p := recover(); p != nil {
				s.restore()
				panic(p)
			}
		}()
		f()
	}
}

func (v *topView) loop(ctx context.Context, s *screen, updates <-chan update, keys <-chan byte) error {
	look := time.NewTicker(200 * time.Millisecond) // for another size of the terminal
	defer look.Stop()
	width, height := s.size()
	for {
		if err := s.draw(v.screen(width, height)); err != nil {
			return err
		}
		for changed := false; !changed; {
			select {
			case u := <-updates:
				changed = v.take(u)
			case key := <-keys:
				if quits(key) {
					return nil
				}
				changed = v.press(key)
			case <-look.C:
				w, h := s.size()
				changed = w != width || h != height
				width, height = w, h
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// take shows an update, but for one that comes while the view is paused.
func (v *topView) take(u update) (changed bool) {
	switch {
	case v.paused:
		return false
	case u.err != nil:
		v.fault = "not connected: " + visible(u.err.Error())
	default:
		v.stats, v.fault = u.stats, ""
	}
	return true
}

// quits are q, Ctrl-C and Ctrl-D.
func quits(key byte) bool { return key == 'q' || key == 'Q' || key == 3 || key == 4 }

func (v *topView) press(key byte) (changed bool) {
	switch key {
	case 's':
		v.sort = nextOrder(v.sort)
	case ' ':
		v.paused = !v.paused
	default:
		return false
	}
	return true
}
