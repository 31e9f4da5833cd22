package main

import (
	"context"
	"log/slog"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
)

// stopper tells of signals. SIGTERM, SIGHUP (or the end of the context) asks for the full drain, SIGINT
// from a terminal for one without delay, and any second signal for an end at once.
type stopper struct {
	signals chan os.Signal
	asked   <-chan struct{}
	told    bool // by a signal
}

func notify(ctx context.Context) *stopper {
	s := &stopper{signals: make(chan os.Signal, 2), asked: ctx.Done()}
	signal.Notify(s.signals, syscall.SIGTERM, syscall.SIGINT)
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		signal.Notify(s.signals, syscall.SIGHUP)
	}
	return s
}

// close lets signals do what they do by default, unless one has asked for the stop: the process ends then,
// and no further one is to kill it in its last moments.
func (s *stopper) close() {
	if !s.told {
		signal.Stop(s.signals)
	}
}

// wait blocks until the server is to stop, and returns the signal, nil where the context asked.
func (s *stopper) wait(live context.Context) (sig os.Signal, ok bool) {
	select {
	case sig := <-s.signals:
		s.told = true
		return sig, true
	case <-s.asked:
		return nil, true
	case <-live.Done(): // a part has failed
		return nil, false
	}
}

// reserve is the part of the drain time that is kept for the end: the patience for connections that
// are cut, the time for what the recorder still holds, and the patience for those to Postgres.
func (s *server) reserve() time.Duration { return min(5*time.Second, s.cfg.drainTime/5) }

// patience is how long a thing that should end at once is waited for.
func (s *server) patience() time.Duration { return min(500*time.Millisecond, s.reserve()/5) }

// flushTimes are how long the sinks may write what is left at the stop, and then the log on disk.
func (s *server) flushTimes() (sinks, spool time.Duration) {
	all := s.reserve() - 2*s.patience()
	return all * 3 / 4, all / 4
}

// within calls f, and goes on without it after a time.
func within(patience time.Duration, f func()) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f()
	}()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
}

// untilFlushed runs a part that writes to the data directory when ctx ends, and goes on without it where that
// takes longer than the recorder may.
func (s *server) untilFlushed(ctx context.Context, what string, run func(context.Context) error) error {
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	sinks, spool := s.flushTimes()
	timer := time.NewTimer(sinks + spool)
	defer timer.Stop()
	select {
	case err := <-ended:
		return err
	case <-timer.C:
		s.log.WarnContext(ctx, "the data directory hangs: it lacks what was to be written at the stop", slog.String("content", what))
		return nil
	}
}

// until returns what serve does, or nil when ctx ends first: a gRPC server returns no sooner than
// the last of its handlers.
func until(ctx context.Context, serve func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- serve() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// drain waits until the server is to stop, and stops it so that Envoy loses nothing: health says
// no first, and everything is still served for the delay; then held requests that can be served
// in time are, the others are refused, and connections are told to go.
func (s *server) drain(live context.Context, stop *stopper) {
	sig, asked := stop.wait(live)
	began := time.Now()
	s.draining.Store(true)
	s.health.Shutdown() // says no from now on, also where limits arrive meanwhile
	if !asked {
		s.stopNow()
		return
	}
	deadline := began.Add(s.cfg.drainTime - s.reserve())
	s.log.InfoContext(live, "stopping", slog.Duration("delay", s.cfg.drainDelay), slog.Duration("at_most", s.cfg.drainTime))
	if sig != syscall.SIGINT && !s.stillServing(live, stop, time.Until(began.Add(min(s.cfg.drainDelay, s.cfg.drainTime-s.reserve())))) {
		s.stopNow()
		return
	}
	const answers = 500 * time.Millisecond // for the last answers to travel
	s.engine.Drain(s.clock.NowNS() + int64(max(time.Until(deadline)-answers, 0)))
	s.logs.CloseStreams()
	s.endWatches()
	s.finish(live, stop, deadline)
}

// stillServing waits for the drain delay; false when a second signal came.
func (s *server) stillServing(live context.Context, stop *stopper, delay time.Duration) bool {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-stop.signals:
		return false
	case <-live.Done():
		return false
	}
}

// finish lets the servers end what they have, until the deadline or a second signal.
func (s *server) finish(live context.Context, stop *stopper, deadline time.Time) {
	const grace = 100 * time.Millisecond // for a handshake that is under way
	ctx, cancel := context.WithDeadline(live, deadline)
	defer cancel()
	s.handshakes.endBy(time.Now().Add(grace))
	var done sync.WaitGroup
	done.Go(s.grpc.GracefulStop)
	done.Go(func() { _ = s.http.Shutdown(ctx) }) // cut closes what is left
	ended := make(chan struct{})
	go func() {
		done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		s.log.WarnContext(live, "some requests had not ended when the drain time was over")
	case <-stop.signals:
	}
	cancel() // Shutdown looks only now and then
	within(s.patience(), func() {
		s.cut()
		<-ended
	})
}

func (s *server) stopNow() { within(s.patience(), s.cut) }

// cut closes everything that is open.
func (s *server) cut() {
	s.handshakes.endBy(time.Now())
	_ = s.http.Close()  // the process ends
	_ = s.debug.Close() // as above
	if s.metrics != nil {
		_ = s.metrics.Close() // as above
	}
	s.grpc.Stop()
}

// endWithDrain makes the drain end a watch of the health and a look at the services (reflection),
// which otherwise last as long as their client likes and would keep GracefulStop waiting. Streams of
// access logs end by themselves.
func (s *server) endWithDrain(service any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if _, isLogs := service.(*accesslog.Service); isLogs {
		return handle(service, stream)
	}
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.watches, cancel)()
	return handle(service, &watch{stream, ctx})
}

// watch is a stream with a context of its own.
type watch struct {
	grpc.ServerStream
	ctx context.Context
}

func (w *watch) Context() context.Context { return w.ctx }
