package main

import (
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/certs"
	"github.com/tps-agent/ratelimitd/internal/testenv"
)

// inPlace is the config of a process that is put in the place of envoyproxy/ratelimit.
func inPlace(tb testing.TB, change func(*config)) config {
	tb.Helper()
	c := defaults(tb)
	c.defaultMaxTPS = 0
	c.descriptors.dir, c.descriptors.files.Required = "/r/config", true
	change(&c)
	return c
}

// TestAliases sets what an operator carries over.
func TestAliases(t *testing.T) {
	for _, c := range []struct {
		env  string
		want func(*config)
	}{
		{"RUNTIME_ROOT=/r", func(*config) {}},
		{"RUNTIME_ROOT=/r RUNTIME_SUBDIRECTORY=sub RUNTIME_APPDIRECTORY=app", func(c *config) { c.descriptors.dir = "/r/sub/app" }},
		{"CONFIG_TYPE=FILE", func(c *config) { c.descriptors.dir = "/srv/runtime_data/current/config" }},
		{"RUNTIME_ROOT=/r HOST=127.0.0.1 PORT=1", func(c *config) { c.httpAddr = "127.0.0.1:1" }},
		{"RUNTIME_ROOT=/r PORT=1 GRPC_PORT=2 DEBUG_PORT=3", func(c *config) { c.httpAddr, c.grpcAddr, c.debugAddr = ":1", ":2", "127.0.0.1:3" }},
		{"RUNTIME_ROOT=/r GRPC_HOST=::1", func(c *config) { c.grpcAddr = "[::1]:8081" }},
		{"RUNTIME_ROOT=/r GRPC_PORT=2 TPS_GRPC_ADDR=:3", func(c *config) { c.grpcAddr = ":3" }},
		{"RUNTIME_ROOT=/r TPS_DEFAULT_MAX_TPS=7 TPS_CONFIG_DIR=/other PORT=8080", func(c *config) { c.defaultMaxTPS, c.descriptors.dir, c.httpAddr = 7, "/other", ":8080" }},
		{"RUNTIME_ROOT=/r LOG_LEVEL=WARNING LOG_FORMAT=text", func(c *config) { c.logLevel, c.logFormat = 4, "text" }},
		{"RUNTIME_ROOT=/r LOG_LEVEL=trace", func(c *config) { c.logLevel = -4 }},
		{"RUNTIME_ROOT=/r USE_PROMETHEUS=true", func(c *config) { c.metricsAddr = ":9090" }},
		{"RUNTIME_ROOT=/r USE_PROMETHEUS=true PROMETHEUS_ADDR=:19001", func(c *config) { c.metricsAddr = ":19001" }},
		{"RUNTIME_ROOT=/r PROMETHEUS_ADDR=:19001", func(*config) {}},
		{"RUNTIME_ROOT=/r LIMIT_RESPONSE_HEADERS_ENABLED=true LIMIT_LIMIT_HEADER=a LIMIT_REMAINING_HEADER=b LIMIT_RESET_HEADER=c", func(c *config) {
			c.responseHeaders, c.descriptors.files.Headers = true, [3]string{"a", "b", "c"}
		}},
		{"RUNTIME_ROOT=/r SHADOW_MODE=true QUOTA_MODE=1 RESPONSE_DYNAMIC_METADATA=t NEAR_LIMIT_RATIO=0.5", func(c *config) {
			c.descriptors.files.Shadow, c.descriptors.files.Quota, c.descriptors.files.Metadata, c.descriptors.files.NearRatio = true, true, true, 0.5
		}},
		{"RUNTIME_ROOT=/r GRPC_SERVER_USE_TLS=true GRPC_SERVER_TLS_CERT=c GRPC_SERVER_TLS_KEY=k GRPC_CLIENT_TLS_CACERT=ca GRPC_CLIENT_TLS_SAN=n", func(c *config) {
			c.httpPlain, c.tls = true, certs.Config{Cert: "c", Key: "k", ClientCA: "ca", ClientSAN: "n"}
		}},
		{"RUNTIME_ROOT=/r GRPC_SERVER_TLS_CERT=c GRPC_SERVER_TLS_KEY=k", func(*config) {}}, // GRPC_SERVER_USE_TLS says whether they count
		{"CONFIG_TYPE=GRPC_XDS_SOTW RUNTIME_ROOT=/r", func(c *config) { c.descriptors.dir, c.descriptors.xds.Server = "", "localhost:18000" }},
		{"RUNTIME_ROOT=/r TPS_CONFIG_XDS=h:1", func(c *config) { c.descriptors.dir, c.descriptors.xds.Server = "", "h:1" }},
		{"CONFIG_TYPE=GRPC_XDS_SOTW TPS_CONFIG_DIR=/r/config", func(*config) {}},
		{"CONFIG_TYPE=GRPC_XDS_SOTW CONFIG_GRPC_XDS_SERVER_URL=dns:///eg:1", func(c *config) { c.descriptors.dir, c.descriptors.xds.Server = "", "eg:1" }},
		{"CONFIG_TYPE=GRPC_XDS_SOTW CONFIG_GRPC_XDS_SERVER_URL=eg:18001 CONFIG_GRPC_XDS_NODE_ID=n CONFIG_GRPC_XDS_NODE_METADATA=a=b,c CONFIG_GRPC_XDS_CLIENT_TLS_CERT=c", func(c *config) {
			c.descriptors.dir = ""
			c.descriptors.xds.Server, c.descriptors.xds.Node, c.descriptors.xds.Metadata = "eg:18001", "n", map[string]string{"a": "b"}
		}},
		{"CONFIG_TYPE=GRPC_XDS_SOTW CONFIG_GRPC_XDS_SERVER_URL=eg:1 CONFIG_GRPC_XDS_SERVER_USE_TLS=true CONFIG_GRPC_XDS_CLIENT_TLS_CERT=c CONFIG_GRPC_XDS_CLIENT_TLS_KEY=k CONFIG_GRPC_XDS_SERVER_TLS_CACERT=ca CONFIG_GRPC_XDS_SERVER_TLS_SAN=s CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS=x:y,z:a:b", func(c *config) {
			c.descriptors.dir = ""
			x := &c.descriptors.xds
			x.Server, x.TLS, x.Cert, x.Key, x.CA, x.ServerName, x.Headers = "eg:1", true, "c", "k", "ca", "s", map[string]string{"x": "y", "z": "a:b"}
		}},
	} {
		got, err := resolve(t, nil, strings.Fields(c.env))
		if err != nil {
			t.Errorf("%s: %v", c.env, err)
			continue
		}
		if len(got.aliasesTook) == 0 {
			t.Errorf("%s: nothing is said of it", c.env)
		}
		got.aliases, got.aliasesTook = aliases{}, nil
		if d := diff(inPlace(t, c.want), got); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.env, d)
		}
	}
}

