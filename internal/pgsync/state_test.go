package pgsync_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/pgsync"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// nobody is the address of a server that is not there.
const nobody = "postgres://tps@127.0.0.1:1/d?sslmode=disable"

func statePath(cfg pgsync.Config) string { return filepath.Join(cfg.DataDir, "limits.json") }

// waitSaved waits until the state file holds a change.
func (r *replica) waitSaved(tb testing.TB, cfg pgsync.Config, id int64) {
	tb.Helper()
	testenv.Eventually(tb, patience, "saving the limits", func() error {
		f, err := os.Open(statePath(cfg))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		var head struct {
			ID int64 `json:"id"`
		}
		if err := json.NewDecoder(f).Decode(&head); err != nil {
			return err
		}
		if head.ID != id {
			return fmt.Errorf("it holds change %d, not %d", head.ID, id)
		}
		return nil
	})
}

func writeState(tb testing.TB, cfg pgsync.Config, lines ...string) {
	tb.Helper()
	if err := os.WriteFile(statePath(cfg), []byte(strings.Join(lines, "\n")), 0o600); err != nil {
		tb.Fatal(err)
	}
}

func TestStartsFromTheLastGoodLimits(t *testing.T) {
	server := testenv.NewPostgres(t)
	db := server.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, `INSERT INTO tps_limits (domain, gateway, endpoint, per, max_tps, enabled, burst, max_wait_ms, shadow, note)
		VALUES ('d', 'g"', 'e\', 'pü', 7, false, 3, 250, true, E'two\nlines'); INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)`)
	cfg := impatient(db)
	cfg.DataDir = t.TempDir()
	first := follow(t, cfg)
	first.stop() // writes the file, also when it was the first change a moment ago
	want := rows(first.current.Load())
	server.Kill()

	r := start(t, cfg)
	r.waitFault(t, "2 limits are served as of change 2")
	if diff := cmp.Diff(want, rows(r.current.Load())); diff != "" {
		t.Errorf("limits of the state file (-saved +served):\n%s", diff)
	}
	r.wantMetric(t, 1, "ratelimitd_limits_stale")
	if n := strings.Count(r.logs.String(), "the last good limits are served"); n != 1 {
		t.Errorf("the logs say %d times what is served, want once", n)
	}
	server.Start(t)
	r.waitReady(t)
	r.wantMetric(t, 0, "ratelimitd_limits_stale")
	exec(t, testenv.Connect(t, db), "UPDATE tps_limits SET max_tps = 11")
	r.waitMaxTPS(t, "g", 11)
}

func TestStartsFromTheLastGoodLimitsWhilePostgresHangs(t *testing.T) {
	server := testenv.NewPostgres(t)
	db := server.Database(t)
	conn := testenv.Connect(t, db)
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	cfg := impatient(db)
	cfg.DataDir = t.TempDir()
	follow(t, cfg).stop()
	server.Hang()
	cfg.QueryTimeout = never // it must not be that which ends the wait
	r := start(t, cfg)
	r.waitMaxTPS(t, "g", 10)
	if err := r.Ready(); err == nil || !strings.Contains(err.Error(), "1 limits are served as of change 1") {
		t.Errorf("Ready says %v", err)
	}
	server.Continue()
	r.waitReady(t)
}

// A database in which there never was a limit is served as such, not as one that is not known.
func TestStartsFromAnEmptyState(t *testing.T) {
	server := testenv.NewPostgres(t)
	cfg := impatient(server.Database(t))
	cfg.DataDir = t.TempDir()
	follow(t, cfg).stop()
	server.Kill()
	r := start(t, cfg)
	r.waitFault(t, "0 limits are served as of change 0")
}

