//go:build e2e

package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// withoutChecks lets rows past what the schema guards, as somebody may who "just tidies up".
const withoutChecks = `
DO $$ DECLARE c record; BEGIN
	FOR c IN SELECT conname FROM pg_constraint WHERE conrelid = 'tps_limits'::regclass LOOP
		EXECUTE format('ALTER TABLE tps_limits DROP CONSTRAINT IF EXISTS %I', c.conname);
	END LOOP;
END $$;
ALTER TABLE tps_limits ALTER gateway DROP NOT NULL, ALTER max_tps DROP NOT NULL, ALTER enabled DROP NOT NULL,
	ALTER max_wait_ms DROP NOT NULL, ALTER shadow DROP NOT NULL, ALTER note DROP NOT NULL, ALTER domain DROP NOT NULL`

// spoilt is a change of a good row that breaks a bound: the log names row and fault, a metric
// counts it, and the row's last good version stays in force.
func spoilt(name, assignment, fault string) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		v.stack.setLimits(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', $1, 7)", name)
		v.wantPassedOver(tb, fmt.Sprintf(`(domain "", gateway "row", endpoint %q, per "")`, name), fault, func() {
			v.stack.setRows(tb, "UPDATE tps_limits SET "+assignment+" WHERE endpoint = $1", name)
		})
		want := fmt.Sprintf(`OK {OK "row/%s" 7/SECOND, 7 left, reset 0s} domain="edge" endpoint=%q gateway="row" limit="row/%s"`, name, name, name)
		if got := v.ask(tb, asks("edge", gateway("row", entry("endpoint", name), hits(0)))); got != want {
			tb.Errorf("the last good version is not in force: got\n%s, want\n%s", got, want)
		}
	}}
}

// stillborn is a new row that breaks a bound: it is no limit, and nothing else changes.
func stillborn(name, key, columns, values, fault string) badInput {
	return badInput{name, func(tb testing.TB, v *victim) {
		tb.Helper()
		before := v.metric(tb, "ratelimitd_limits")
		v.wantPassedOver(tb, key, fault, func() {
			v.stack.setRows(tb, "INSERT INTO tps_limits ("+columns+") VALUES ("+values+")")
		})
		if after := v.metric(tb, "ratelimitd_limits"); after != before {
			tb.Errorf("%g limits are in force, want %g as before", after, before)
		}
	}}
}

// setRows is setLimits in a database without the constraints that its tables came with.
func (s *stack) setRows(tb testing.TB, statement string, args ...any) {
	tb.Helper()
	s.sql(tb, withoutChecks)
	s.setLimits(tb, statement, args...)
}

// wantPassedOver makes a change, and wants one row to be passed over for one fault.
func (v *victim) wantPassedOver(tb testing.TB, row, fault string, change func()) {
	tb.Helper()
	const counted, message = `ratelimitd_limits_load_errors_total{reason="invalid_row"}`, "a row of tps_limits is not used"
	before, logged := v.metrics(tb, counted)[counted], len(v.server.Output())
	change()
	if after := v.metrics(tb, counted)[counted]; after != before+1 {
		tb.Errorf("%g rows were passed over, want 1", after-before)
	}
	var got []map[string]string
	testenv.Eventually(tb, 5*time.Second, "a line of the log", func() error { // which comes through a pipe
		if got = v.logged(tb, logged, message); len(got) == 0 {
			return errors.New("there is none")
		}
		return nil
	})
	if len(got) != 1 || got[0]["row"] != row || got[0]["error"] != fault || got[0]["level"] != "WARN" {
		tb.Errorf("the log says %q, want a warning of row %s: %s", got, row, fault)
	}
}

// logged returns the lines of the log with a message, from an offset of the output on.
func (v *victim) logged(tb testing.TB, offset int, message string) (found []map[string]string) {
	tb.Helper()
	for line := range strings.Lines(v.server.Output()[offset:]) {
		var attributes map[string]any
		if json.Unmarshal([]byte(line), &attributes) != nil || attributes["msg"] != message {
			continue // the three lines of the start are no JSON
		}
		text := map[string]string{}
		for name, value := range attributes {
			text[name] = fmt.Sprint(value)
		}
		found = append(found, text)
	}
	return found
}

