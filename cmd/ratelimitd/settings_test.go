package main

import (
	"log/slog"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/certs"
	"github.com/tps-agent/ratelimitd/internal/collector"
	"github.com/tps-agent/ratelimitd/internal/descsync"
	"github.com/tps-agent/ratelimitd/internal/history"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// resolve reads settings as serve does.
func resolve(tb testing.TB, args, env []string) (config, error) {
	tb.Helper()
	var c cli
	if args == nil {
		return c.Serve.resolve(env)
	}
	parser, err := kong.New(&c)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := parser.Parse(append([]string{"serve"}, args...)); err != nil {
		tb.Fatalf("%q: %v", args, err)
	}
	return c.Serve.resolve(env)
}

func diff(want, got config) string {
	return cmp.Diff(want, got, cmp.AllowUnexported(config{}, recorderConfig{}, descriptorConfig{}, aliases{}), cmp.AllowUnexported(admin.Token{}), cmp.AllowUnexported(certs.Config{}))
}

const day = 24 * time.Hour

func defaults(tb testing.TB) config {
	tb.Helper()
	host, err := os.Hostname()
	if err != nil {
		tb.Fatal(err)
	}
	return config{
		grpcAddr: ":8081", httpAddr: ":8080", debugAddr: "127.0.0.1:6070",
		pollInterval: 5 * time.Second, migrate: true, limitsFile: "./ratelimitd-limits.yaml",
		descriptors: descriptorConfig{
			xds:   descsync.XDSConfig{Node: "default"},
			files: rls.FileConfig{Headers: [3]string{"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}, NearRatio: 0.8},
		},
		defaultMaxTPS: 1000, gatewayKeys: []string{"gateway"}, endpointKeys: []string{"endpoint"},
		maxBuckets: 1_000_000, maxWaiters: 100_000, maxSeries: 10_000,
		serverID: host, recorder: recorderConfig{
			prometheusSink: true, batchSize: 100, flushInterval: 30 * time.Second, maxQueue: 10_000, spoolMax: 4 << 30,
			history:      history.Config{RawSample: 1, Retention: history.Retention{Raw: 30 * day, Second: 7 * day, Minute: 90 * day, Hour: 400 * day}},
			mapping:      accesslog.MappingConfig{Gateway: []string{"decision", "tag", "cluster"}, Endpoint: []string{"decision", "tag", "path", "route"}},
			streamMaxAge: 10 * time.Minute,
		},
		dataDir: "./ratelimitd-data", drainDelay: 5 * time.Second, drainTime: 25 * time.Second, logLevel: slog.LevelInfo,
	}
}

func TestDefaults(t *testing.T) {
	got, err := resolve(t, nil, []string{"PATH=/bin", "TPS_GRPC_ADDR=", "TPS_DB_HOST=", "TPS_REDIS_URL="})
	if d := diff(defaults(t), got); err != nil || d != "" {
		t.Errorf("%v, (-want +got):\n%s", err, d)
	}
}

// xdsTLS has to be set for the files of TLS to the xDS server.
const xdsTLS = "TPS_CONFIG_XDS_TLS=true"

// given are settings with a value other than the default, and what it makes of the config. beside
// must be set with it.
var given = []struct {
	name, value, beside string
	want                func(*config)
}{
	{"TPS_GRPC_ADDR", "[::1]:1", "", func(c *config) { c.grpcAddr = "[::1]:1" }},
	{"TPS_HTTP_ADDR", "h:0", "", func(c *config) { c.httpAddr = "h:0" }},
	{"TPS_DEBUG_ADDR", "[::1]:65535", "", func(c *config) { c.debugAddr = "[::1]:65535" }},
	{"TPS_METRICS_ADDR", ":19001", "", func(c *config) { c.metricsAddr = ":19001" }},
	{"TPS_CONFIG_DIR", "dir", "", func(c *config) { c.descriptors.dir, c.descriptors.files.Required = "dir", true }},
	{"TPS_CONFIG_XDS", "h:18001", "", func(c *config) { c.descriptors.xds.Server, c.descriptors.files.Required = "h:18001", true }},
	{"TPS_CONFIG_XDS_NODE", "n", "", func(c *config) { c.descriptors.xds.Node = "n" }},
	{"TPS_CONFIG_XDS_METADATA", "a=1,b=", "", func(c *config) { c.descriptors.xds.Metadata = map[string]string{"a": "1", "b": ""} }},
	{"TPS_CONFIG_XDS_HEADERS", "x-token=t", "", func(c *config) { c.descriptors.xds.Headers = map[string]string{"x-token": "t"} }},
	{"TPS_CONFIG_XDS_TLS", "true", "", func(c *config) { c.descriptors.xds.TLS = true }},
	{"TPS_CONFIG_XDS_CA", "ca", xdsTLS, func(c *config) { c.descriptors.xds.TLS, c.descriptors.xds.CA = true, "ca" }},
	{"TPS_CONFIG_XDS_CERT", "c", xdsTLS + " TPS_CONFIG_XDS_KEY=k", func(c *config) {
		c.descriptors.xds.TLS, c.descriptors.xds.Cert, c.descriptors.xds.Key = true, "c", "k"
	}},
	{"TPS_CONFIG_XDS_KEY", "k", xdsTLS + " TPS_CONFIG_XDS_CERT=c", func(c *config) {
		c.descriptors.xds.TLS, c.descriptors.xds.Cert, c.descriptors.xds.Key = true, "c", "k"
	}},
	{"TPS_CONFIG_XDS_NAME", "n", xdsTLS, func(c *config) { c.descriptors.xds.TLS, c.descriptors.xds.ServerName = true, "n" }},
	{"TPS_SHADOW_MODE", "true", "", func(c *config) { c.descriptors.files.Shadow = true }},
	{"TPS_QUOTA_MODE", "true", "", func(c *config) { c.descriptors.files.Quota = true }},
	{"TPS_RESPONSE_METADATA", "true", "", func(c *config) { c.descriptors.files.Metadata = true }},
	{"TPS_NEAR_LIMIT_RATIO", "0.5", "", func(c *config) { c.descriptors.files.NearRatio = 0.5 }},
	{"TPS_LIMIT_HEADER", "x-l", "", func(c *config) { c.descriptors.files.Headers[0] = "x-l" }},
	{"TPS_REMAINING_HEADER", "x-r", "", func(c *config) { c.descriptors.files.Headers[1] = "x-r" }},
	{"TPS_RESET_HEADER", "x-s", "", func(c *config) { c.descriptors.files.Headers[2] = "x-s" }},
	{"TPS_DATABASE_URL", "postgres://u:p@h/d", "", func(c *config) { c.database, c.recorder.postgresSink = "postgres://u:p@h/d", true }},
	{"TPS_DB_HOST", "h", "", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://tps_user:@/tps_monitoring?host=h&port=5432&sslmode=prefer", true
	}},
	{"TPS_DB_PORT", "99", "TPS_DB_HOST=h", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://tps_user:@/tps_monitoring?host=h&port=99&sslmode=prefer", true
	}},
	{"TPS_DB_NAME", "n", "TPS_DB_HOST=h", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://tps_user:@/n?host=h&port=5432&sslmode=prefer", true
	}},
	{"TPS_DB_USER", "u", "TPS_DB_HOST=h", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://u:@/tps_monitoring?host=h&port=5432&sslmode=prefer", true
	}},
	{"TPS_DB_PASSWORD", "p@/?#%", "TPS_DB_HOST=h", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://tps_user:p%40%2F%3F%23%25@/tps_monitoring?host=h&port=5432&sslmode=prefer", true
	}},
	{"TPS_DB_SSLMODE", "require", "TPS_DB_HOST=h", func(c *config) {
		c.database, c.recorder.postgresSink = "postgres://tps_user:@/tps_monitoring?host=h&port=5432&sslmode=require", true
	}},
	{"TPS_POLL_INTERVAL", "1500ms", "", func(c *config) { c.pollInterval = 1500 * time.Millisecond }},
	{"TPS_MIGRATE", "false", "", func(c *config) { c.migrate = false }},
	{"TPS_LIMITS_FILE", "f", "", func(c *config) { c.limitsFile = "f" }},
	{"TPS_DEFAULT_MAX_TPS", "0", "", func(c *config) { c.defaultMaxTPS = 0 }},
	{"TPS_GATEWAY_KEYS", "gateway, destination_cluster", "", func(c *config) { c.gatewayKeys = []string{"gateway", "destination_cluster"} }},
	{"TPS_ENDPOINT_KEYS", "path", "", func(c *config) { c.endpointKeys = []string{"path"} }},
	{"TPS_RESPONSE_HEADERS", "true", "", func(c *config) { c.responseHeaders = true }},
	{"TPS_MAX_BUCKETS", "1", "", func(c *config) { c.maxBuckets = 1 }},
	{"TPS_MAX_WAITERS", "2", "", func(c *config) { c.maxWaiters = 2 }},
	{"TPS_MAX_SERIES", "3", "", func(c *config) { c.maxSeries = 3 }},
	{"TPS_SERVER_ID", "me", "", func(c *config) { c.serverID = "me" }},
	{"TPS_SINKS", "postgres", "TPS_DATABASE_URL=postgres://h/d", func(c *config) {
		c.database, c.recorder.postgresSink, c.recorder.prometheusSink = "postgres://h/d", true, false
	}},
	{"TPS_BATCH_SIZE", "4", "", func(c *config) { c.recorder.batchSize = 4 }},
	{"TPS_FLUSH_INTERVAL", "5m", "", func(c *config) { c.recorder.flushInterval = 5 * time.Minute }},
	{"TPS_MAX_QUEUE_SIZE", "500", "", func(c *config) { c.recorder.maxQueue = 500 }},
	{"TPS_COLLECTOR_URL", "https://central:8080", "", func(c *config) {
		c.recorder.collector.URL, c.recorder.collectorSink = "https://central:8080", true
	}},
	{"TPS_COLLECTOR_TOKEN", "t", "TPS_COLLECTOR_URL=http://c", func(c *config) {
		c.recorder.collector, c.recorder.collectorSink = collector.Config{URL: "http://c", Token: "t"}, true
	}},
	{"TPS_SPOOL_MAX", "64MiB", "", func(c *config) { c.recorder.spoolMax = 64 << 20 }},
	{"TPS_RETENTION", "hour=0, raw=36h", "", func(c *config) {
		c.recorder.history.Retention.Hour, c.recorder.history.Retention.Raw = 0, 36*time.Hour
	}},
	{"TPS_RAW_SAMPLE", "0.25", "", func(c *config) { c.recorder.history.RawSample = 0.25 }},
	{"TPS_LOG_GATEWAY", "authority,cluster", "", func(c *config) { c.recorder.mapping.Gateway = []string{"authority", "cluster"} }},
	{"TPS_LOG_ENDPOINT", "path", "", func(c *config) { c.recorder.mapping.Endpoint = []string{"path"} }},
	{"TPS_PATH_TEMPLATES", "/users/{id}, GET /files/{rest...}", "", func(c *config) {
		c.recorder.mapping.PathTemplates = []string{"/users/{id}", "GET /files/{rest...}"}
	}},
	{"TPS_STREAM_MAX_AGE", "0", "", func(c *config) { c.recorder.streamMaxAge = 0 }},
	{"TPS_DATA_DIR", "dir", "", func(c *config) { c.dataDir = "dir" }},
	{"TPS_API_TOKENS", "write:w,read:r", "", func(c *config) { c.tokens, _ = admin.ParseTokens("write:w,read:r") }},
	{"TPS_TLS_CERT", "c", "TPS_TLS_KEY=k", func(c *config) { c.tls = certs.Config{Cert: "c", Key: "k"} }},
	{"TPS_TLS_KEY", "k2", "TPS_TLS_CERT=c", func(c *config) { c.tls = certs.Config{Cert: "c", Key: "k2"} }},
	{"TPS_TLS_CLIENT_CA", "ca", "TPS_TLS_CERT=c TPS_TLS_KEY=k", func(c *config) { c.tls = certs.Config{Cert: "c", Key: "k", ClientCA: "ca"} }},
	{"TPS_TLS_CLIENT_SAN", "envoy", "TPS_TLS_CERT=c TPS_TLS_KEY=k TPS_TLS_CLIENT_CA=ca", func(c *config) {
		c.tls = certs.Config{Cert: "c", Key: "k", ClientCA: "ca", ClientSAN: "envoy"}
	}},
	{"TPS_TLS_PORTS", "grpc", "", func(c *config) { c.httpPlain = true }},
	{"TPS_DRAIN_DELAY", "0", "", func(c *config) { c.drainDelay = 0 }},
	{"TPS_DRAIN_TIME", "60", "", func(c *config) { c.drainTime = time.Minute }},
	{"TPS_LOG_LEVEL", "debug", "", func(c *config) { c.logLevel = slog.LevelDebug }},
	{"TPS_LOG_FORMAT", "json", "", func(c *config) { c.logFormat = "json" }},
}

