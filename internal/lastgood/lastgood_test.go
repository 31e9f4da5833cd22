package lastgood_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"github.com/tps-agent/ratelimitd/internal/lastgood"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// kept is a File of a test, and what it logs.
type kept struct {
	*lastgood.File[string]

	dir    string
	fault  error // of Prepare
	writes int   // that were tried
	mu     sync.Mutex
	errors prometheus.Counter
	logs   bytes.Buffer
}

func newKept(dir string) *kept {
	k := &kept{dir: dir, errors: prometheus.NewCounter(prometheus.CounterOpts{Name: "errors_total", Help: "Faults."})}
	k.File = lastgood.New(lastgood.Config[string]{What: "the content", Dir: dir, Name: "f.json", Errors: k.errors, Prepare: func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.writes++
		return k.fault
	}}, slog.New(slog.NewTextHandler(&k.logs, nil)))
	return k
}

func (k *kept) fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.fault = err
}

// run runs the File until the test ends or stop is called.
func (k *kept) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := k.Run(ctx); err != nil {
			t.Error(err)
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

func (k *kept) want(t *testing.T, want string) {
	t.Helper()
	var got string
	if found := newKept(k.dir).Read(t.Context(), &got); got != want || found != (want != "") {
		t.Errorf("kept is %q (%t), want %q", got, found, want)
	}
}

func TestNewestIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t.TempDir())
		k.want(t, "")
		stop := k.run(t)
		for _, v := range []string{"one", "two"} {
			k.Put(v)
			synctest.Wait()
			k.want(t, v)
			time.Sleep(time.Second)
		}
		stop()
		k.Put("three") // comes at the end
		k.run(t)()
		k.want(t, "three")
	})
}

// What comes faster than once a second is not written as often.
func TestWritesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t.TempDir())
		stop := k.run(t)
		for range 1000 {
			k.Put("again")
			time.Sleep(10 * time.Millisecond)
		}
		k.Put("last")
		stop()
		k.want(t, "last")
		if k.writes > 12 {
			t.Errorf("1001 contents in 10 s made %d writes, want one a second and the last", k.writes)
		}
	})
}

// Content may be written in a form of its own.
func TestEncode(t *testing.T) {
	k := newKept(t.TempDir())
	f := lastgood.New(lastgood.Config[int]{Dir: k.dir, Name: "f.json", Errors: k.errors, Encode: func(w io.Writer, v int) error {
		_, err := fmt.Fprintf(w, "\"%d rows\"", v)
		return err
	}}, slog.New(slog.DiscardHandler))
	f.RunWhile(t.Context(), func() { f.Put(7) })
	k.want(t, "7 rows")
}

// A write that goes wrong is tried again, with the newest content, and said once.
func TestFaultIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t.TempDir())
		k.fail(errors.New("disk full"))
		stop := k.run(t)
		k.Put("one")
		time.Sleep(25 * time.Second)
		k.Put("two")
		k.fail(nil)
		time.Sleep(10 * time.Second)
		k.want(t, "two")
		stop()
		if got := testutil.ToFloat64(k.errors); got != 3 || strings.Count(k.logs.String(), "disk full") != 1 || !strings.Contains(k.logs.String(), "again") {
			t.Errorf("%v errors, logs %s", got, k.logs.String())
		}
	})
}

func TestUnreadable(t *testing.T) {
	k := newKept(t.TempDir())
	if err := os.WriteFile(filepath.Join(k.dir, "f.json"), []byte(`{"`), 0o600); err != nil {
		t.Fatal(err)
	}
	var v string
	if k.Read(t.Context(), &v) || testutil.ToFloat64(k.errors) != 1 || !strings.Contains(k.logs.String(), "f.json") {
		t.Errorf("read %q, logs %s", v, k.logs.String())
	}
}

// What a source puts while it ends is kept.
func TestLastWordOfASourceIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := newKept(t.TempDir())
		ctx, cancel := context.WithCancel(t.Context())
		k.RunWhile(ctx, func() {
			k.Put("first")
			cancel()
			synctest.Wait()
			k.Put("last")
		})
		k.want(t, "last")
	})
}