func rowInputs() []badInput {
	const null, noName = ": must have a value", "(domain %q, gateway %q, endpoint %q, per %q)"
	key := func(domain, gateway, endpoint, per string) string {
		return fmt.Sprintf(noName, domain, gateway, endpoint, per)
	}
	long := strings.Repeat("n", 256)
	cut := fmt.Sprintf("%q… (256 bytes): is longer than 255 bytes", long[:64])
	return []badInput{
		spoilt("max_tps -1", "max_tps = -1", "max_tps -1: is not within 0 to 1000000000"),
		spoilt("max_tps 10^9+1", "max_tps = 1000000001", "max_tps 1000000001: is not within 0 to 1000000000"),
		spoilt("max_tps 2^63-1", "max_tps = 9223372036854775807", "max_tps 9223372036854775807: is not within 0 to 1000000000"),
		spoilt("max_tps NULL", "max_tps = NULL", "max_tps NULL"+null),
		spoilt("burst 0", "burst = 0", "burst 0: is not within 1 to 1000000000"),
		spoilt("burst -2^63", "burst = -9223372036854775808", "burst -9223372036854775808: is not within 1 to 1000000000"),
		spoilt("max_wait_ms of half an hour and 1", "max_wait_ms = 1800001", "max_wait_ms 1800001: is not within 0 to 1800000"),
		spoilt("max_wait_ms NULL", "max_wait_ms = NULL", "max_wait_ms NULL"+null),
		spoilt("enabled NULL", "enabled = NULL", "enabled NULL"+null),
		spoilt("shadow NULL", "shadow = NULL", "shadow NULL"+null),
		spoilt("note of 5000 bytes", "note = repeat('x', 5000)", `note "`+strings.Repeat("x", 64)+`"… (5000 bytes): is longer than 4096 bytes`),
		spoilt("algorithm that is none", "algorithm = 'leaky_bucket'", `algorithm "leaky_bucket": is not token_bucket, fixed_window or sliding_window`),
		spoilt("burst of a window", "algorithm = 'fixed_window', burst = 5", "burst 5: has no meaning with algorithm fixed_window, which has room for max_tps"),
		spoilt("two faults", "max_tps = -1, burst = 0", "burst 0: is not within 1 to 1000000000\nmax_tps -1: is not within 0 to 1000000000"),
		stillborn("gateway NULL", key("", "", "", ""), "gateway", "NULL", `gateway "": is empty`),
		stillborn("gateway of 256 bytes", key("", long, "", ""), "gateway", "repeat('n', 256)", "gateway "+cut),
		stillborn("gateway with CR LF", key("", "a\r\nb", "", ""), "gateway", `E'a\r\nb'`, `gateway "a\r\nb": has a control character`),
		stillborn("endpoint empty", key("", "row", "", ""), "gateway, endpoint", "'row', ''", `endpoint "": is empty; NULL is the row without it`),
		stillborn("per empty", key("", "row", "x", ""), "gateway, endpoint, per", "'row', 'x', ''", `per "": is empty; NULL is the row without it`),
		stillborn("domain of 256 bytes", key(long, "row", "", ""), "domain, gateway", "repeat('n', 256), 'row'", "domain "+cut),
		{"times beyond the calendar", takesOddTimes},
		{"two rows of one key", takesTheNewerTwin},
		{"a history of nonsense", readsAllRowsAgain},
		{"a notification of nonsense", ignoresNotification},
		{"a column of another type", keepsLimitsOverColumn},
		{"a table without rows, and without a change that says so", keepsLimitsOverEmptiness},
	}
}

func takesOddTimes(tb testing.TB, v *victim) {
	tb.Helper()
	v.stack.setRows(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps, created_at) VALUES ('row', 'infinity', 3, 'infinity'), ('row', 'bc', 3, '4713-01-01 BC')")
	for _, endpoint := range []string{"infinity", "bc"} {
		v.wantTPS(tb, endpoint, 3)
	}
}

// wantTPS wants a limit of a row to be in force, by a request that charges nothing.
func (v *victim) wantTPS(tb testing.TB, endpoint string, tps int) {
	tb.Helper()
	want := fmt.Sprintf(`OK {OK "row/%s" %d/SECOND, %d left, reset 0s} domain="edge" endpoint=%q gateway="row" limit="row/%s"`, endpoint, tps, tps, endpoint, endpoint)
	if got := v.ask(tb, asks("edge", gateway("row", entry("endpoint", endpoint), hits(0)))); got != want {
		tb.Errorf("got\n%s, want\n%s", got, want)
	}
}