func flagOf(variable string) string {
	return "--" + strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(variable, "TPS_")), "_", "-")
}

// TestEverySetting sets each by its variable, by its flag, and by both, where the flag wins.
func TestEverySetting(t *testing.T) {
	for _, c := range given {
		want := defaults(t)
		c.want(&want)
		beside := strings.Fields(c.beside)
		for how, set := range map[string][2][]string{
			"variable": {nil, {c.name + "=" + c.value}},
			"flag":     {{flagOf(c.name) + "=" + c.value}, nil},
			"both":     {{flagOf(c.name) + "=" + c.value}, {c.name + "=no good value ="}},
		} {
			got, err := resolve(t, set[0], append(set[1], beside...))
			if d := diff(want, got); err != nil || d != "" {
				t.Errorf("%s=%s by %s: %v (-want +got):\n%s", c.name, c.value, how, err, d)
			}
		}
	}
}

// TestNoSettingIsForgotten compares the tests above, the table of README.md and the flags with
// the settings that there are.
func TestNoSettingIsForgotten(t *testing.T) {
	tested := map[string]bool{}
	for _, c := range given {
		tested[c.name] = true
	}
	table := settingsTable()
	for field := range reflect.TypeFor[settings]().Fields() {
		name, flag, help, fallback := field.Tag.Get("setting"), field.Tag.Get("name"), field.Tag.Get("help"), field.Tag.Get("fallback")
		if !tested[name] {
			t.Errorf("%s has no test", name)
		}
		if "--"+flag != flagOf(name) || help == "" {
			t.Errorf("%s: flag %q, help %q; want %s and a meaning", name, flag, help, flagOf(name))
		}
		shown := "none"
		if fallback != "" {
			shown = "`" + fallback + "`"
		}
		if row := "| `" + name + "` | `--" + flag + "` | " + shown + " | " + help + " |\n"; !strings.Contains(table, row) {
			t.Errorf("the table lacks %s", row)
		}
		delete(tested, name)
	}
	if len(tested) != 0 {
		t.Errorf("tested are %v, which are no settings", tested)
	}
}

