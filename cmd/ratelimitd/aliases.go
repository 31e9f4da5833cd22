package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// aliases are what the variables of envoyproxy/ratelimit say, for who puts ratelimitd in its place. They
// count where there is no flag and no TPS_ variable, and only if RUNTIME_ROOT or CONFIG_TYPE is set:
// platforms put variables such as PORT and HOST into every process.
type aliases struct {
	values  map[string]string // by TPS_ variable
	from    map[string]string // variables that each of these came from
	ignored []string          // variables that were set and mean nothing here, with the reason
	faults  []error           // of values that nobody can understand
}

// asRatelimit is the environment of a process that is called ratelimit: its default root makes that
// aliases are read.
func asRatelimit(program string, env []string) []string {
	isSet := func(name string) bool {
		return slices.ContainsFunc(env, func(pair string) bool { return strings.HasPrefix(pair, name+"=") && len(pair) > len(name)+1 })
	}
	if filepath.Base(program) != "ratelimit" || isSet("RUNTIME_ROOT") || isSet("CONFIG_TYPE") {
		return env
	}
	return append(slices.Clone(env), "RUNTIME_ROOT="+runtimeRoot)
}

const runtimeRoot = "/srv/runtime_data/current"

// readAliases translates the environment.
func readAliases(env map[string]string) aliases {
	if env["RUNTIME_ROOT"] == "" && env["CONFIG_TYPE"] == "" {
		return aliases{}
	}
	a := aliases{values: map[string]string{}, from: map[string]string{}}
	a.addresses(env)
	a.source(env)
	a.tls(env)
	for alias, name := range sameMeaning {
		if value := env[alias]; value != "" {
			a.set(name, value, alias)
		}
	}
	if level := env["LOG_LEVEL"]; level != "" {
		a.set("TPS_LOG_LEVEL", logLevel(level), "LOG_LEVEL")
	}
	a.set("TPS_DEFAULT_MAX_TPS", "0", "RUNTIME_ROOT or CONFIG_TYPE: an unknown domain has no limit there")
	a.ignore(env)
	return a
}

