package main

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/certs"
)

// settings are the flags of serve and migrate as they were given. Each is an environment
// variable too (tag setting) and has a default (tag fallback); the flag wins. The table in
// README.md is generated from the tags.
type settings struct {
	GRPCAddr  string `name:"grpc-addr" setting:"TPS_GRPC_ADDR" fallback:":8081" help:"Where Envoy reaches RateLimitService v3, AccessLogService v3, grpc.health.v1 and reflection."`
	HTTPAddr  string `name:"http-addr" setting:"TPS_HTTP_ADDR" fallback:":8080" help:"REST API, /json, /healthcheck, /healthz, /readyz, /metrics."`
	DebugAddr string `name:"debug-addr" setting:"TPS_DEBUG_ADDR" fallback:"127.0.0.1:6070" help:"pprof and /rlconfig; on loopback only."`

	MetricsAddr string `name:"metrics-addr" setting:"TPS_METRICS_ADDR" help:"Another address that serves /metrics alone, over plain HTTP."`

	DatabaseURL string `name:"database-url" setting:"TPS_DATABASE_URL" secret:"true" help:"Postgres 15 or later, as postgres://user:password@host:port/database. Without it and TPS_DB_HOST limits come from TPS_LIMITS_FILE."`
	DBHost      string `name:"db-host" setting:"TPS_DB_HOST" help:"Postgres host, where TPS_DATABASE_URL is not set."`
	DBPort      string `name:"db-port" setting:"TPS_DB_PORT" fallback:"5432" help:"Postgres port."`
	DBName      string `name:"db-name" setting:"TPS_DB_NAME" fallback:"tps_monitoring" help:"Postgres database."`
	DBUser      string `name:"db-user" setting:"TPS_DB_USER" fallback:"tps_user" help:"Postgres user."`
	DBPassword  string `name:"db-password" setting:"TPS_DB_PASSWORD" secret:"true" help:"Postgres password."`
	DBSSLMode   string `name:"db-sslmode" setting:"TPS_DB_SSLMODE" fallback:"prefer" help:"Postgres sslmode: disable, allow, prefer, require, verify-ca, verify-full."`

	PollInterval string `name:"poll-interval" setting:"TPS_POLL_INTERVAL" fallback:"5s" help:"Limits are re-read this often beside LISTEN, which PgBouncer breaks."`
	Migrate      string `name:"migrate" setting:"TPS_MIGRATE" fallback:"true" help:"Bring the schema up to date at the start."`
	LimitsFile   string `name:"limits-file" setting:"TPS_LIMITS_FILE" fallback:"./ratelimitd-limits.yaml" help:"Limits without Postgres: read, watched, and written by the API. Missing = empty."`

	ConfigDir         string `name:"config-dir" setting:"TPS_CONFIG_DIR" help:"Descriptor files in the format of envoyproxy/ratelimit: each names a domain, whose rows do not apply. All files below it, watched."`
	ConfigXDS         string `name:"config-xds" setting:"TPS_CONFIG_XDS" help:"host:port of an xDS server that serves such domains (Envoy Gateway), in place of TPS_CONFIG_DIR."`
	ConfigXDSNode     string `name:"config-xds-node" setting:"TPS_CONFIG_XDS_NODE" fallback:"default" help:"Node id that the xDS server is told."`
	ConfigXDSMetadata string `name:"config-xds-metadata" setting:"TPS_CONFIG_XDS_METADATA" help:"Metadata of the node: key=value,key=value."`
	ConfigXDSHeaders  string `name:"config-xds-headers" setting:"TPS_CONFIG_XDS_HEADERS" secret:"true" help:"Headers for the xDS server: name=value,name=value."`
	ConfigXDSTLS      string `name:"config-xds-tls" setting:"TPS_CONFIG_XDS_TLS" fallback:"false" help:"TLS to the xDS server; the files below are read again for each connection."`
	ConfigXDSCA       string `name:"config-xds-ca" setting:"TPS_CONFIG_XDS_CA" help:"PEM file of authorities of the xDS server; empty = those of the system."`
	ConfigXDSCert     string `name:"config-xds-cert" setting:"TPS_CONFIG_XDS_CERT" help:"PEM file of the certificate that the xDS server is shown."`
	ConfigXDSKey      string `name:"config-xds-key" setting:"TPS_CONFIG_XDS_KEY" help:"PEM file of its key."`
	ConfigXDSName     string `name:"config-xds-name" setting:"TPS_CONFIG_XDS_NAME" help:"Name in the certificate of the xDS server, where it is not the host."`

	ShadowMode       string `name:"shadow-mode" setting:"TPS_SHADOW_MODE" fallback:"false" help:"Descriptor files: no request is refused; statuses keep the truth."`
	QuotaMode        string `name:"quota-mode" setting:"TPS_QUOTA_MODE" fallback:"false" help:"Descriptor files: every descriptor is one of quota_mode."`
	ResponseMetadata string `name:"response-metadata" setting:"TPS_RESPONSE_METADATA" fallback:"false" help:"Descriptor files: answers carry what was asked and the metadata of limits as dynamic metadata."`
	NearLimitRatio   string `name:"near-limit-ratio" setting:"TPS_NEAR_LIMIT_RATIO" fallback:"0.8" help:"Descriptor files: hits above this part of a limit are counted as near it."`
	LimitHeader      string `name:"limit-header" setting:"TPS_LIMIT_HEADER" fallback:"RateLimit-Limit" help:"Descriptor files: header of the limit, with TPS_RESPONSE_HEADERS."`
	RemainingHeader  string `name:"remaining-header" setting:"TPS_REMAINING_HEADER" fallback:"RateLimit-Remaining" help:"Descriptor files: header of what is left, with TPS_RESPONSE_HEADERS."`
	ResetHeader      string `name:"reset-header" setting:"TPS_RESET_HEADER" fallback:"RateLimit-Reset" help:"Descriptor files: header of the seconds until the window ends, with TPS_RESPONSE_HEADERS."`

	DefaultMaxTPS   string `name:"default-max-tps" setting:"TPS_DEFAULT_MAX_TPS" fallback:"1000" help:"Limit of the requests of a (domain, gateway) that no row matches; 0 = unlimited."`
	GatewayKeys     string `name:"gateway-keys" setting:"TPS_GATEWAY_KEYS" fallback:"gateway" help:"Descriptor keys that carry the gateway; the order decides."`
	EndpointKeys    string `name:"endpoint-keys" setting:"TPS_ENDPOINT_KEYS" fallback:"endpoint" help:"Descriptor keys that carry the endpoint; the order decides."`
	ResponseHeaders string `name:"response-headers" setting:"TPS_RESPONSE_HEADERS" fallback:"false" help:"Also send x-ratelimit-limit, -remaining and -reset (for descriptor files TPS_LIMIT_HEADER and its kin). Envoy can make them itself."`

	MaxBuckets string `name:"max-buckets" setting:"TPS_MAX_BUCKETS" fallback:"1000000" help:"Bound: buckets of names that no row writes out."`
	MaxWaiters string `name:"max-waiters" setting:"TPS_MAX_WAITERS" fallback:"100000" help:"Bound: held requests; what comes then is refused. Of 1,000 and more one gateway may hold 95 in 100."`
	MaxSeries  string `name:"max-series" setting:"TPS_MAX_SERIES" fallback:"10000" help:"Bound: names in each family of metrics; the rest counts as other."`

	ServerID       string `name:"server-id" setting:"TPS_SERVER_ID" help:"Names this replica in tps_metrics; the host name where it is empty."`
	Sinks          string `name:"sinks" setting:"TPS_SINKS" help:"Where transactions go: postgres, collector, prometheus. Empty = all that are configured."`
	CollectorURL   string `name:"collector-url" setting:"TPS_COLLECTOR_URL" help:"http(s)://host:8080 of another ratelimitd that takes the transactions: the central collector."`
	CollectorToken string `name:"collector-token" setting:"TPS_COLLECTOR_TOKEN" secret:"true" help:"A token of that one's TPS_API_TOKENS, role write."`
	BatchSize      string `name:"batch-size" setting:"TPS_BATCH_SIZE" fallback:"100" help:"A write to Postgres or the collector starts at this many waiting transactions, and takes all that wait (at most 10,000)."`
	FlushInterval  string `name:"flush-interval" setting:"TPS_FLUSH_INTERVAL" fallback:"30s" help:"Or after this time."`
	MaxQueueSize   string `name:"max-queue-size" setting:"TPS_MAX_QUEUE_SIZE" fallback:"10000" help:"Bound: transactions in memory, which are about to be written to the log on disk; what comes then is dropped and counted."`
	DataDir        string `name:"data-dir" setting:"TPS_DATA_DIR" fallback:"./ratelimitd-data" help:"What must survive a restart: the last good limits of Postgres and descriptor files, the usage of long windows, the log of transactions on their way to Postgres or the collector. One process each."`
	SpoolMax       string `name:"spool-max" setting:"TPS_SPOOL_MAX" fallback:"4GiB" help:"Bound: that log on disk; at the bound the oldest transactions are dropped and counted."`
	Retention      string `name:"retention" setting:"TPS_RETENTION" fallback:"raw=30d,second=7d,minute=90d,hour=400d" help:"Partitions of tps_metrics (raw) and tps_rollups that are older are dropped; 0 = never."`
	RawSample      string `name:"raw-sample" setting:"TPS_RAW_SAMPLE" fallback:"1" help:"Share of transactions that get a row in tps_metrics, from 0 to 1; tps_rollups always count all."`

	LogGateway    string `name:"log-gateway" setting:"TPS_LOG_GATEWAY" fallback:"decision,tag,cluster" help:"Where the gateway of an access-log entry comes from; the first that tells one. Of decision, tag, cluster, authority."`
	LogEndpoint   string `name:"log-endpoint" setting:"TPS_LOG_ENDPOINT" fallback:"decision,tag,path,route" help:"Where its endpoint comes from. Of decision, tag, path (through TPS_PATH_TEMPLATES), route."`
	PathTemplates string `name:"path-templates" setting:"TPS_PATH_TEMPLATES" help:"Paths that are endpoints, such as /users/{id},GET /files/{rest...}; a path that none matches is none."`
	StreamMaxAge  string `name:"stream-max-age" setting:"TPS_STREAM_MAX_AGE" fallback:"10m" help:"An access-log stream is ended after about this time, right after a message, so that Envoys spread over the replicas; 0 = never."`

	APITokens   string `name:"api-tokens" setting:"TPS_API_TOKENS" secret:"true" help:"Bearer tokens of the API as role:token, separated by commas; roles read and write. Without it writes are for this host alone."`
	TLSCert     string `name:"tls-cert" setting:"TPS_TLS_CERT" help:"PEM file of the certificate for the gRPC and the HTTP port. The three files are read again when they change."`
	TLSKey      string `name:"tls-key" setting:"TPS_TLS_KEY" help:"PEM file of its key."`
	TLSClientCA string `name:"tls-client-ca" setting:"TPS_TLS_CLIENT_CA" help:"PEM file of authorities: clients must show a certificate of one of them, but for /healthz, /readyz and /healthcheck."`

	TLSClientSAN string `name:"tls-client-san" setting:"TPS_TLS_CLIENT_SAN" help:"Name (DNS, URI, IP or e-mail) that a client's certificate must have besides."`
	TLSPorts     string `name:"tls-ports" setting:"TPS_TLS_PORTS" fallback:"grpc,http" help:"Ports that speak TLS where TPS_TLS_CERT is set: grpc, http."`

	DrainDelay string `name:"drain-delay" setting:"TPS_DRAIN_DELAY" fallback:"5s" help:"At SIGTERM health says no and everything is still served for this long."`
	DrainTime  string `name:"drain-time" setting:"TPS_DRAIN_TIME" fallback:"25s" help:"Out at the latest this long after SIGTERM."`
	LogLevel   string `name:"log-level" setting:"TPS_LOG_LEVEL" fallback:"info" help:"debug, info, warn or error."`
	LogFormat  string `name:"log-format" setting:"TPS_LOG_FORMAT" help:"text or json; empty = text on a terminal, json elsewhere."`
}