func TestBadValues(t *testing.T) {
	const whole, port = ": is not a whole number from ", ": is not host:port or :port"
	for _, c := range []struct{ set, want string }{
		{"TPS_GRPC_ADDR=8081", `TPS_GRPC_ADDR="8081"` + port},
		{"TPS_HTTP_ADDR=a:b:c", `TPS_HTTP_ADDR="a:b:c"` + port},
		{"TPS_DEBUG_ADDR=:65536", `TPS_DEBUG_ADDR=":65536": port "65536" is not a number from 0 to 65535`},
		{"TPS_DEBUG_ADDR=:6070", `TPS_DEBUG_ADDR=":6070": is not on loopback, such as 127.0.0.1:6070 or [::1]:6070`},
		{"TPS_DEBUG_ADDR=0.0.0.0:6070", `TPS_DEBUG_ADDR="0.0.0.0:6070": is not on loopback`},
		{"TPS_DEBUG_ADDR=[::]:6070", `TPS_DEBUG_ADDR="[::]:6070": is not on loopback`},
		{"TPS_DEBUG_ADDR=example.com:6070", `TPS_DEBUG_ADDR="example.com:6070": is not on loopback`},
		{"TPS_SERVER_ID=a\xff", `TPS_SERVER_ID="a\xff": is no text in UTF-8 without control characters`},
		{"TPS_SERVER_ID=a\x1b[2J", `TPS_SERVER_ID="a\x1b[2J": is no text in UTF-8 without control characters`},
		{"TPS_SERVER_ID=" + strings.Repeat("n", 256), `": is longer than 255 bytes`},
		{"TPS_GRPC_ADDR=:http", `TPS_GRPC_ADDR=":http": port "http" is not a number from 0 to 65535`},
		{"TPS_GRPC_ADDR=tcp://10.0.0.1:80", `TPS_GRPC_ADDR="tcp://10.0.0.1:80"` + port + ` (it looks like Kubernetes' service links: set enableServiceLinks: false in the pod)`},
		{"TPS_POLL_INTERVAL=0", `TPS_POLL_INTERVAL="0": is not a duration from 1ms to 24h0m0s, such as 30, 30s, 5m or 7d`},
		{"TPS_POLL_INTERVAL=soon", `TPS_POLL_INTERVAL="soon": is not a duration`},
		{"TPS_FLUSH_INTERVAL=-1s", `TPS_FLUSH_INTERVAL="-1s": is not a duration`},
		{"TPS_FLUSH_INTERVAL=2d", `TPS_FLUSH_INTERVAL="2d": is not a duration`},
		{"TPS_DRAIN_DELAY=2h", `TPS_DRAIN_DELAY="2h": is not a duration from 0s to 1h0m0s`},
		{"TPS_DRAIN_TIME=1ms", `TPS_DRAIN_TIME="1ms": is not a duration from 1s to 2h0m0s`},
		{"TPS_DRAIN_DELAY=26", `TPS_DRAIN_DELAY="26": is longer than TPS_DRAIN_TIME, of which it is a part`},
		{"TPS_MIGRATE=maybe", `TPS_MIGRATE="maybe": is not true or false`},
		{"TPS_RESPONSE_HEADERS=yes", `TPS_RESPONSE_HEADERS="yes": is not true or false`},
		{"TPS_DEFAULT_MAX_TPS=-1", `TPS_DEFAULT_MAX_TPS="-1"` + whole + "0 to 1000000000"},
		{"TPS_DEFAULT_MAX_TPS=1e3", `TPS_DEFAULT_MAX_TPS="1e3"` + whole},
		{"TPS_MAX_BUCKETS=0", `TPS_MAX_BUCKETS="0"` + whole + "1 to 1000000000"},
		{"TPS_MAX_WAITERS=99999999999999999999", `TPS_MAX_WAITERS="99999999999999999999"` + whole + "1 to 10000000"},
		{"TPS_MAX_SERIES=10000001", `TPS_MAX_SERIES="10000001"` + whole + "1 to 10000000"},
		{"TPS_BATCH_SIZE=10001", `TPS_BATCH_SIZE="10001"` + whole + "1 to 10000"},
		{"TPS_MAX_QUEUE_SIZE=many", `TPS_MAX_QUEUE_SIZE="many"` + whole + "1 to 100000000"},
		{"TPS_MAX_QUEUE_SIZE=99", `TPS_MAX_QUEUE_SIZE="99": is smaller than TPS_BATCH_SIZE`},
		{"TPS_GATEWAY_KEYS=a,,b", `TPS_GATEWAY_KEYS="a,,b": has an entry that is empty or comes twice`},
		{"TPS_ENDPOINT_KEYS=a,a", `TPS_ENDPOINT_KEYS="a,a": has an entry that is empty or comes twice`},
		{"TPS_SINKS=prometheus,collector", `TPS_SINKS="prometheus,collector": names collector, but TPS_COLLECTOR_URL is not set`},
		{"TPS_SINKS=prometheus,kafka", `TPS_SINKS="prometheus,kafka": "kafka" is not postgres, collector or prometheus`},
		{"TPS_COLLECTOR_TOKEN=s3cret", `TPS_COLLECTOR_TOKEN=***: is set, but TPS_COLLECTOR_URL is not`},
		{"TPS_SPOOL_MAX=big", `TPS_SPOOL_MAX="big": is not a size of at least 1MiB, such as 512MiB or 4GiB`},
		{"TPS_SPOOL_MAX=1023KiB", `TPS_SPOOL_MAX="1023KiB": is not a size of at least 1MiB`},
		{"TPS_RETENTION=day=1d", `TPS_RETENTION="day=1d": "day" is not raw, second, minute or hour, or comes twice`},
		{"TPS_RETENTION=raw=1d,raw=2d", `TPS_RETENTION="raw=1d,raw=2d": "raw" is not raw, second, minute or hour, or comes twice`},
		{"TPS_RETENTION=raw=1m", `TPS_RETENTION="raw=1m": raw: "1m" is not 0 or a duration from 1h to 100 years, such as 30d`},
		{"TPS_RAW_SAMPLE=1.01", `TPS_RAW_SAMPLE="1.01": is not a number from 0 to 1`},
		{"TPS_RAW_SAMPLE=NaN", `TPS_RAW_SAMPLE="NaN": is not a number from 0 to 1`},
		{"TPS_LOG_GATEWAY=host", `TPS_LOG_GATEWAY="host": `},
		{"TPS_LOG_ENDPOINT=cluster", `TPS_LOG_ENDPOINT="cluster": `},
		{"TPS_PATH_TEMPLATES=/a/{x", `TPS_PATH_TEMPLATES="/a/{x": `},
		{"TPS_SINKS=postgres", `TPS_SINKS="postgres": names postgres, but no database is set`},
		{"TPS_LOG_LEVEL=loud", `TPS_LOG_LEVEL="loud": is not one of debug, info, warn, error`},
		{"TPS_LOG_FORMAT=xml", `TPS_LOG_FORMAT="xml": is not one of text, json`},
		{"TPS_API_TOKENS=s3cret", `TPS_API_TOKENS=***: entry 1: is not role:token`},
		{"TPS_API_TOKENS=s3cret:x,write:s3cret,:", `TPS_API_TOKENS=***: entry 1: its role is not read or write; entry 3: is not role:token`},
		{"TPS_TLS_CERT=c", `TPS_TLS_CERT="c": is set, but TPS_TLS_KEY is not`},
		{"TPS_TLS_KEY=k", `TPS_TLS_KEY="k": is set, but TPS_TLS_CERT is not`},
		{"TPS_TLS_CLIENT_CA=ca", `TPS_TLS_CLIENT_CA="ca": is set, but TPS_TLS_CERT is not`},
		{"TPS_DB_HOST=h TPS_DB_PORT=x", `TPS_DB_PORT="x"` + whole + "1 to 65535"},
		{"TPS_DB_HOST=h TPS_DB_PORT=tcp://10.0.0.1:5432", `TPS_DB_PORT="tcp://10.0.0.1:5432"` + whole + `1 to 65535 (it looks like Kubernetes' service links: set enableServiceLinks: false in the pod)`},
		{"TPS_DB_PORT=tcp://10.0.0.1:5432", `TPS_DB_PORT="tcp://10.0.0.1:5432": is set, but neither TPS_DB_HOST nor TPS_DATABASE_URL is (it looks like Kubernetes' service links: set enableServiceLinks: false in the pod)`},
		{"TPS_DB_HOST=h TPS_DB_SSLMODE=on", `TPS_DB_SSLMODE="on": is not one of disable, allow, prefer, require, verify-ca, verify-full`},
		{"TPS_DB_PASSWORD=s3cret", `TPS_DB_PASSWORD=***: is set, but neither TPS_DB_HOST nor TPS_DATABASE_URL is`},
		{"TPS_DB_NAME=n", `TPS_DB_NAME="n": is set, but neither`},
		{"TPS_DATABASE_URL=mysql://u:s3cret@h/d", `TPS_DATABASE_URL=***: is no address of a Postgres database`},
		{"TPS_DATABASE_URL=postgres://u:p@h/d?pool_max_conns=x", `TPS_DATABASE_URL=***: is no address of a Postgres database`},
		{"TPS_DATABASE_URL=postgres://u:s3cret@h/d?sslmode=verify-full&sslrootcert=/nope", `: open /nope: no such file or directory`},
		{"TPS_REDIS_URL=redis://:s3cret@h", "TPS_REDIS_URL=***: is set, but this version of ratelimitd does not support it"},
		{"TPS_COLLECTOR_URL=http://u:s3cret@h", "TPS_COLLECTOR_URL=***: "},
		{"TPS_COLLECTOR_URL=https://u:s3cret%40h", "TPS_COLLECTOR_URL=***: is no URL"},
		{"TPS_COLLECTOR_URL=u:s3cret", "TPS_COLLECTOR_URL=***: is not http(s)://host:port"},
		{"TPS_COLLECTOR_URL=http://h:s3cret", "TPS_COLLECTOR_URL=***: is no URL"},
		{"TPS_COLLECTOR_URL=http://h/?token=s3cret", "TPS_COLLECTOR_URL=***: has a query or fragment"},
		{"TPS_COLLECTOR_URL=ftp://h", `TPS_COLLECTOR_URL="ftp://h": is not http(s)://host:port`},
		{"TPS_COLLECTOR_URL=http://h:99999", `TPS_COLLECTOR_URL="http://h:99999": has the port "99999", which is not within 1 to 65535`},
		{"TPS_CONFIG_XDS=u:s3cret@h:18001", "TPS_CONFIG_XDS=***: is not host:port"},
		{"TPS_CONFIG_XDS=:18001", `TPS_CONFIG_XDS=":18001": names no host`},
		{"TPS_CONFIG_XDS=h:1 TPS_CONFIG_DIR=d", `TPS_CONFIG_XDS="h:1": is set, and TPS_CONFIG_DIR too: one of them names the domains`},
		{"TPS_CONFIG_XDS_METADATA=a", `TPS_CONFIG_XDS_METADATA="a": is not key=value,key=value with different keys`},
		{"TPS_CONFIG_XDS_METADATA=a=1,a=2", `TPS_CONFIG_XDS_METADATA="a=1,a=2": is not key=value,key=value with different keys`},
		{"TPS_CONFIG_XDS_HEADERS=a:s3cret=1", `TPS_CONFIG_XDS_HEADERS=***: has something that no header can be`},
		{"TPS_CONFIG_XDS_CA=ca", `TPS_CONFIG_XDS_CA="ca": is set, but TPS_CONFIG_XDS_TLS is not true`},
		{"TPS_CONFIG_XDS_TLS=true TPS_CONFIG_XDS_CERT=c", `TPS_CONFIG_XDS_CERT="c": is set, but TPS_CONFIG_XDS_KEY is not`},
		{"TPS_METRICS_ADDR=9090", `TPS_METRICS_ADDR="9090"` + port},
		{"TPS_SHADOW_MODE=yes", `TPS_SHADOW_MODE="yes": is not true or false`},
		{"TPS_QUOTA_MODE=on", `TPS_QUOTA_MODE="on": is not true or false`},
		{"TPS_RESPONSE_METADATA=2", `TPS_RESPONSE_METADATA="2": is not true or false`},
		{"TPS_NEAR_LIMIT_RATIO=80", `TPS_NEAR_LIMIT_RATIO="80": is not a number from 0 to 1`},
		{"TPS_LIMIT_HEADER=a:b", `TPS_LIMIT_HEADER="a:b": is no name of a header`},
		{"TPS_TLS_PORTS=udp", `TPS_TLS_PORTS="udp": "udp" is not grpc or http`},
		{"TPS_TLS_CLIENT_SAN=n", `TPS_TLS_CLIENT_SAN="n": is set, but TPS_TLS_CLIENT_CA is not`},
		{"RUNTIME_ROOT=/r GRPC_PORT=x", `TPS_GRPC_ADDR=":x": port "x" is not a number from 0 to 65535 (from GRPC_HOST and GRPC_PORT)`},
		{"CONFIG_TYPE=ETCD", `CONFIG_TYPE="ETCD": is neither FILE nor GRPC_XDS_SOTW`},
		{"RUNTIME_ROOT=/r GRPC_SERVER_USE_TLS=perhaps", `GRPC_SERVER_USE_TLS="perhaps": is not true or false`},
		{"RUNTIME_ROOT=/r GRPC_SERVER_USE_TLS=true", `GRPC_SERVER_USE_TLS is true, but GRPC_SERVER_TLS_CERT is not set`},
	} {
		_, err := resolve(t, nil, strings.Fields(c.set))
		if err == nil {
			t.Errorf("%s: is taken", c.set)
			continue
		}
		got := err.Error()
		if !strings.Contains(got, c.want) || strings.Contains(got, "\n") || strings.Contains(got, "s3cret") {
			t.Errorf("%s\n got %s\nwant one line with %s, and no secret", c.set, got, c.want)
		}
	}
}