// yield drops what aliases say of the source where a setting names one.
func (a *aliases) yield(env map[string]string) {
	const reason = "a setting of ours names the source of domains"
	switch {
	case a.values["TPS_CONFIG_XDS"] != "":
		a.without(env, reason, "CONFIG_TYPE", "CONFIG_GRPC_XDS_SERVER_URL")
	case a.values["TPS_CONFIG_DIR"] != "":
		a.without(env, reason, "CONFIG_TYPE", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY")
	}
	for _, name := range []string{"TPS_CONFIG_DIR", "TPS_CONFIG_XDS"} {
		delete(a.values, name)
		delete(a.from, name)
	}
}

// without names variables that are set and mean nothing for want of something else.
func (a *aliases) without(env map[string]string, reason string, names ...string) {
	for _, name := range names {
		if env[name] != "" && !isOff(env[name]) {
			a.ignored = append(a.ignored, name+": "+reason)
		}
	}
}

func (a *aliases) set(name, value, from string) { a.values[name], a.from[name] = value, from }

// sameMeaning are variables whose values can be taken as they are.
var sameMeaning = map[string]string{ //nolint:gochecknoglobals // a constant table
	"LOG_FORMAT": "TPS_LOG_FORMAT", "NEAR_LIMIT_RATIO": "TPS_NEAR_LIMIT_RATIO",
	"LIMIT_RESPONSE_HEADERS_ENABLED": "TPS_RESPONSE_HEADERS", "LIMIT_LIMIT_HEADER": "TPS_LIMIT_HEADER",
	"LIMIT_REMAINING_HEADER": "TPS_REMAINING_HEADER", "LIMIT_RESET_HEADER": "TPS_RESET_HEADER",
	"SHADOW_MODE": "TPS_SHADOW_MODE", "QUOTA_MODE": "TPS_QUOTA_MODE", "RESPONSE_DYNAMIC_METADATA": "TPS_RESPONSE_METADATA",
}

// xdsMeaning are those of an xDS source.
var xdsMeaning = map[string]string{ //nolint:gochecknoglobals // a constant table
	"CONFIG_GRPC_XDS_NODE_ID": "TPS_CONFIG_XDS_NODE", "CONFIG_GRPC_XDS_SERVER_USE_TLS": "TPS_CONFIG_XDS_TLS",
}

// xdsTLSMeaning are those of TLS to it, which mean nothing without.
var xdsTLSMeaning = map[string]string{ //nolint:gochecknoglobals // a constant table
	"CONFIG_GRPC_XDS_CLIENT_TLS_CERT": "TPS_CONFIG_XDS_CERT", "CONFIG_GRPC_XDS_CLIENT_TLS_KEY": "TPS_CONFIG_XDS_KEY",
	"CONFIG_GRPC_XDS_SERVER_TLS_CACERT": "TPS_CONFIG_XDS_CA", "CONFIG_GRPC_XDS_SERVER_TLS_SAN": "TPS_CONFIG_XDS_NAME",
}

// grpcTLSMeaning are those of TLS on the gRPC port.
var grpcTLSMeaning = map[string]string{ //nolint:gochecknoglobals // a constant table
	"GRPC_SERVER_TLS_CERT": "TPS_TLS_CERT", "GRPC_SERVER_TLS_KEY": "TPS_TLS_KEY",
	"GRPC_CLIENT_TLS_CACERT": "TPS_TLS_CLIENT_CA", "GRPC_CLIENT_TLS_SAN": "TPS_TLS_CLIENT_SAN",
}

func (a *aliases) addresses(env map[string]string) {
	for _, of := range [...]struct{ name, host, port, fallback string }{
		{"TPS_HTTP_ADDR", "HOST", "PORT", "8080"}, {"TPS_GRPC_ADDR", "GRPC_HOST", "GRPC_PORT", "8081"},
	} {
		if env[of.host] != "" || env[of.port] != "" {
			a.set(of.name, net.JoinHostPort(env[of.host], cmp.Or(env[of.port], of.fallback)), of.host+" and "+of.port)
		}
	}
	if port := env["DEBUG_PORT"]; port != "" {
		a.set("TPS_DEBUG_ADDR", "127.0.0.1:"+port, "DEBUG_PORT")
	}
	if a.isTrue(env, "USE_PROMETHEUS") {
		a.set("TPS_METRICS_ADDR", cmp.Or(env["PROMETHEUS_ADDR"], ":9090"), "USE_PROMETHEUS and PROMETHEUS_ADDR")
	} else {
		a.without(env, "USE_PROMETHEUS is not true", "PROMETHEUS_ADDR")
	}
}

// isTrue reads a switch.
func (a *aliases) isTrue(env map[string]string, name string) bool {
	if env[name] == "" {
		return false
	}
	on, err := strconv.ParseBool(env[name])
	if err != nil {
		a.faults = append(a.faults, fmt.Errorf("%s=%q: is not true or false", name, env[name]))
	}
	return on
}

// source says where the domains come from.
func (a *aliases) source(env map[string]string) {
	switch kind := env["CONFIG_TYPE"]; kind {
	case "GRPC_XDS_SOTW":
		a.xds(env)
	case "", "FILE":
		dir := filepath.Join(cmp.Or(env["RUNTIME_ROOT"], runtimeRoot), env["RUNTIME_SUBDIRECTORY"], cmp.Or(env["RUNTIME_APPDIRECTORY"], "config"))
		a.set("TPS_CONFIG_DIR", dir, "RUNTIME_ROOT, RUNTIME_SUBDIRECTORY and RUNTIME_APPDIRECTORY")
		const reason = "CONFIG_TYPE is not GRPC_XDS_SOTW"
		a.without(env, reason, "CONFIG_GRPC_XDS_SERVER_URL", "CONFIG_GRPC_XDS_NODE_METADATA", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS")
		a.without(env, reason, slices.Concat(slices.Collect(maps.Keys(xdsMeaning)), slices.Collect(maps.Keys(xdsTLSMeaning)))...)
	default:
		a.faults = append(a.faults, fmt.Errorf("CONFIG_TYPE=%q: is neither FILE nor GRPC_XDS_SOTW", kind))
	}
}

func (a *aliases) xds(env map[string]string) {
	a.set("TPS_CONFIG_XDS", strings.TrimPrefix(cmp.Or(env["CONFIG_GRPC_XDS_SERVER_URL"], "localhost:18000"), "dns:///"), "CONFIG_GRPC_XDS_SERVER_URL")
	a.pairs("TPS_CONFIG_XDS_METADATA", "=", "CONFIG_GRPC_XDS_NODE_METADATA", env)
	a.pairs("TPS_CONFIG_XDS_HEADERS", ":", "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS", env)
	a.without(env, "CONFIG_TYPE is GRPC_XDS_SOTW", "RUNTIME_SUBDIRECTORY", "RUNTIME_APPDIRECTORY")
	meanings := []map[string]string{xdsMeaning}
	if a.isTrue(env, "CONFIG_GRPC_XDS_SERVER_USE_TLS") {
		meanings = append(meanings, xdsTLSMeaning)
	} else {
		a.without(env, "CONFIG_GRPC_XDS_SERVER_USE_TLS is not true", slices.Collect(maps.Keys(xdsTLSMeaning))...)
	}
	for _, meaning := range meanings {
		for alias, name := range meaning {
			if value := env[alias]; value != "" {
				a.set(name, value, alias)
			}
		}
	}
}

// pairs takes a list of names and values. What has no separator is passed over, as there.
func (a *aliases) pairs(name, separator, from string, env map[string]string) {
	var all []string
	for item := range strings.SplitSeq(env[from], ",") {
		if key, value, ok := strings.Cut(item, separator); ok {
			all = append(all, strings.TrimSpace(key)+"="+value)
		}
	}
	if len(all) > 0 {
		a.set(name, strings.Join(all, ","), from)
	}
}

// tls is of the gRPC port alone there.
func (a *aliases) tls(env map[string]string) {
	if !a.isTrue(env, "GRPC_SERVER_USE_TLS") {
		a.without(env, "GRPC_SERVER_USE_TLS is not true", slices.Collect(maps.Keys(grpcTLSMeaning))...)
		return
	}
	if env["GRPC_SERVER_TLS_CERT"] == "" && env["TPS_TLS_CERT"] == "" {
		a.faults = append(a.faults, errors.New("GRPC_SERVER_USE_TLS is true, but GRPC_SERVER_TLS_CERT is not set"))
	}
	a.set("TPS_TLS_PORTS", "grpc", "GRPC_SERVER_USE_TLS")
	for alias, name := range grpcTLSMeaning {
		if value := env[alias]; value != "" {
			a.set(name, value, alias)
		}
	}
}

// logLevel takes the words of logrus.
func logLevel(word string) string {
	switch word = strings.ToLower(word); word {
	case "trace":
		return "debug"
	case "warning":
		return "warn"
	case "fatal", "panic":
		return "error"
	}
	return word
}

// meaningless are variables that say nothing to ratelimitd, and why. A name that ends in * stands for
// all that begin so.
var meaningless = map[string]string{ //nolint:gochecknoglobals // a constant table
	"DEBUG_HOST": "the debug port is on loopback only",
	"GRPC_UDS":   "there is no listener on a Unix socket",

	"GRPC_SERVER_TLS_CA_CERT": "GRPC_CLIENT_TLS_CACERT names the authority of clients, as in envoyproxy/ratelimit",

	"GRPC_MAX_CONNECTION_AGE": "connections are not ended for their age", "GRPC_MAX_CONNECTION_AGE_GRACE": "connections are not ended for their age",

	"MERGE_DOMAIN_CONFIG": "each file owns its domain: two files that name one are a fault", "RUNTIME_IGNOREDOTFILES": "names that begin with a dot are always passed over",
	"RUNTIME_WATCH_ROOT": "every change is watched", "FORCE_START_WITHOUT_INITIAL_CONFIG": "the start never waits for a configuration",
	"HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED":       "health always says no before the first configuration",
	"CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL": "the pauses are fixed: 100 ms to 10 s, with jitter",
	"XDS_CLIENT_BACKOFF_*":                          "the pauses are fixed: 100 ms to 10 s, with jitter",
	"XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES":              "a message may have 64 MiB",
	"USE_STATSD":                                    "metrics are at /metrics", "STATSD_*": "metrics are at /metrics", "USE_DOG_STATSD*": "metrics are at /metrics",
	"EXTRA_TAGS": "metrics are at /metrics, where Prometheus adds labels", "STATS_FLUSH_INTERVAL": "metrics are at /metrics", "DISABLE_STATS": "metrics are at /metrics",
	"PROMETHEUS_PATH": "metrics are at /metrics", "PROMETHEUS_MAPPER_YAML": "metrics have fixed names", "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS": "times are in seconds",
	"BACKEND_TYPE": counted, "REDIS_*": counted, "MEMCACHE_*": counted, "LOCAL_CACHE_SIZE_IN_BYTES": counted, "CACHE_KEY_PREFIX": counted,
	"EXPIRATION_JITTER_MAX_SECONDS": counted, "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT": counted, "TRACING_*": "there are no traces", "OTEL_EXPORTER_OTLP_*": "there are no traces",
}

const counted = "counters are in the memory of this process"

// isOff tells of a switch that changes nothing.
func isOff(value string) bool {
	on, err := strconv.ParseBool(value)
	return err == nil && !on
}

func (a *aliases) ignore(env map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(env)) {
		for pattern, reason := range meaningless {
			prefix, open := strings.CutSuffix(pattern, "*")
			if (name == pattern || (open && strings.HasPrefix(name, prefix))) && env[name] != "" && !isOff(env[name]) {
				a.ignored = append(a.ignored, name+": "+reason)
			}
		}
	}
}

// took names what was understood, and as what: what no variable of ours and no flag, which is in values,
// has overruled.
func (a *aliases) took(env, values map[string]string) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(a.values)) {
		if env[name] == "" && values[name] == a.values[name] {
			all = append(all, name+" (from "+a.from[name]+")")
		}
	}
	return all
}