// unsupported are settings of the product that this version does not have. Ignoring one of them
// would be a surprise, so the start stops.
var unsupported = []string{ //nolint:gochecknoglobals // a constant list
	"TPS_REDIS_URL",
}

// tokenVariable holds the token of the commands that call the API.
const tokenVariable = "TPS_API_TOKEN" //nolint:gosec // the name of a variable, no secret

// config is settings, read and checked.
type config struct {
	grpcAddr, httpAddr, debugAddr string
	metricsAddr                   string // empty = none

	database     string // as pgx takes it; empty = the embedded default
	pollInterval time.Duration
	migrate      bool
	limitsFile   string

	descriptors descriptorConfig

	defaultMaxTPS             int64
	gatewayKeys, endpointKeys []string
	responseHeaders           bool

	maxBuckets, maxWaiters, maxSeries int

	serverID string
	recorder recorderConfig
	dataDir  string

	tokens                []admin.Token
	tls                   certs.Config // Cert is empty where the ports are plain
	httpPlain, grpcPlain  bool         // ports that TPS_TLS_PORTS leaves out
	drainDelay, drainTime time.Duration
	logLevel              slog.Level
	logFormat             string

	aliases     aliases
	aliasesTook []string // settings that come from aliases

	warnings []string // of what was set and means nothing
}