// Platforms put variables of these names into every process.
func TestAliasesAreNotReadUnasked(t *testing.T) {
	got, err := resolve(t, nil, []string{"PORT=1", "HOST=h", "GRPC_PORT=x", "LOG_LEVEL=odd", "SHADOW_MODE=true", "USE_STATSD=true", "RUNTIME_ROOT=", "CONFIG_TYPE="})
	if d := diff(defaults(t), got); err != nil || d != "" {
		t.Errorf("%v, (-want +got):\n%s", err, d)
	}
}

func TestNameOfTheProgram(t *testing.T) {
	for _, c := range []struct {
		program, env, want string
	}{
		{"/bin/ratelimitd", "A=1", "A=1"},
		{"/bin/ratelimit", "A=1", "A=1 RUNTIME_ROOT=/srv/runtime_data/current"},
		{"ratelimit", "RUNTIME_ROOT=", "RUNTIME_ROOT= RUNTIME_ROOT=/srv/runtime_data/current"},
		{"/bin/ratelimit", "RUNTIME_ROOT=/r", "RUNTIME_ROOT=/r"},
		{"/bin/ratelimit", "CONFIG_TYPE=GRPC_XDS_SOTW", "CONFIG_TYPE=GRPC_XDS_SOTW"},
	} {
		if got := asRatelimit(c.program, strings.Fields(c.env)); !slices.Equal(got, strings.Fields(c.want)) {
			t.Errorf("%s with %s: %q, want %s", c.program, c.env, got, c.want)
		}
	}
}

func TestWhatAliasesSay(t *testing.T) {
	got, err := resolve(t, nil, []string{
		"RUNTIME_ROOT=/r", "GRPC_PORT=1", "TPS_HTTP_ADDR=:2", "PORT=3", "USE_STATSD=false", "REDIS_URL=redis:6379", "REDIS_SOCKET_TYPE=tcp", "MERGE_DOMAIN_CONFIG=true",
		"GRPC_MAX_CONNECTION_AGE=1h", "STATSD_HOST=h", "RUNTIME_WATCH_ROOT=false", "UNRELATED=x",
	})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{
		"TPS_CONFIG_DIR (from RUNTIME_ROOT, RUNTIME_SUBDIRECTORY and RUNTIME_APPDIRECTORY)",
		"TPS_DEFAULT_MAX_TPS (from RUNTIME_ROOT or CONFIG_TYPE: an unknown domain has no limit there)",
		"TPS_GRPC_ADDR (from GRPC_HOST and GRPC_PORT)",
	}, got.aliasesTook); d != "" {
		t.Errorf("took (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{
		"GRPC_MAX_CONNECTION_AGE: connections are not ended for their age",
		"MERGE_DOMAIN_CONFIG: each file owns its domain: two files that name one are a fault",
		"REDIS_SOCKET_TYPE: counters are in the memory of this process", "REDIS_URL: counters are in the memory of this process", "STATSD_HOST: metrics are at /metrics",
	}, got.aliases.ignored); d != "" {
		t.Errorf("ignored (-want +got):\n%s", d)
	}
}

