package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"
)

// tick is how often each of the goroutines is asked for decisions.
const tick = time.Millisecond

// pacer is a process of its own, so that requests come as they do from a client: as bytes that the
// kernel has, whatever this process is busy with.
type pacer struct {
	cmd   *exec.Cmd
	log   bytes.Buffer
	ticks []*os.File // of each goroutine: the time at which it was asked, 8 bytes of nanoseconds since 1970
}

// startPacer runs this very program as a pacer until ctx ends.
func startPacer(ctx context.Context, goroutines int) (*pacer, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &pacer{cmd: exec.CommandContext(ctx, self, "-pace")} //nolint:gosec // this program
	p.cmd.Stderr = &p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	for range goroutines {
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			return nil, err
		}
		p.ticks, p.cmd.ExtraFiles = append(p.ticks, r), append(p.cmd.ExtraFiles, w)
	}
	p.cmd.Args = append(p.cmd.Args, "-goroutines", strconv.Itoa(goroutines))
	if err := p.cmd.Start(); err != nil {
		p.close()
		return nil, err
	}
	for _, w := range p.cmd.ExtraFiles { // the child has its own: when it ends, the pipes do
		_ = w.Close()
	}
	return p, nil
}

func (p *pacer) close() {
	for _, f := range append(p.ticks, p.cmd.ExtraFiles...) {
		_ = f.Close() // one that the child has written to is closed already
	}
}

// end returns when the process has ended, which it does with its context.
func (p *pacer) end(ctx context.Context) error {
	err := p.cmd.Wait()
	p.close()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // it was killed, as the round is over
	}
	return fmt.Errorf("the pacer has ended: %w\n%s", err, p.log.String())
}

// next returns when the goroutine was asked, and io.EOF when the round is over. It reads into b, so
// that it allocates nothing, as the decision itself.
func next(ticks io.Reader, b *[8]byte) (time.Time, error) {
	if _, err := io.ReadFull(ticks, b[:]); err != nil {
		return time.Time{}, io.EOF
	}
	return time.Unix(0, int64(binary.LittleEndian.Uint64(b[:]))), nil //nolint:gosec // a time of this century
}

// pace writes to the pipes that this process was started with, by turns, until it is killed.
func pace(goroutines int) error {
	const firstExtra = 3 // behind standard input, output and error
	var pipes []*os.File
	for i := range goroutines {
		pipes = append(pipes, os.NewFile(uintptr(firstExtra+i), "pipe"))
	}
	began := time.Now()
	for i := 1; ; i++ {
		due := tick * time.Duration(i) / time.Duration(goroutines)
		if rest := due - time.Since(began); rest > 0 {
			t := syscall.NsecToTimespec(int64(rest))
			_ = syscall.Nanosleep(&t, nil) // a timer of Go's can be a millisecond late
		}
		b := binary.LittleEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
		if _, err := pipes[i%goroutines].Write(b); err != nil {
			return err
		}
	}
}