// reload makes ratelimitd read every row again.
func (v *victim) reload(tb testing.TB) {
	tb.Helper()
	const message = "limits are followed in Postgres"
	before := len(v.logged(tb, 0, message))
	v.stack.sql(tb, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	testenv.Eventually(tb, 20*time.Second, "reading all rows again", func() error {
		if n := len(v.logged(tb, 0, message)); n == before {
			return fmt.Errorf("it was logged %d times", n)
		}
		return nil
	})
}

// takesTheNewerTwin also has every row above read at once: their last good versions stay.
func takesTheNewerTwin(tb testing.TB, v *victim) {
	tb.Helper()
	v.stack.setRows(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', 'twin', 5)")
	v.stack.setLimits(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', 'twin', 6)")
	before := v.metric(tb, "ratelimitd_limits")
	v.wantTPS(tb, "twin", 6)
	v.reload(tb)
	v.wantTPS(tb, "twin", 6)
	v.wantTPS(tb, "burst 0", 7)
	if after := v.metric(tb, "ratelimitd_limits"); after != before {
		tb.Errorf("%g limits are in force after all rows were read again, want %g as before", after, before)
	}
}

func readsAllRowsAgain(tb testing.TB, v *victim) {
	tb.Helper()
	v.stack.setRows(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', 'history', 4)")
	nonsense := []string{`[]`, `"x"`, `{"max_tps": "many"}`, `{"max_tps": 1.5}`, `{"gateway": {}}`}
	v.stack.setLimits(tb, "INSERT INTO tps_limits_history (who, after) SELECT 'nobody', unnest($1::text[])::jsonb", nonsense)
	v.wantTPS(tb, "history", 4)
}

func ignoresNotification(tb testing.TB, v *victim) {
	tb.Helper()
	v.stack.sql(tb, "SELECT pg_notify('tps_limits', payload) FROM (VALUES (''), ('x'), ('-1'), ('99999999999999999999')) AS n (payload)")
	v.stack.setRows(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', 'notified', 2)")
	v.wantTPS(tb, "notified", 2)
}

// keepsLimitsOverColumn: what cannot be read at all leaves everything as it was, and readiness says
// what it is.
func keepsLimitsOverColumn(tb testing.TB, v *victim) {
	tb.Helper()
	v.stack.setRows(tb, "DELETE FROM tps_limits WHERE max_tps > 1e9") // which would not come back as they were
	before := v.metric(tb, "ratelimitd_limits")
	v.stack.sql(tb, "ALTER TABLE tps_limits ALTER max_tps TYPE double precision")
	v.stack.sql(tb, "INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('row', 'NaN', 'NaN'), ('row', 'half', 0.5)")
	v.awaitReadiness(tb, `"degraded"`, "max_tps")
	if after := v.metric(tb, "ratelimitd_limits"); after != before {
		tb.Errorf("%g limits are in force, want %g as before", after, before)
	}
	v.stack.sql(tb, "DELETE FROM tps_limits WHERE endpoint IN ('NaN', 'half')")
	v.stack.sql(tb, "ALTER TABLE tps_limits ALTER max_tps TYPE bigint")
	v.awaitReadiness(tb, `"ready"`)
}

// awaitReadiness returns when /readyz says all of these.
func (v *victim) awaitReadiness(tb testing.TB, says ...string) {
	tb.Helper()
	testenv.Eventually(tb, 20*time.Second, "readiness", func() error {
		status, body, err := v.get(tb.Context(), "/readyz")
		for _, text := range says {
			if err == nil && (status != 200 || !strings.Contains(body, text)) {
				return fmt.Errorf("%d %s, want 200 with %s", status, body, text)
			}
		}
		return err
	})
}

func keepsLimitsOverEmptiness(tb testing.TB, v *victim) {
	tb.Helper()
	before := v.metric(tb, "ratelimitd_limits")
	v.stack.sql(tb, "CREATE TABLE kept AS TABLE tps_limits")
	v.stack.sql(tb, "SET session_replication_role = replica; DELETE FROM tps_limits; SET session_replication_role = DEFAULT")
	v.stack.sql(tb, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
	v.awaitReadiness(tb, `"degraded"`, "tps_limits is empty, and no change says so")
	if after := v.metric(tb, "ratelimitd_limits"); after != before {
		tb.Errorf("%g limits are in force, want %g as before", after, before)
	}
	v.stack.sql(tb, "SET session_replication_role = replica; INSERT INTO tps_limits TABLE kept; SET session_replication_role = DEFAULT")
	v.awaitReadiness(tb, `"ready"`)
}