// What means nothing without another variable is named, and what a flag overrules is not said to be taken.
func TestAliasesWithoutEffect(t *testing.T) {
	for env, want := range map[string]string{
		"RUNTIME_ROOT=/r GRPC_SERVER_TLS_CERT=c GRPC_CLIENT_TLS_SAN=n":                          "GRPC_CLIENT_TLS_SAN: GRPC_SERVER_USE_TLS is not true|GRPC_SERVER_TLS_CERT: GRPC_SERVER_USE_TLS is not true",
		"RUNTIME_ROOT=/r PROMETHEUS_ADDR=:1":                                                    "PROMETHEUS_ADDR: USE_PROMETHEUS is not true",
		"RUNTIME_ROOT=/r USE_PROMETHEUS=true PROMETHEUS_ADDR=:1":                                "",
		"CONFIG_TYPE=FILE CONFIG_GRPC_XDS_NODE_ID=n":                                            "CONFIG_GRPC_XDS_NODE_ID: CONFIG_TYPE is not GRPC_XDS_SOTW",
		"CONFIG_TYPE=FILE CONFIG_GRPC_XDS_SERVER_USE_TLS=false":                                 "",
		"CONFIG_TYPE=GRPC_XDS_SOTW CONFIG_GRPC_XDS_CLIENT_TLS_KEY=k":                            "CONFIG_GRPC_XDS_CLIENT_TLS_KEY: CONFIG_GRPC_XDS_SERVER_USE_TLS is not true",
		"CONFIG_TYPE=GRPC_XDS_SOTW TPS_CONFIG_DIR=/r":                                           "CONFIG_TYPE: a setting of ours names the source of domains",
		"CONFIG_TYPE=FILE CONFIG_GRPC_XDS_SERVER_USE_TLS=true CONFIG_GRPC_XDS_CLIENT_TLS_KEY=k": "CONFIG_GRPC_XDS_CLIENT_TLS_KEY: CONFIG_TYPE is not GRPC_XDS_SOTW|CONFIG_GRPC_XDS_SERVER_USE_TLS: CONFIG_TYPE is not GRPC_XDS_SOTW",
		"CONFIG_TYPE=GRPC_XDS_SOTW RUNTIME_SUBDIRECTORY=s":                                      "RUNTIME_SUBDIRECTORY: CONFIG_TYPE is GRPC_XDS_SOTW",
		"RUNTIME_ROOT=/r RUNTIME_SUBDIRECTORY=s TPS_CONFIG_DIR=/d":                              "RUNTIME_SUBDIRECTORY: a setting of ours names the source of domains",
	} {
		got, err := resolve(t, nil, strings.Fields(env))
		if ignored := strings.Join(got.aliases.ignored, "|"); err != nil || ignored != want {
			t.Errorf("%s: %v, ignored %q, want %q", env, err, ignored, want)
		}
	}
	if got, err := resolve(t, []string{"--config-dir=/d"}, []string{"CONFIG_TYPE=FILE"}); err != nil || !slices.Equal(got.aliases.ignored, []string{"CONFIG_TYPE: a setting of ours names the source of domains"}) {
		t.Errorf("%v, ignored %q, want CONFIG_TYPE", err, got.aliases.ignored)
	}
	got, err := resolve(t, []string{"--http-addr=127.0.0.1:2"}, []string{"RUNTIME_ROOT=/r", "PORT=1", "GRPC_PORT=3"})
	if took := strings.Join(got.aliasesTook, "|"); err != nil || strings.Contains(took, "TPS_HTTP_ADDR") || !strings.Contains(took, "TPS_GRPC_ADDR") {
		t.Errorf("%v, took %q, want GRPC_PORT and not PORT", err, took)
	}
}

// What was taken is told whatever LOG_LEVEL an operator brings along.
func TestAliasesAreTold(t *testing.T) {
	for level, want := range map[string]string{"INFO": "level=INFO", "WARN": "level=WARN"} {
		got, err := resolve(t, nil, []string{"RUNTIME_ROOT=/r", "LOG_LEVEL=" + level})
		if err != nil {
			t.Fatal(err)
		}
		var logs testenv.Logs
		got.sayAliases(t.Context(), slog.New(slog.NewTextHandler(&logs, &slog.HandlerOptions{Level: got.logLevel})))
		if log := logs.String(); strings.Count(log, "\n") != 1 || !strings.Contains(log, want) || !strings.Contains(log, "TPS_CONFIG_DIR (from RUNTIME_ROOT") {
			t.Errorf("with LOG_LEVEL=%s it says %q, want %s", level, log, want)
		}
	}
}