// reader turns settings into values and collects what is wrong with them.
type reader struct {
	env    map[string]string
	values map[string]string // by variable
	secret map[string]bool
	bad    map[string]bool // variables whose value was refused
	errs   faults

	aliases aliases
}

// resolve reads every setting: the flag, else the environment, else the default. The error has
// one line per fault, which names the variable and the value.
func (s *settings) resolve(env []string) (config, error) {
	r := newReader(s, env)
	c := config{
		grpcAddr: r.addr("TPS_GRPC_ADDR"), httpAddr: r.addr("TPS_HTTP_ADDR"), debugAddr: r.loopback("TPS_DEBUG_ADDR"),
		database:     r.database(),
		pollInterval: r.duration("TPS_POLL_INTERVAL", time.Millisecond, 24*time.Hour),
		migrate:      r.bool("TPS_MIGRATE"),
		limitsFile:   r.values["TPS_LIMITS_FILE"],

		metricsAddr: r.optionalAddr("TPS_METRICS_ADDR"),
		descriptors: r.descriptors(),

		defaultMaxTPS:   r.int("TPS_DEFAULT_MAX_TPS", 0, 1_000_000_000),
		gatewayKeys:     r.list("TPS_GATEWAY_KEYS"),
		endpointKeys:    r.list("TPS_ENDPOINT_KEYS"),
		responseHeaders: r.bool("TPS_RESPONSE_HEADERS"),

		maxBuckets: int(r.int("TPS_MAX_BUCKETS", 1, 1_000_000_000)),
		maxWaiters: int(r.int("TPS_MAX_WAITERS", 1, 10_000_000)),
		maxSeries:  int(r.int("TPS_MAX_SERIES", 1, 10_000_000)),

		recorder: r.recorder(),
		dataDir:  r.values["TPS_DATA_DIR"],

		tls: certs.Config{Cert: r.values["TPS_TLS_CERT"], Key: r.values["TPS_TLS_KEY"], ClientCA: r.values["TPS_TLS_CLIENT_CA"], ClientSAN: r.values["TPS_TLS_CLIENT_SAN"]},

		drainDelay: r.duration("TPS_DRAIN_DELAY", 0, time.Hour),
		drainTime:  r.duration("TPS_DRAIN_TIME", time.Second, 2*time.Hour),
		logFormat:  r.oneOf("TPS_LOG_FORMAT", "", "text", "json"),
	}
	r.rest(&c)
	c.warnings = append(unknown(env), r.overruled()...)
	c.aliases, c.aliasesTook = r.aliases, r.aliases.took(r.env, r.values)
	r.errs = append(r.errs, r.aliases.faults...)
	return c, r.errs.orNil()
}