func TestAStateFileThatIsOfNoUse(t *testing.T) {
	const head = `{"database":"127.0.0.1:1/d","id":7,"rows":%d,"loaded_at":"2026-01-02T03:04:05Z"}`
	const row = `{"gateway":"g","max_tps":10}`
	for _, c := range []struct {
		name   string
		lines  []string
		served int // limits; -1 = none at all
		logs   string
		errors float64 // of the state file
	}{
		{"good", []string{fmt.Sprintf(head, 1), row}, 1, "the last good limits are served", 0},
		{"empty file", nil, -1, "the last good limits cannot be used", 1},
		{"not JSON", []string{"\x00\x00\x00"}, -1, "the last good limits cannot be used", 1},
		{"another format", []string{`[1, 2]`}, -1, "the last good limits cannot be used", 1},
		{"cut", []string{fmt.Sprintf(head, 2), row}, -1, "reading row 2 of 2", 1},
		{"cut in a row", []string{fmt.Sprintf(head, 2), row, row[:9]}, -1, "reading row 2 of 2", 1},
		{"the same row twice", []string{fmt.Sprintf(head, 2), row, row}, -1, "comes twice", 1},
		{"another database", []string{strings.Replace(fmt.Sprintf(head, 1), "127.0.0.1", "elsewhere", 1), row}, -1, "those of another database", 0},
		{"a bad row", []string{fmt.Sprintf(head, 2), `{"gateway":"bad","max_tps":-1}`, row}, 1, "max_tps -1", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := impatient(nobody)
			cfg.DataDir = t.TempDir()
			writeState(t, cfg, c.lines...)
			r := start(t, cfg)
			want := "there are no limits to serve"
			if c.served >= 0 {
				want = fmt.Sprintf("%d limits are served as of change 7, loaded at 2026-01-02T03:04:05Z", c.served)
			}
			r.waitFault(t, want)
			testenv.Eventually(t, patience, "logging it", func() error {
				if n := strings.Count(r.logs.String(), c.logs); n != 1 {
					return fmt.Errorf("the logs say %d times that %s", n, c.logs)
				}
				return nil
			})
			r.wantMetric(t, c.errors, "ratelimitd_limits_load_errors_total", "reason", "state_file")
		})
	}
}

// A file of many rows is read in parts, several at a time. That shows neither in what is served nor
// in what is said of the first row that cannot be read.
func TestAStateFileOfManyRows(t *testing.T) {
	const all, cut = 30_000, 20_000
	lines := []string{fmt.Sprintf(`{"database":"127.0.0.1:1/d","id":7,"rows":%d,"loaded_at":"2026-01-02T03:04:05Z"}`, all)}
	for i := range int64(all) {
		lines = append(lines, fmt.Sprintf(`{"gateway":"g%d","max_tps":%d}`, i, i))
	}
	served := func(t *testing.T, lines []string) *replica {
		t.Helper()
		cfg := impatient(nobody)
		cfg.DataDir = t.TempDir()
		writeState(t, cfg, lines...)
		return start(t, cfg)
	}
	t.Run("good", func(t *testing.T) {
		r := served(t, lines)
		r.waitFault(t, fmt.Sprintf("%d limits are served", all))
		for _, i := range []int64{0, 1, 4095, 4096, cut, all - 1} {
			if got := r.maxTPS(fmt.Sprintf("g%d", i)); got != i {
				t.Errorf("the limit of row %d is %d", i+1, got)
			}
		}
	})
	t.Run("bad rows", func(t *testing.T) {
		bad := slices.Clone(lines)
		for i := 1; i <= 100; i++ {
			bad[i] = `{"gateway":"bad","max_tps":-1}`
		}
		r := served(t, bad)
		r.waitFault(t, fmt.Sprintf("%d limits are served", all-100))
		r.wantMetric(t, 100, "ratelimitd_limits_load_errors_total", "reason", "invalid_row")
		if n := strings.Count(r.logs.String(), "max_tps -1"); n != 10 {
			t.Errorf("100 bad rows are logged %d times, want 10", n)
		}
	})
	for what, lines := range map[string][]string{
		"cut":                       lines[:cut],
		"two rows that are no JSON": append(slices.Clone(lines[:cut]), append([]string{"{", "{"}, lines[cut+2:]...)...),
	} {
		t.Run(what, func(t *testing.T) {
			r := served(t, lines)
			testenv.Eventually(t, patience, "logging it", func() error {
				if want := fmt.Sprintf("reading row %d of %d", cut, all); !strings.Contains(r.logs.String(), want) {
					return fmt.Errorf("the logs do not say %s", want)
				}
				return nil
			})
		})
	}
}

