package accesslog

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
)

// Streams end around the age, not all at once, each right after a message, and nothing is lost.
func TestOldStreamsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const age, every, streams = 10 * time.Minute, 5 * time.Second, 20
		s := serveWith(t, Config{StreamMaxAge: age})
		open := map[grpc.ClientStream]chan struct{}{}
		for range streams {
			stream, ended := s.open(t.Context(), t), make(chan struct{})
			open[stream] = ended
			go func() {
				defer close(ended)
				assertAnswered(t, stream)
			}()
		}
		sent, began := 0, time.Now()
		var ages []time.Duration
		for len(open) > 0 {
			<-time.After(every)
			for stream, ended := range open {
				send(t, stream, messageOf(t, "e"))
				sent++
				synctest.Wait()
				select {
				case <-ended:
					ages = append(ages, time.Since(began))
					delete(open, stream)
				default:
				}
			}
		}
		if got := len(s.transactions()); got != sent {
			t.Errorf("%d transactions, want the %d that were sent", got, sent)
		}
		least, most := slices.Min(ages), slices.Max(ages)
		if least < age*8/10 || most > age*12/10+every || most-least < time.Minute {
			t.Errorf("streams ended after %s to %s, want some time between %s and %s", least, most, age*8/10, age*12/10+every)
		}
	})
}

// An idle stream is not cut off: Envoy could have written to it just then.
func TestIdleStreamsStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serveWith(t, Config{StreamMaxAge: time.Minute})
		stream := s.open(t.Context(), t)
		send(t, stream, messageOf(t, "first"))
		<-time.After(24 * time.Hour)
		synctest.Wait()
		if got := value(t, s.streams); got != 1 {
			t.Fatalf("%g streams are open, want the idle one", got)
		}
		send(t, stream, messageOf(t, "second"))
		assertAnswered(t, stream)
		s.assertRecorded(t, "first", "second")
	})
}

func TestStreamsWithoutAnAgeStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := serve(t)
		stream := s.open(t.Context(), t)
		for range 100 {
			<-time.After(100 * 24 * time.Hour)
			send(t, stream, messageOf(t, "e"))
			synctest.Wait()
		}
		if got := value(t, s.streams); got != 1 {
			t.Errorf("%g streams are open, want 1", got)
		}
		finish(t, stream)
	})
}

func TestFaultsOfTheConfiguration(t *testing.T) {
	_, err := New(Config{StreamMaxAge: -time.Second}, Deps{}, prometheus.NewRegistry())
	if err == nil || !strings.Contains(err.Error(), "stream max age -1s: is below 0") {
		t.Errorf("error %v, want one about the age", err)
	}
	reg := prometheus.NewRegistry()
	if _, err := New(Config{}, Deps{}, reg); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{}, Deps{}, reg); err == nil {
		t.Error("metrics were registered twice")
	}
}