func (r *reader) rest(c *config) {
	if err := c.logLevel.UnmarshalText([]byte(r.oneOf("TPS_LOG_LEVEL", "debug", "info", "warn", "error"))); err != nil {
		c.logLevel = slog.LevelInfo // oneOf has said what is wrong
	}
	var err error
	if c.tokens, err = admin.ParseTokens(r.values["TPS_API_TOKENS"]); err != nil {
		r.fail("TPS_API_TOKENS", err.Error())
	}
	c.serverID = r.serverID()
	if c.tls.Cert != "" && c.tls.Key == "" {
		r.fail("TPS_TLS_CERT", "is set, but TPS_TLS_KEY is not")
	}
	if c.tls.Key != "" && c.tls.Cert == "" {
		r.fail("TPS_TLS_KEY", "is set, but TPS_TLS_CERT is not")
	}
	r.tlsPorts(c)
	if c.tls.ClientCA != "" && c.tls.Cert == "" {
		r.fail("TPS_TLS_CLIENT_CA", "is set, but TPS_TLS_CERT is not")
	}
	if c.drainDelay > c.drainTime && r.good("TPS_DRAIN_DELAY", "TPS_DRAIN_TIME") {
		r.fail("TPS_DRAIN_DELAY", "is longer than TPS_DRAIN_TIME, of which it is a part")
	}
	r.sinks(c)
	for _, name := range unsupported {
		if r.env[name] != "" {
			r.fail(name, "is set, but this version of ratelimitd does not support it")
		}
	}
}