func TestAStateFileOfNoUseDoesNotKeepPostgresAway(t *testing.T) {
	cfg := pgsync.Config{ConnString: testenv.Database(t), PollInterval: never, DataDir: t.TempDir()}
	writeState(t, cfg, "garbage")
	r := follow(t, cfg)
	r.waitSaved(t, cfg, 0)
}

func TestADiskThatCannotBeWritten(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	cfg := pgsync.Config{ConnString: db, PollInterval: never, DataDir: filepath.Join(t.TempDir(), "not there")}
	r := follow(t, cfg)
	testenv.Eventually(t, patience, "counting it", func() error {
		if n := r.metric(t, "ratelimitd_limits_load_errors_total", "reason", "state_file"); n != 1 {
			return fmt.Errorf("it is counted %v times", n)
		}
		return nil
	})
	if n := strings.Count(r.logs.String(), "cannot be kept in the data directory"); n != 1 {
		t.Errorf("it is logged %d times", n)
	}
	exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', 10)")
	r.waitMaxTPS(t, "g", 10)
	if err := r.Ready(); err != nil {
		t.Errorf("Ready: %v, as if that were a fault of the limits", err)
	}
	if err := os.Mkdir(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	r.stop()
	r.waitSaved(t, cfg, 1)
}

// A data directory that could not be made at the start is made when there is something to keep.
func TestTheDataDirectoryIsPrepared(t *testing.T) {
	cfg := pgsync.Config{ConnString: testenv.Database(t), PollInterval: never, DataDir: filepath.Join(t.TempDir(), "data")}
	cfg.Prepare = func() error { return os.MkdirAll(cfg.DataDir, 0o700) }
	r := follow(t, cfg)
	r.waitSaved(t, cfg, 0)
	r.wantMetric(t, 0, "ratelimitd_limits_load_errors_total", "reason", "state_file")
}

func TestWhatAKilledWriteHasLeftIsRemoved(t *testing.T) {
	cfg := pgsync.Config{ConnString: testenv.Database(t), DataDir: t.TempDir()}
	left := filepath.Join(cfg.DataDir, "limits.json.123.tmp")
	if err := os.WriteFile(left, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	follow(t, cfg).stop()
	names, err := filepath.Glob(filepath.Join(cfg.DataDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{statePath(cfg)}, names); diff != "" {
		t.Errorf("files in the data directory (-want +got):\n%s", diff)
	}
}

// Many changes in a row are not as many writes.
func TestSavesAreFew(t *testing.T) {
	db := testenv.Database(t)
	conn := testenv.Connect(t, db)
	cfg := pgsync.Config{ConnString: db, PollInterval: never, DataDir: t.TempDir()}
	r := follow(t, cfg)
	written := map[time.Time]bool{}
	for i := range int64(100) {
		exec(t, conn, "INSERT INTO tps_limits (gateway, max_tps) VALUES ('g', $1) ON CONFLICT ON CONSTRAINT tps_limits_key DO UPDATE SET max_tps = excluded.max_tps", i)
		r.waitMaxTPS(t, "g", i)
		if info, err := os.Stat(statePath(cfg)); err == nil {
			written[info.ModTime()] = true
		}
	}
	if len(written) > 20 {
		t.Errorf("100 changes made %d writes", len(written))
	}
	last := r.current.Load().ID()
	r.stop()
	r.waitSaved(t, cfg, last)
}
