package recorder

import (
	"errors"
	"io"
	"log/slog"
	"time"

	_ "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3" // descriptors for reflection
	"google.golang.org/grpc"
)

// closeGrace is how long an idle stream is kept when streams are to end: Envoy's usual
// buffer_flush_interval of a second, and some.
const closeGrace = 2 * time.Second

// Register adds AccessLogService v3 to a grpc server, whose codec must let messages decode
// themselves (rls.Codec).
func (r *Recorder) Register(s grpc.ServiceRegistrar) {
	s.RegisterService(&grpc.ServiceDesc{
		ServiceName: "envoy.service.accesslog.v3.AccessLogService",
		HandlerType: (*any)(nil),
		Streams:     []grpc.StreamDesc{{StreamName: "StreamAccessLogs", Handler: streamAccessLogs, ClientStreams: true}},
		Metadata:    "envoy/service/accesslog/v3/als.proto",
	}, r)
}

// CloseStreams ends every stream right after the next message, idle ones after two seconds:
// Envoy loses nothing when a stream ends there, and opens the next one elsewhere.
func (r *Recorder) CloseStreams() { r.close.Do(func() { close(r.closing) }) }

func streamAccessLogs(srv any, stream grpc.ServerStream) error {
	r := srv.(*Recorder)
	r.metrics.streams.Inc()
	defer r.metrics.streams.Dec()
	ended := make(chan error, 1)
	go func() { ended <- r.receive(stream) }()
	if err := r.await(ended); err != nil {
		return err
	}
	return stream.SendMsg(&message{}) // the end of the stream ends receive as well
}

// await returns when receive has ended, or some time after CloseStreams where the stream is idle.
func (r *Recorder) await(ended <-chan error) error {
	select {
	case err := <-ended:
		return err
	case <-r.closing:
	}
	idle := time.NewTimer(closeGrace)
	defer idle.Stop()
	select {
	case err := <-ended:
		return err
	case <-idle.C:
		return nil
	}
}

// receive reads messages until the client or CloseStreams ends the stream; neither is an error.
func (r *Recorder) receive(stream grpc.ServerStream) error {
	m := message{recorder: r}
	for {
		if err := stream.RecvMsg(&m); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		select {
		case <-r.closing:
			return nil
		default:
		}
	}
}

// message is a StreamAccessLogsMessage on its way in, and the empty StreamAccessLogsResponse on
// its way out.
type message struct{ recorder *Recorder }

// UnmarshalWire records every entry of the message. It never fails: what cannot be read is
// counted, and the stream goes on.
func (m *message) UnmarshalWire(b []byte) error {
	r, receivedAt := m.recorder, time.Now()
	err := eachEntry(b, visitor{
		entry: func(e *entry) {
			if !e.counted() {
				r.metrics.ignored.Inc()
				return
			}
			t := e.transaction(receivedAt)
			r.Record(&t)
		},
		bad: r.malformed,
	})
	if err != nil {
		r.malformed(err)
	}
	return nil
}

// MarshalWire appends the empty response.
func (m *message) MarshalWire(b []byte) ([]byte, error) { return b, nil }

func (r *Recorder) malformed(err error) {
	r.metrics.dropped.WithLabelValues(dropMalformed).Inc()
	r.log.Debug("an access-log entry cannot be read", slog.Any("error", err))
}