func newReader(s *settings, env []string) *reader {
	r := &reader{env: map[string]string{}, values: map[string]string{}, secret: map[string]bool{}, bad: map[string]bool{}}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		r.env[name] = value
	}
	for _, name := range unsupported {
		r.values[name] = r.env[name]
		r.secret[name] = strings.HasSuffix(name, "_URL")
	}
	r.aliases = readAliases(r.env)
	if s.ConfigDir+s.ConfigXDS+r.env["TPS_CONFIG_DIR"]+r.env["TPS_CONFIG_XDS"] != "" {
		r.aliases.yield(r.env)
	}
	slices.Sort(r.aliases.ignored)
	v := reflect.ValueOf(s).Elem()
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag
		name := tag.Get("setting")
		r.secret[name] = tag.Get("secret") != ""
		for _, value := range [4]string{v.Field(i).String(), r.env[name], r.aliases.values[name], tag.Get("fallback")} {
			if value != "" {
				r.values[name] = value
				break
			}
		}
	}
	if strings.Contains(r.values["TPS_CONFIG_XDS"], "@") { // user:password@host, which it cannot be
		r.secret["TPS_CONFIG_XDS"] = true
	}
	r.secret["TPS_COLLECTOR_URL"] = !isBareURL(r.values["TPS_COLLECTOR_URL"])
	return r
}

// isBareURL tells whether a URL holds no secret for sure.
func isBareURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && u.Host != "" && u.User == nil && !strings.ContainsAny(text, "@?#%")
}

// fail notes a bad value in one line.
func (r *reader) fail(name, reason string) {
	value := strconv.Quote(r.values[name])
	if r.secret[name] {
		value = "***"
	}
	if strings.HasPrefix(r.values[name], "tcp://") {
		reason += " (" + serviceLinks + ")"
	}
	if from := r.aliases.from[name]; from != "" && r.values[name] == r.aliases.values[name] {
		reason += " (from " + from + ")"
	}
	r.bad[name] = true
	r.errs = append(r.errs, fmt.Errorf("%s=%s: %s", name, value, strings.ReplaceAll(reason, "\n", "; ")))
}

// good tells whether none of the variables was refused.
func (r *reader) good(names ...string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return r.bad[name] })
}

