//go:build e2e

package e2e_test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// setting is a start with bad settings: one line, and the end with status 1. `$dir` in settings and line stands
// for a directory of the test.
func setting(name, line string, env ...string) badInput {
	return startInput(name, 1, line, nil, env...)
}

func startInput(name string, code int, line string, args []string, env ...string) badInput {
	return badInput{name, func(tb testing.TB, _ *victim) {
		tb.Helper()
		dir := tb.TempDir()
		for file, body := range map[string]string{"text": "no PEM\n", "empty": ""} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(body), 0o600); err != nil {
				tb.Fatal(err)
			}
		}
		all := []string{"TPS_GRPC_ADDR=127.0.0.1:0", "TPS_HTTP_ADDR=127.0.0.1:0", "TPS_DEBUG_ADDR=127.0.0.1:0", "TPS_LIMITS_FILE=$dir/limits.yaml", "TPS_DATA_DIR=$dir/data"}
		var expanded []string
		for _, pair := range append(all, env...) {
			expanded = append(expanded, strings.ReplaceAll(pair, "$dir", dir))
		}
		s := testenv.StartServer(tb, expanded, build(tb), args...)
		s.Wait(tb, 10*time.Second)
		want := "ratelimitd: " + strings.ReplaceAll(line, "$dir", dir) + "\n"
		if got := s.Output(); got != want || s.ExitCode() != code {
			tb.Errorf("status %d, printed\n%swant %d and\n%s", s.ExitCode(), got, code, want)
		}
		assertNoTrace(tb, s.Output())
	}}
}

func settingInputs() []badInput {
	inputs := append(addressSettings(), databaseSettings()...)
	inputs = append(inputs, boundedSettings()...)
	return append(inputs, fileSettings()...)
}

// bad is a variable with one bad value, which the line shows.
func bad(name, value, reason string) badInput {
	return setting(name+"="+value, fmt.Sprintf("%s=%q: %s", name, value, reason), name+"="+value)
}

func addressSettings() []badInput {
	const form, loopback = "is not host:port or :port", "is not on loopback, such as 127.0.0.1:6070 or [::1]:6070"
	const links = " (it looks like Kubernetes' service links: set enableServiceLinks: false in the pod)"
	return []badInput{
		bad("TPS_GRPC_ADDR", "8081", form),
		bad("TPS_GRPC_ADDR", ":65536", `port "65536" is not a number from 0 to 65535`),
		bad("TPS_GRPC_ADDR", ":-1", `port "-1" is not a number from 0 to 65535`),
		bad("TPS_GRPC_ADDR", "tcp://10.0.0.1:8081", form+links),
		bad("TPS_GRPC_ADDR", "192.0.2.1:0", "listen tcp 192.0.2.1:0: bind: cannot assign requested address"),
		bad("TPS_HTTP_ADDR", "::1:8080", form),
		bad("TPS_HTTP_ADDR", "http://localhost:8080", form),
		bad("TPS_DEBUG_ADDR", ":6070", loopback),
		bad("TPS_DEBUG_ADDR", "0.0.0.0:6070", loopback),
		bad("TPS_DEBUG_ADDR", "[::]:6070", loopback),
		bad("TPS_DEBUG_ADDR", "192.0.2.1:6070", loopback),
		{"TPS_HTTP_ADDR that is taken", func(tb testing.TB, _ *victim) {
			tb.Helper()
			taken, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				tb.Fatal(err)
			}
			defer func() { _ = taken.Close() }()
			addr := taken.Addr().String()
			bad("TPS_HTTP_ADDR", addr, "listen tcp "+addr+": bind: address already in use").try(tb, nil)
		}},
		setting("TPS_SERVER_ID with an escape", `TPS_SERVER_ID="a\x1b[2J": is no text in UTF-8 without control characters`, "TPS_SERVER_ID=a\x1b[2J"),
		setting("TPS_SERVER_ID of invalid UTF-8", `TPS_SERVER_ID="\xff": is no text in UTF-8 without control characters`, "TPS_SERVER_ID=\xff"),
	}
}

