package main

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// What a terminal is told. Lines do not wrap and each cell says in which column it begins, so that
// a name that is wider than we think spoils nothing but itself.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J" // the other screen, no cursor, no wrapping
	leaveScreen = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l"
	homeCursor  = "\x1b[H"
	clearLine   = "\x1b[K"
	clearBelow  = "\x1b[J"
)

// screen is a terminal that shows what top draws, and gives single keys.
type screen struct {
	in, out *os.File
	restore func() // makes the terminal what it was; may be called again
}

// openScreen takes a terminal over. Where in is none, there are no keys.
func openScreen(in, out *os.File) (*screen, error) {
	s := &screen{in: in, out: out}
	unraw := func() error { return nil }
	if fd := int(in.Fd()); term.IsTerminal(fd) {
		old, err := term.MakeRaw(fd)
		if err != nil {
			return nil, fmt.Errorf("taking the terminal over: %w", err)
		}
		unraw = func() error { return term.Restore(fd, old) }
	}
	s.restore = sync.OnceFunc(func() {
		_, _ = out.WriteString(leaveScreen) // the terminal has gone: nobody is left to tell, here and below
		_ = unraw()
	})
	if _, err := out.WriteString(enterScreen); err != nil {
		s.restore()
		return nil, fmt.Errorf("writing to the terminal: %w", err)
	}
	return s, nil
}

// size is that of a usual terminal where it cannot be told.
func (s *screen) size() (width, height int) {
	width, height, err := term.GetSize(int(s.out.Fd()))
	if err != nil || width < 1 || height < 1 {
		return 80, 24
	}
	return width, height
}

// draw shows these lines in place of what there was, in one write so that nothing flickers.
func (s *screen) draw(lines []line) error {
	var b strings.Builder
	b.WriteString(homeCursor)
	for i, l := range lines {
		if i > 0 {
			b.WriteString("\r\n")
		}
		l.ansi(&b)
	}
	b.WriteString(clearBelow)
	if _, err := s.out.WriteString(b.String()); err != nil {
		return fmt.Errorf("writing to the terminal: %w", err)
	}
	return nil
}

func (l line) ansi(b *strings.Builder) {
	b.WriteString(clearLine)
	if l.bold {
		b.WriteString("\x1b[1m")
	}
	for _, c := range l.cells {
		fmt.Fprintf(b, "\x1b[%dG%s", c.at+1, c.text)
	}
	if l.bold {
		b.WriteString("\x1b[0m")
	}
}

// read sends each key until the terminal ends, or done is closed and another key comes.
func (s *screen) read(keys chan<- byte, done <-chan struct{}) {
	buf := make([]byte, 64)
	for {
		n, err := s.in.Read(buf)
		for _, key := range buf[:n] {
			select {
			case keys <- key:
			case <-done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}