func TestEveryFaultIsALine(t *testing.T) {
	got := command(t.Context(), []string{"TPS_MIGRATE=x", "TPS_MAX_BUCKETS=0", "TPS_DRAIN_TIME=x", "TPS_MAX_QUEUE_SIZE=x"}, "serve", "--grpc-addr", "x")
	want := `ratelimitd: TPS_GRPC_ADDR="x": is not host:port or :port
ratelimitd: TPS_MIGRATE="x": is not true or false
ratelimitd: TPS_MAX_BUCKETS="0": is not a whole number from 1 to 1000000000
ratelimitd: TPS_MAX_QUEUE_SIZE="x": is not a whole number from 1 to 100000000
ratelimitd: TPS_DRAIN_TIME="x": is not a duration from 1s to 2h0m0s, such as 30, 30s, 5m or 7d
`
	if got.code != 1 || got.stdout != "" || got.stderr != want {
		t.Errorf("status %d, stdout %q, stderr\n%swant 1 and\n%s", got.code, got.stdout, got.stderr, want)
	}
}

func TestPasswordsStaySecret(t *testing.T) {
	for _, url := range []string{
		"postgres://u:s3cret/x@h:5432/d", "postgres://u:s3cret@h:port/d", "postgres://u:s3@s3cret@h:x/d", "postgres://u:%zzs3cret@h/d",
		"postgres://h/d?password=s3cret&sslmode=bad", "postgres:/u:s3cret@h/d", "mysql://u:s3cret@h/d", "s3cret",
		"host=h password = s3cret port=x", `host=h password=a\ s3cret port=x`, `host=h password="s3cret a" port=1`, `host=h password="a s3cret" port=1`, "host=h password='a s3cret' port=x",
		"postgres://u:s3cret@h/d?pool_max_conns=x", "postgres://u:s3@s3cret@h/d?pool_max_conns=x",
	} {
		for how, r := range map[string]result{
			"variable": command(t.Context(), []string{"TPS_DATABASE_URL=" + url}, "serve"),
			"flag":     command(t.Context(), nil, "migrate", "--database-url", url),
		} {
			if r.code != 1 || strings.Contains(r.stdout+r.stderr, "s3cret") || lines(r.stderr) != 1 || !strings.HasPrefix(r.stderr, "ratelimitd: TPS_DATABASE_URL=***: ") {
				t.Errorf("%s by %s: status %d, stdout %q, stderr %q", url, how, r.code, r.stdout, r.stderr)
			}
		}
	}
}