func databaseSettings() []badInput {
	const noAddress = "TPS_DATABASE_URL=***: is no address of a Postgres database such as postgres://user:password@host:5432/database, with special characters percent-encoded: "
	const alone, host = "is set, but neither TPS_DB_HOST nor TPS_DATABASE_URL is", "TPS_DB_HOST=127.0.0.1"
	return []badInput{
		setting("TPS_DATABASE_URL of MySQL", noAddress+"failed to parse as keyword/value", "TPS_DATABASE_URL=mysql://u:s3cret@h/d"),
		setting("TPS_DATABASE_URL with a raw percent sign", noAddress+"failed to parse as URL", "TPS_DATABASE_URL=postgres://u:s3%cret@h/d"),
		setting("TPS_DATABASE_URL that is blank", "TPS_DATABASE_URL=***: is blank", "TPS_DATABASE_URL= \n"),
		setting("TPS_DB_PORT of 2^16", `TPS_DB_PORT="65536": is not a whole number from 1 to 65535`, host, "TPS_DB_PORT=65536"),
		setting("TPS_DB_SSLMODE", `TPS_DB_SSLMODE="on": is not one of disable, allow, prefer, require, verify-ca, verify-full`, host, "TPS_DB_SSLMODE=on"),
		bad("TPS_DB_NAME", "n", alone),
		bad("TPS_DB_USER", "u", alone),
		setting("TPS_DB_PASSWORD without a host", "TPS_DB_PASSWORD=***: "+alone, "TPS_DB_PASSWORD=s3cret"),
		setting("TPS_DB_HOST that is blank", `TPS_DB_HOST=" ": is blank`, "TPS_DB_HOST= "),
		bad("TPS_SINKS", "postgres", "names postgres, but no database is set"),
		bad("TPS_SINKS", "prometheus,statsd", `"statsd" is not postgres, collector or prometheus`),
		setting("TPS_DATA_DIR below a file", `TPS_DATA_DIR="$dir/text/data": mkdir $dir/text: not a directory`, "TPS_DATABASE_URL=postgres://127.0.0.1:1/d", "TPS_DATA_DIR=$dir/text/data"),
		unsupported("TPS_REDIS_URL"),
		setting("TPS_CONFIG_XDS with a password", "TPS_CONFIG_XDS=***: is not host:port or :port", "TPS_CONFIG_XDS=u:s3cret@h:18001"),
		bad("TPS_CONFIG_XDS", "envoy-gateway", "is not host:port or :port"),
		bad("TPS_CONFIG_XDS", ":18001", "names no host"),
		setting("TPS_CONFIG_XDS beside TPS_CONFIG_DIR", `TPS_CONFIG_XDS="h:1": is set, and TPS_CONFIG_DIR too: one of them names the domains`, "TPS_CONFIG_XDS=h:1", "TPS_CONFIG_DIR=$dir"),
		setting("TPS_CONFIG_DIR that is not there", `TPS_CONFIG_DIR="$dir/nope": reading the directory $dir/nope: stat $dir/nope/: no such file or directory`, "TPS_CONFIG_DIR=$dir/nope"),
		setting("TPS_CONFIG_DIR that is a file", `TPS_CONFIG_DIR="$dir/text": reading the directory $dir/text: stat $dir/text/: not a directory`, "TPS_CONFIG_DIR=$dir/text"),
		bad("TPS_CONFIG_XDS_METADATA", "web", "is not key=value,key=value with different keys"),
		setting("TPS_CONFIG_XDS_HEADERS", "TPS_CONFIG_XDS_HEADERS=***: has something that no header can be", "TPS_CONFIG_XDS_HEADERS=a b=s3cret"),
		bad("TPS_CONFIG_XDS_NODE", "a\xff", "is no text in UTF-8 without control characters"),
		bad("TPS_CONFIG_XDS_TLS", "on", "is not true or false"),
		setting("TPS_CONFIG_XDS_CERT alone", `TPS_CONFIG_XDS_CERT="c": is set, but TPS_CONFIG_XDS_KEY is not`, "TPS_CONFIG_XDS_TLS=true", "TPS_CONFIG_XDS_CERT=c"),
		setting("TPS_CONFIG_XDS_KEY alone", `TPS_CONFIG_XDS_KEY="k": is set, but TPS_CONFIG_XDS_CERT is not`, "TPS_CONFIG_XDS_TLS=true", "TPS_CONFIG_XDS_KEY=k"),
		bad("TPS_CONFIG_XDS_NAME", "n", "is set, but TPS_CONFIG_XDS_TLS is not true"),
		bad("TPS_QUOTA_MODE", "on", "is not true or false"),
		bad("TPS_RESPONSE_METADATA", "on", "is not true or false"),
		bad("TPS_REMAINING_HEADER", "a:b", "is no name of a header"),
		bad("TPS_RESET_HEADER", "\xff", "is no name of a header"),
		bad("TPS_CONFIG_XDS_CA", "/ca", "is set, but TPS_CONFIG_XDS_TLS is not true"),
		bad("TPS_METRICS_ADDR", "19001", "is not host:port or :port"),
		bad("TPS_NEAR_LIMIT_RATIO", "80%", "is not a number from 0 to 1"),
		bad("TPS_SHADOW_MODE", "on", "is not true or false"),
		bad("TPS_LIMIT_HEADER", "a b", "is no name of a header"),
		bad("TPS_TLS_PORTS", "grpc,udp", `"udp" is not grpc or http`),
		bad("TPS_TLS_CLIENT_SAN", "envoy", "is set, but TPS_TLS_CLIENT_CA is not"),
		setting("CONFIG_TYPE", `CONFIG_TYPE="ETCD": is neither FILE nor GRPC_XDS_SOTW`, "CONFIG_TYPE=ETCD"),
		setting("GRPC_PORT in the place of envoyproxy/ratelimit", `TPS_HTTP_ADDR=":x": port "x" is not a number from 0 to 65535 (from HOST and PORT)`, "RUNTIME_ROOT=$dir", "PORT=x", "TPS_HTTP_ADDR="),
		bad("TPS_SPOOL_MAX", "0", "is not a size of at least 1MiB, such as 512MiB or 4GiB"),
		bad("TPS_RETENTION", "raw=30 days", `raw: "30 days" is not 0 or a duration from 1h to 100 years, such as 30d`),
		setting("TPS_COLLECTOR_URL with a password", "TPS_COLLECTOR_URL=***: has a user or password; it takes a token instead", "TPS_COLLECTOR_URL=http://u:s3cret@h"),
		setting("TPS_COLLECTOR_TOKEN alone", "TPS_COLLECTOR_TOKEN=***: is set, but TPS_COLLECTOR_URL is not", "TPS_COLLECTOR_TOKEN=s3cret"),
		bad("TPS_LOG_GATEWAY", "host", `gateway source "host": is not one of decision, tag, cluster, authority`),
		bad("TPS_LOG_ENDPOINT", "decision,header", `endpoint source "header": is not one of decision, tag, path, route`),
		bad("TPS_PATH_TEMPLATES", "users/{id}", `path template "users/{id}": is neither a path nor a method in capital letters and a path`),
		bad("TPS_RAW_SAMPLE", "10%", "is not a number from 0 to 1"),
		bad("TPS_STREAM_MAX_AGE", "-1", "is not a duration from 0s to 8760h0m0s, such as 30, 30s, 5m or 7d"),
	}
}