func (r *reader) addr(name string) string {
	if _, port, err := net.SplitHostPort(r.values[name]); err != nil {
		r.fail(name, "is not host:port or :port")
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		r.fail(name, fmt.Sprintf("port %q is not a number from 0 to 65535", port))
	}
	return r.values[name]
}

// optionalAddr is an address, or nothing.
func (r *reader) optionalAddr(name string) string {
	if r.values[name] == "" {
		return ""
	}
	return r.addr(name)
}

// loopback is an address of this host alone: whoever reaches the debug port can read secrets in
// memory and keep the processor busy.
func (r *reader) loopback(name string) string {
	addr := r.addr(name)
	host, _, _ := net.SplitHostPort(addr) // addr has said what is wrong
	if ip := net.ParseIP(host); host != "localhost" && !ip.IsLoopback() && r.good(name) {
		r.fail(name, "is not on loopback, such as 127.0.0.1:6070 or [::1]:6070")
	}
	return addr
}

// serverID is the name of the host where none is given. Rows could show another one only changed.
func (r *reader) serverID() string {
	const longest = 255
	id := r.values["TPS_SERVER_ID"]
	switch {
	case len(id) > longest:
		r.fail("TPS_SERVER_ID", fmt.Sprintf("is longer than %d bytes", longest))
	case !isText(id):
		r.fail("TPS_SERVER_ID", "is no text in UTF-8 without control characters")
	case id == "":
		host, err := os.Hostname()
		if err != nil {
			r.fail("TPS_SERVER_ID", "is empty, and this host has no name: "+err.Error())
		}
		return host
	}
	return id
}

func (r *reader) int(name string, least, most int64) int64 {
	n, err := strconv.ParseInt(r.values[name], 10, 64)
	if err != nil || n < least || n > most {
		r.fail(name, fmt.Sprintf("is not a whole number from %d to %d", least, most))
	}
	return n
}

func (r *reader) bool(name string) bool {
	b, err := strconv.ParseBool(r.values[name])
	if err != nil {
		r.fail(name, "is not true or false")
	}
	return b
}

func (r *reader) duration(name string, least, most time.Duration) time.Duration {
	d, err := admin.ParseDuration(r.values[name])
	if err != nil || d < least || d > most {
		r.fail(name, fmt.Sprintf("is not a duration from %s to %s, such as 30, 30s, 5m or 7d", least, most))
	}
	return d
}

func (r *reader) oneOf(name string, allowed ...string) string {
	if !slices.Contains(allowed, r.values[name]) {
		r.fail(name, "is not one of "+strings.Join(slices.DeleteFunc(allowed, func(s string) bool { return s == "" }), ", "))
	}
	return r.values[name]
}

func (r *reader) list(name string) []string {
	var out []string
	for item := range strings.SplitSeq(r.values[name], ",") {
		item = strings.TrimSpace(item)
		if item == "" || slices.Contains(out, item) {
			r.fail(name, "has an entry that is empty or comes twice")
			return nil
		}
		out = append(out, item)
	}
	return out
}

// serviceLinks is what Kubernetes makes of a Service called tps-db.
const serviceLinks = "it looks like Kubernetes' service links: set enableServiceLinks: false in the pod"

// unknown returns one warning for each TPS_ variable that means nothing.
func unknown(env []string) []string {
	known := append(slices.Clone(unsupported), tokenVariable)
	for field := range reflect.TypeFor[settings]().Fields() {
		known = append(known, field.Tag.Get("setting"))
	}
	var warnings []string
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		if !strings.HasPrefix(name, "TPS_") || slices.Contains(known, name) {
			continue
		}
		warnings = append(warnings, linked(name+" is no setting of ratelimitd", name, value))
	}
	slices.Sort(warnings)
	return slices.Compact(warnings)
}

// linked adds to a message where the variable may have come from.
func linked(message, name, value string) string {
	if strings.HasPrefix(value, "tcp://") || strings.Contains(name, "_SERVICE_") || strings.Contains(name, "_PORT_") {
		message += "; " + serviceLinks
	}
	return message
}