// TestDatabaseSettings reads TPS_DB_* as pgx does.
func TestDatabaseSettings(t *testing.T) {
	for _, c := range []struct{ host, wantHost string }{
		{"db.example.com", "db.example.com"}, {"::1", "::1"}, {"/var/run/postgresql", "/var/run/postgresql"}, {"10.0.0.1", "10.0.0.1"}, {"a,b", "a"},
	} {
		got, err := resolve(t, nil, []string{"TPS_DB_HOST=" + c.host, "TPS_DB_PORT=99", "TPS_DB_NAME=n m/ö", "TPS_DB_USER=u@v", "TPS_DB_PASSWORD=p w:/?#@%", "TPS_DB_SSLMODE=disable"})
		if err != nil {
			t.Errorf("%s: %v", c.host, err)
			continue
		}
		pg, err := pgx.ParseConfig(got.database)
		if err != nil {
			t.Errorf("%s: pgx refuses %s: %v", c.host, got.database, err)
			continue
		}
		shown := []any{pg.Host, pg.Port, pg.Database, pg.User, pg.Password, pg.TLSConfig == nil, len(pg.Fallbacks)}
		want := []any{c.wantHost, uint16(99), "n m/ö", "u@v", "p w:/?#@%", true, strings.Count(c.host, ",")}
		if d := cmp.Diff(want, shown); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.host, d)
		}
	}
}