const notSupported = "is set, but this version of ratelimitd does not support it"

// unsupported is a variable of other versions, with a secret in its value.
func unsupported(name string) badInput {
	return setting(name, name+"=***: "+notSupported, name+"=redis://:s3cret@h")
}

func boundedSettings() []badInput {
	whole := func(most int) string { return fmt.Sprintf("is not a whole number from 1 to %d", most) }
	span := func(bounds string) string {
		return "is not a duration from " + bounds + ", such as 30, 30s, 5m or 7d"
	}
	const truth, twice = "is not true or false", "has an entry that is empty or comes twice"
	return []badInput{
		bad("TPS_POLL_INTERVAL", "0", span("1ms to 24h0m0s")),
		bad("TPS_POLL_INTERVAL", "5 s", span("1ms to 24h0m0s")),
		bad("TPS_FLUSH_INTERVAL", "-1s", span("1ms to 24h0m0s")),
		bad("TPS_FLUSH_INTERVAL", "1e400s", span("1ms to 24h0m0s")),
		bad("TPS_DRAIN_DELAY", "NaN", span("0s to 1h0m0s")),
		bad("TPS_DRAIN_DELAY", "26", "is longer than TPS_DRAIN_TIME, of which it is a part"),
		bad("TPS_DRAIN_TIME", "9223372036854775808", span("1s to 2h0m0s")),
		bad("TPS_DRAIN_TIME", "3d", span("1s to 2h0m0s")),
		bad("TPS_DEFAULT_MAX_TPS", "1000000001", "is not a whole number from 0 to 1000000000"),
		bad("TPS_DEFAULT_MAX_TPS", "1e3", "is not a whole number from 0 to 1000000000"),
		bad("TPS_MAX_BUCKETS", "0", whole(1e9)),
		bad("TPS_MAX_WAITERS", "0x10", whole(1e7)),
		bad("TPS_MAX_SERIES", "1_000", whole(1e7)),
		bad("TPS_BATCH_SIZE", "10001", whole(1e4)),
		bad("TPS_MAX_QUEUE_SIZE", "99999999999999999999", whole(1e8)),
		bad("TPS_MAX_QUEUE_SIZE", "99", "is smaller than TPS_BATCH_SIZE"),
		bad("TPS_GATEWAY_KEYS", "gateway,,x", twice),
		bad("TPS_ENDPOINT_KEYS", "a, a", twice),
		bad("TPS_RESPONSE_HEADERS", "yes", truth),
		bad("TPS_MIGRATE", "maybe", truth),
		bad("TPS_LOG_LEVEL", "loud", "is not one of debug, info, warn, error"),
		bad("TPS_LOG_FORMAT", "xml", "is not one of text, json"),
		setting("TPS_API_TOKENS without role", "TPS_API_TOKENS=***: entry 1: is not role:token", "TPS_API_TOKENS=s3cret"),
		setting("TPS_API_TOKENS of commas", "TPS_API_TOKENS=***: holds no role:token", "TPS_API_TOKENS=,,"),
		startInput("a flag that there is not", 2, "unknown flag --grpc-adr, did you mean \"--grpc-addr\"? (ratelimitd --help tells more)", []string{"--grpc-adr=:1"}),
	}
}

