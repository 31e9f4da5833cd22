package testenv

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"
)

// Server is a child process of the test, such as ratelimitd itself.
type Server struct{ proc *process }

// StartServer runs a program until the test ends or it is stopped. Its environment is PATH and
// env, nothing else.
func StartServer(tb testing.TB, env []string, path string, args ...string) *Server {
	tb.Helper()
	s := &Server{proc: start(tb, program{path: path, args: args, env: append([]string{"PATH=" + os.Getenv("PATH")}, env...)})}
	tb.Cleanup(s.proc.kill)
	return s
}

// Output is the end of what it has printed.
func (s *Server) Output() string { return s.proc.out.String() }

// Running tells whether it has not ended.
func (s *Server) Running() bool { return s.proc.running() }

// Terminate sends SIGTERM.
func (s *Server) Terminate() { s.proc.signal(syscall.SIGTERM) }

// Kill ends it with SIGKILL.
func (s *Server) Kill() { s.proc.kill() }

// Exited is closed when it has ended.
func (s *Server) Exited() <-chan struct{} { return s.proc.exited }

// ExitCode is its status once it has ended, -1 after a signal.
func (s *Server) ExitCode() int { return s.proc.cmd.ProcessState.ExitCode() }

// PID of the process.
func (s *Server) PID() int { return s.proc.cmd.Process.Pid }

// Wait returns when it has ended, and fails the test if that takes longer than the time.
func (s *Server) Wait(tb testing.TB, within time.Duration) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	select {
	case <-s.proc.exited:
	case <-ctx.Done():
		tb.Fatalf("process %d has not ended within %s:\n%s", s.PID(), within, s.Output())
	}
}