func TestDatabaseURLWins(t *testing.T) {
	got, err := resolve(t, nil, []string{"TPS_DATABASE_URL=postgres://h/d", "TPS_DB_HOST=other", "TPS_DB_PORT=tcp://10.0.0.1:5432", "TPS_DB_SSLMODE=odd"})
	want := []string{
		"TPS_DB_HOST means nothing beside TPS_DATABASE_URL",
		"TPS_DB_PORT means nothing beside TPS_DATABASE_URL; it looks like Kubernetes' service links: set enableServiceLinks: false in the pod",
		"TPS_DB_SSLMODE means nothing beside TPS_DATABASE_URL",
	}
	if err != nil || got.database != "postgres://h/d" || !slices.Equal(got.warnings, want) {
		t.Errorf("%v, database %q, warnings %q; want %q", err, got.database, got.warnings, want)
	}
}

func TestUnknownVariables(t *testing.T) {
	const links = "; it looks like Kubernetes' service links: set enableServiceLinks: false in the pod"
	got := unknown([]string{
		"PATH=/bin", "XTPS_A=1", "TPS_GRPC_ADDR=:1", "TPS_API_TOKEN=t", "TPS_REDIS_URL=r", "TPS_SINK=s3cret", "TPS_SINK=s3cret", "tps_sinks=x",
		"TPS_PORT=tcp://10.0.0.1:80", "TPS_DB_SERVICE_HOST=10.0.0.1", "TPS_DB_PORT_5432_TCP_ADDR=10.0.0.1", "TPS_=",
	})
	want := []string{
		"TPS_ is no setting of ratelimitd",
		"TPS_DB_PORT_5432_TCP_ADDR is no setting of ratelimitd" + links,
		"TPS_DB_SERVICE_HOST is no setting of ratelimitd" + links,
		"TPS_PORT is no setting of ratelimitd" + links,
		"TPS_SINK is no setting of ratelimitd",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