func fileSettings() []badInput {
	const key = "TPS_TLS_KEY=$dir/text"
	noPEM := func(file string) string {
		return fmt.Sprintf(`TPS_TLS_CERT="$dir/%s" with TPS_TLS_KEY="$dir/text": tls: failed to find any PEM data in certificate input`, file)
	}
	return []badInput{
		setting("TPS_TLS_CERT alone", `TPS_TLS_CERT="$dir/text": is set, but TPS_TLS_KEY is not`, "TPS_TLS_CERT=$dir/text"),
		setting("TPS_TLS_KEY alone", `TPS_TLS_KEY="$dir/text": is set, but TPS_TLS_CERT is not`, key),
		setting("TPS_TLS_CERT that is not there", "reading TPS_TLS_CERT: open $dir/none: no such file or directory", "TPS_TLS_CERT=$dir/none", key),
		setting("TPS_TLS_CERT with a line end", "reading TPS_TLS_CERT: open $dir/none; ratelimitd: all is well: no such file or directory", "TPS_TLS_CERT=$dir/none\nratelimitd: all is well", key),
		setting("TPS_TLS_CERT that is a directory", "reading TPS_TLS_CERT: read $dir: is a directory", "TPS_TLS_CERT=$dir", key),
		setting("TPS_TLS_CERT that is no PEM", noPEM("text"), "TPS_TLS_CERT=$dir/text", key),
		setting("TPS_TLS_CERT that is empty", noPEM("empty"), "TPS_TLS_CERT=$dir/empty", key),
		setting("TPS_TLS_KEY that is not there", "reading TPS_TLS_KEY: open $dir/none: no such file or directory", "TPS_TLS_CERT=$dir/text", "TPS_TLS_KEY=$dir/none"),
		{"TPS_LIMITS_FILE that is a directory", servesNothing},
		setting("TPS_TLS_CLIENT_CA alone", `TPS_TLS_CLIENT_CA="$dir/text": is set, but TPS_TLS_CERT is not`, "TPS_TLS_CLIENT_CA=$dir/text"),
	}
}

// servesNothing: a limits file may become good at any moment, so that the start goes on. Until then
// there is nothing to decide by, and everybody is told.
func servesNothing(tb testing.TB, _ *victim) {
	tb.Helper()
	dir := tb.TempDir()
	v := &victim{daemon: newDaemon(tb, "TPS_LIMITS_FILE="+dir), file: dir}
	v.server = testenv.StartServer(tb, v.env, build(tb), "serve")
	want := `{"name":"source","ok":false,"message":"no limits are served: reading the limits file ` + dir + `: is no regular file"}`
	testenv.Eventually(tb, 20*time.Second, "what /readyz says", func() error {
		status, body, err := v.get(tb.Context(), "/readyz")
		if err == nil && (status != http.StatusServiceUnavailable || !strings.Contains(body, want)) {
			err = fmt.Errorf("%d %s, want 503 with %s", status, body, want)
		}
		return err
	})
	v.connect(tb)
	if got, want := v.ask(tb, asks("edge", gateway("shop"))), "Unavailable: no limits have been loaded yet"; got != want {
		tb.Errorf("got %s, want %s", got, want)
	}
	if err := os.Remove(dir); err != nil {
		tb.Fatal(err)
	}
	v.replaceFile(tb, goodFile)
	v.awaitSource(tb, "")
	v.begin(tb)
	v.assertServes(tb)
}

// Every setting of README.md stands in the table above.
func TestEverySettingHasABadInput(t *testing.T) {
	readme, err := os.ReadFile(filepath.Join(testenv.Root(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, input := range settingInputs() {
		names = append(names, input.name)
	}
	rows := regexp.MustCompile("(?m)^\\| `(TPS_[A-Z_]+)` \\| `--").FindAllStringSubmatch(string(readme), -1)
	for _, row := range rows {
		if !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, row[1]) }) {
			t.Errorf("%s has no bad input", row[1])
		}
	}
	if len(rows) == 0 {
		t.Error("README.md tells of no settings")
	}
}
