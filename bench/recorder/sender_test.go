package recorder

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/tps-agent/ratelimitd/bench/measure"
)

const streamMethod = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs"

// sender streams entries as a worker of Envoy does: one stream on a connection of its own.
type sender struct {
	addr    string
	rename  func(i int) string // of endpoints; nil = none
	entries int64              // after which it ends; 0 = when stop is closed
	rate    int                // entries per second; 0 = as fast as they are taken
	stop    <-chan struct{}    // nil = never

	messages []*message
	next     int64        // number of the next invented name
	sent     atomic.Int64 // entries
}

// run returns when everything that was sent has been read by the server.
func (s *sender) run(ctx context.Context) (err error) {
	if s.messages, err = newMessages(s.rename); err != nil {
		return err
	}
	conn, err := dial(s.addr)
	if err != nil {
		return err
	}
	defer conn.Close() //nolint:errcheck // the streams have ended
	for again := true; again && err == nil; {
		again, err = s.stream(ctx, conn)
	}
	return err
}

func dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(&measure.RawCodec{})))
}

// stream sends until the sender ends, or the server ends the stream: then again is true.
func (s *sender) stream(ctx context.Context, conn *grpc.ClientConn) (again bool, err error) {
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, streamMethod)
	if err != nil {
		return false, fmt.Errorf("opening a stream: %w", err)
	}
	every(s.interval(), func(time.Time) bool {
		if s.ended() {
			return false
		}
		err = stream.SendMsg(s.message())
		return err == nil
	})
	again = errors.Is(err, io.EOF) // RecvMsg tells why
	if err != nil && !again {
		return false, fmt.Errorf("sending a message: %w", err)
	}
	if err := errors.Join(stream.CloseSend(), stream.RecvMsg(&[]byte{})); err != nil {
		return false, fmt.Errorf("ending a stream: %w", err)
	}
	return again, nil
}

// interval is the time between two messages.
func (s *sender) interval() time.Duration {
	if s.rate == 0 {
		return 0
	}
	return perMessage * time.Second / time.Duration(s.rate)
}

func (s *sender) ended() bool {
	select {
	case <-s.stop:
		return true
	default:
		return s.entries > 0 && s.sent.Load() >= s.entries
	}
}

// message is the next one to send, its entries with the time of now.
func (s *sender) message() []byte {
	m := s.messages[int(s.sent.Add(perMessage)/perMessage)%different]
	m.stamp(time.Now())
	s.next = m.invent(s.next)
	return m.wire
}

// every calls do at each multiple of the interval, at once where it is late or the interval is 0, and
// returns when do returns false. It sleeps in the kernel, since a timer of Go's can be a millisecond
// late.
func every(interval time.Duration, do func(due time.Time) bool) {
	began := time.Now()
	for i := 1; ; i++ {
		due := began.Add(interval * time.Duration(i))
		if rest := time.Until(due); rest > 0 {
			t := syscall.NsecToTimespec(int64(rest))
			_ = syscall.Nanosleep(&t, nil) // if it is interrupted, the next one is early
		}
		if !do(due) {
			return
		}
	}
}
