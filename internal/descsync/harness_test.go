package descsync_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/descsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }

const (
	patience = 20 * time.Second // for what takes milliseconds
	never    = time.Hour        // a poll that does not come to pass in a test
)

// source is what a Dir and an XDS have in common.
type source interface {
	Load(ctx context.Context) error
	Run(ctx context.Context) error
	Ready() error
	Loaded() error
}

// follower runs a source, and keeps what it publishes.
type follower struct {
	source

	tb        testing.TB
	registry  *prometheus.Registry
	published chan string
	logs      testenv.Logs
	stop      func()
}

func newFollower(tb testing.TB) *follower {
	tb.Helper()
	return &follower{tb: tb, registry: prometheus.NewRegistry(), published: make(chan string, 1000)}
}

func (f *follower) logged() string { return f.logs.String() }

func (f *follower) logger() *slog.Logger { return slog.New(slog.NewTextHandler(&f.logs, nil)) }

// publish notes a Set as `domain=limits …`.
func (f *follower) publish(set *descriptors.Set) {
	var all []string
	for d := range set.Domains() {
		var numbers []string
		for i := range d.Rules() {
			numbers = append(numbers, strconv.FormatUint(uint64(d.Rules()[i].RequestsPerUnit), 10))
		}
		all = append(all, d.Name()+"="+strings.Join(numbers, ","))
	}
	f.published <- strings.Join(all, " ")
}

func (f *follower) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := f.Run(ctx); err != nil {
			f.tb.Error(err)
		}
	}()
	f.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	f.tb.Cleanup(f.stop)
}

// await reads what is published until that is want.
func (f *follower) await(want string) {
	f.tb.Helper()
	timeout, last := time.After(patience), "nothing"
	for {
		select {
		case last = <-f.published:
			if last == want {
				return
			}
		case <-timeout:
			f.tb.Fatalf("published last: %s; want %s\nlogs: %s", last, want, f.logged())
		}
	}
}

// silent tells that nothing else was published.
func (f *follower) silent() {
	f.tb.Helper()
	select {
	case got := <-f.published:
		f.tb.Errorf("published %s", got)
	default:
	}
}

// eventually waits until check finds no fault.
func eventually(tb testing.TB, what string, check func() error) {
	tb.Helper()
	testenv.Eventually(tb, patience, what, check)
}

// not finds a fault where check finds none.
func not(check func() error) func() error {
	return func() error {
		if check() == nil {
			return errors.New("no fault")
		}
		return nil
	}
}

// says finds a fault where a text is not in the log.
func (f *follower) says(text string) func() error {
	return func() error {
		if logged := f.logged(); !strings.Contains(logged, text) {
			return fmt.Errorf("%q is not in the log:\n%s", text, logged)
		}
		return nil
	}
}

func followDir(tb testing.TB, dir, dataDir string) *follower {
	tb.Helper()
	f := newFollower(tb)
	d, err := descsync.NewDir(descsync.DirConfig{Dir: dir, PollInterval: never, DataDir: dataDir, Publish: f.publish}, f.registry, f.logger())
	if err != nil {
		tb.Fatal(err)
	}
	f.source = d
	return f
}

func (f *follower) load() {
	f.tb.Helper()
	if err := f.Load(context.Background()); err != nil {
		f.tb.Fatal(err)
	}
}

// file is a descriptor file of one limit.
func file(domain string, n int) string {
	return fmt.Sprintf("domain: %s\ndescriptors: [{key: k, rate_limit: {unit: minute, requests_per_unit: %d}}]\n", domain, n)
}

func write(tb testing.TB, body string, path ...string) {
	tb.Helper()
	if err := os.WriteFile(filepath.Join(path...), []byte(body), 0o600); err != nil {
		tb.Fatal(err)
	}
}

// replace puts a file there in one step: nobody reads it half written, as write lets them.
func replace(tb testing.TB, body string, path ...string) {
	tb.Helper()
	made := filepath.Join(tb.TempDir(), "made")
	write(tb, body, made)
	do(tb, os.Rename(made, filepath.Join(path...)))
}

func do(tb testing.TB, errs ...error) {
	tb.Helper()
	if err := errors.Join(errs...); err != nil {
		tb.Fatal(err)
	}
}
