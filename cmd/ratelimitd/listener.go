package main

import (
	"net"
	"sync"
	"time"
)

// handshakes is a listener that can cut the handshakes of its connections. grpc-go waits for them
// before it tells anyone to go, and before it closes anything: one client that connects and says
// nothing would keep Envoy's connections and the process.
//
// A handshake is TLS, where the ports have it, and the preface and first frame of HTTP/2. grpc-go
// bounds it with a deadline, and lifts that one when it is over.
type handshakes struct {
	net.Listener

	mu    sync.Mutex
	open  map[*handshake]struct{}
	until time.Time // zero = as long as grpc-go lets them
}

func newHandshakes(l net.Listener) *handshakes {
	return &handshakes{Listener: l, open: make(map[*handshake]struct{})}
}

// Accept returns the next connection, whose handshake has begun.
func (l *handshakes) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	c := &handshake{Conn: conn, of: l}
	l.open[c] = struct{}{}
	return c, nil
}

// endBy fails the handshakes that are not over by then, also those of connections to come.
// Connections that have had theirs stay as they are.
func (l *handshakes) endBy(t time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until = t
	for c := range l.open {
		_ = c.Conn.SetDeadline(t) // one that fails is closed
	}
}

// handshake is a connection that is no longer in open once its handshake is over.
type handshake struct {
	net.Conn
	of *handshakes
}

// SetDeadline bounds the handshake, and ends it with the zero time.
func (c *handshake) SetDeadline(t time.Time) error {
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	if t.IsZero() {
		delete(c.of.open, c)
	} else if !c.of.until.IsZero() && c.of.until.Before(t) {
		t = c.of.until
	}
	return c.Conn.SetDeadline(t)
}

// Close also ends a handshake that has failed.
func (c *handshake) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
