package main

import (
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// variables are all that resolve knows of, and one that it does not.
func variables() (names []string, secret map[string]bool) {
	names, secret = append([]string{"TPS_ODD"}, unsupported...), map[string]bool{"TPS_REDIS_URL": true}
	names = append(names, "RUNTIME_ROOT", "CONFIG_TYPE", "HOST", "PORT", "GRPC_PORT", "DEBUG_PORT", "USE_PROMETHEUS", "PROMETHEUS_ADDR", "LOG_LEVEL", "GRPC_SERVER_USE_TLS",
		"GRPC_SERVER_TLS_CERT", "CONFIG_GRPC_XDS_SERVER_URL", "CONFIG_GRPC_XDS_SERVER_USE_TLS", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS")
	secret["CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS"] = true
	for field := range reflect.TypeFor[settings]().Fields() {
		names = append(names, field.Tag.Get("setting"))
		secret[field.Tag.Get("setting")] = field.Tag.Get("secret") != ""
	}
	return names, secret
}

// FuzzSettings: whatever stands in two variables, there is a config within its bounds, or there are
// lines that each begin with a variable, and never a secret.
func FuzzSettings(f *testing.F) {
	names, secret := variables()
	values := []string{"", "0", "-1", "9223372036854775808", "1e400", "NaN", "7d", "a\nb", "\xff\x1b[2J", "tcp://10.0.0.1:80", ":65536", "[::1]:1", "a,,b", "write:" + mark, mark}
	index := func(name string) uint8 { return uint8(slices.Index(names, name)) }
	for i, name := range names {
		f.Add(index(name), values[i%len(values)], index("TPS_DB_HOST"), "h")
		f.Add(index(name), values[(i+3)%len(values)], index("RUNTIME_ROOT"), "/r")
		f.Add(index(name), values[(i+5)%len(values)], index("CONFIG_TYPE"), "GRPC_XDS_SOTW")
		f.Add(index(name), values[(i+7)%len(values)], index("TPS_DATABASE_URL"), "postgres://u:"+mark+"@h:x/d")
	}
	f.Add(index("TPS_DATABASE_URL"), "host=h password='"+mark, index("TPS_API_TOKENS"), mark+":"+mark)
	f.Fuzz(func(t *testing.T, first uint8, value1 string, second uint8, value2 string) {
		set := map[string]string{names[int(first)%len(names)]: value1, names[int(second)%len(names)]: value2}
		var env []string
		var shown []string // what may be printed
		for name, value := range set {
			env = append(env, name+"="+value)
			if !secret[name] || strings.Contains(value, "ssl") { // a file that an address names is shown
				shown = append(shown, value)
			}
		}
		cfg, err := new(settings).resolve(env)
		printed := strings.Join(cfg.warnings, "\n")
		if err != nil {
			printed += "\n" + err.Error()
			assertLines(t, env, err, names)
		} else {
			assertBounds(t, env, &cfg)
		}
		if strings.Contains(printed, mark) && !strings.Contains(strings.Join(shown, "\n"), mark) {
			t.Errorf("%q: a secret is in %q", env, printed)
		}
	})
}

// mark is a secret that comes by chance nowhere.
const mark = "s3cr3t"

func assertLines(t *testing.T, env []string, err error, names []string) {
	t.Helper()
	for line := range strings.SplitSeq(err.Error(), "\n") {
		named := slices.ContainsFunc(names, func(name string) bool {
			return strings.HasPrefix(line, name+"=") || strings.HasPrefix(line, name+" ")
		})
		if !named || line != oneLineOf(line) {
			t.Errorf("%q: the line %q begins with no variable, or is not fit for a terminal", env, line)
		}
	}
}

// assertBounds repeats what README.md promises of each setting that was taken.
func assertBounds(t *testing.T, env []string, c *config) {
	t.Helper()
	within := func(name string, got, least, most int64) {
		if got < least || got > most {
			t.Errorf("%q: %s is taken as %d, want %d to %d", env, name, got, least, most)
		}
	}
	within("TPS_DEFAULT_MAX_TPS", c.defaultMaxTPS, 0, 1e9)
	within("TPS_MAX_BUCKETS", int64(c.maxBuckets), 1, 1e9)
	within("TPS_MAX_WAITERS", int64(c.maxWaiters), 1, 1e7)
	within("TPS_MAX_SERIES", int64(c.maxSeries), 1, 1e7)
	within("TPS_BATCH_SIZE", int64(c.recorder.batchSize), 1, 1e4)
	within("TPS_MAX_QUEUE_SIZE", int64(c.recorder.maxQueue), int64(c.recorder.batchSize), 1e8)
	within("TPS_POLL_INTERVAL", int64(c.pollInterval), int64(time.Millisecond), int64(24*time.Hour))
	within("TPS_FLUSH_INTERVAL", int64(c.recorder.flushInterval), int64(time.Millisecond), int64(24*time.Hour))
	within("TPS_DRAIN_TIME", int64(c.drainTime), int64(time.Second), int64(2*time.Hour))
	within("TPS_DRAIN_DELAY", int64(c.drainDelay), 0, int64(min(time.Hour, c.drainTime)))
	within("TPS_SERVER_ID", int64(len(c.serverID)), 1, 255)
	within("TPS_GATEWAY_KEYS", int64(len(c.gatewayKeys)), 1, 1<<20)
	within("TPS_SPOOL_MAX", c.recorder.spoolMax, 1<<20, math.MaxInt64)
	within("TPS_RETENTION", int64(c.recorder.history.Retention.Raw), 0, int64(36500*24*time.Hour))
	if share := c.recorder.history.RawSample; !(share >= 0 && share <= 1) {
		t.Errorf("%q: TPS_RAW_SAMPLE is taken as %v", env, share)
	}
	if c.recorder.postgresSink && c.database == "" {
		t.Errorf("%q: rows go to Postgres, which is not set", env)
	}
	if (c.tls.Cert == "") != (c.tls.Key == "") || c.tls.ClientCA != "" && c.tls.Cert == "" {
		t.Errorf("%q: TLS is taken as %+v", env, c.tls)
	}
}
