package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/docker/go-units"

	"github.com/tps-agent/ratelimitd/internal/accesslog"
	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/collector"
	"github.com/tps-agent/ratelimitd/internal/history"
)

// recorderConfig are the settings of what measures.
type recorderConfig struct {
	prometheusSink, postgresSink, collectorSink bool

	collector     collector.Config // URL is empty without TPS_COLLECTOR_URL
	batchSize     int
	flushInterval time.Duration
	maxQueue      int
	spoolMax      int64
	history       history.Config
	mapping       accesslog.MappingConfig
	streamMaxAge  time.Duration
}

// kept tells whether transactions go anywhere that keeps them for good.
func (c *recorderConfig) kept() bool { return c.postgresSink || c.collectorSink }

func (r *reader) recorder() recorderConfig {
	c := recorderConfig{
		collector:     r.collector(),
		batchSize:     int(r.int("TPS_BATCH_SIZE", 1, 10_000)),
		flushInterval: r.duration("TPS_FLUSH_INTERVAL", time.Millisecond, 24*time.Hour),
		maxQueue:      int(r.int("TPS_MAX_QUEUE_SIZE", 1, 100_000_000)),
		spoolMax:      r.size("TPS_SPOOL_MAX", 1<<20),
		history:       history.Config{Retention: r.retention("TPS_RETENTION"), RawSample: r.share("TPS_RAW_SAMPLE")},
		mapping:       r.mapping(),
		streamMaxAge:  r.duration("TPS_STREAM_MAX_AGE", 0, 365*24*time.Hour),
	}
	if c.maxQueue < c.batchSize && r.good("TPS_MAX_QUEUE_SIZE", "TPS_BATCH_SIZE") {
		r.fail("TPS_MAX_QUEUE_SIZE", "is smaller than TPS_BATCH_SIZE")
	}
	return c
}

func (r *reader) collector() collector.Config {
	c := collector.Config{URL: r.values["TPS_COLLECTOR_URL"], Token: r.values["TPS_COLLECTOR_TOKEN"]}
	if c.URL == "" && c.Token != "" {
		r.fail("TPS_COLLECTOR_TOKEN", "is set, but TPS_COLLECTOR_URL is not")
	}
	if c.URL != "" {
		if _, err := collector.New(c); err != nil {
			r.fail("TPS_COLLECTOR_URL", err.Error())
		}
	}
	return c
}

// sinks says where transactions go: to all that is configured, or to what TPS_SINKS names.
func (r *reader) sinks(c *config) {
	there := map[string]bool{"prometheus": true, "postgres": c.database != "", "collector": c.recorder.collector.URL != ""}
	names := []string{"prometheus", "postgres", "collector"}
	if r.values["TPS_SINKS"] != "" {
		names = r.list("TPS_SINKS")
		for _, name := range names {
			switch configured, known := there[name]; {
			case !known:
				r.fail("TPS_SINKS", fmt.Sprintf("%q is not postgres, collector or prometheus", name))
			case !configured && name == "postgres":
				r.fail("TPS_SINKS", "names postgres, but no database is set")
			case !configured && r.good("TPS_COLLECTOR_URL"):
				r.fail("TPS_SINKS", "names collector, but TPS_COLLECTOR_URL is not set")
			}
		}
	}
	named := func(name string) bool { return slices.Contains(names, name) && there[name] }
	c.recorder.prometheusSink, c.recorder.postgresSink, c.recorder.collectorSink = named("prometheus"), named("postgres"), named("collector")
}

// size reads 4GiB, 512MiB or a number of bytes.
func (r *reader) size(name string, least int64) int64 {
	n, err := units.RAMInBytes(r.values[name])
	if err != nil || n < least {
		r.fail(name, fmt.Sprintf("is not a size of at least %s, such as 512MiB or 4GiB", units.BytesSize(float64(least))))
	}
	return n
}

// share reads a number from 0 to 1.
func (r *reader) share(name string) float64 {
	f, err := strconv.ParseFloat(r.values[name], 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > 1 {
		r.fail(name, "is not a number from 0 to 1")
	}
	return f
}

// retention reads raw=30d,second=7d; what is not named keeps its default.
func (r *reader) retention(name string) history.Retention {
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	out := history.Retention{Raw: 30 * day, Second: 7 * day, Minute: 90 * day, Hour: 400 * day}
	fields := map[string]*time.Duration{"raw": &out.Raw, "second": &out.Second, "minute": &out.Minute, "hour": &out.Hour}
	for pair := range strings.SplitSeq(r.values[name], ",") {
		kind, text, _ := strings.Cut(strings.TrimSpace(pair), "=")
		to, known := fields[kind]
		d, err := admin.ParseDuration(text)
		switch {
		case !known:
			r.fail(name, fmt.Sprintf("%q is not raw, second, minute or hour, or comes twice", kind))
			return out
		case err != nil || d < 0 || d > 100*year || (d > 0 && d < time.Hour):
			r.fail(name, fmt.Sprintf("%s: %q is not 0 or a duration from 1h to 100 years, such as 30d", kind, text))
			return out
		}
		*to = d
		delete(fields, kind)
	}
	return out
}

// mapping tries each setting on its own, so that the error names the right one.
func (r *reader) mapping() accesslog.MappingConfig {
	c := accesslog.MappingConfig{Gateway: r.list("TPS_LOG_GATEWAY"), Endpoint: r.list("TPS_LOG_ENDPOINT")}
	if r.values["TPS_PATH_TEMPLATES"] != "" {
		c.PathTemplates = r.list("TPS_PATH_TEMPLATES")
	}
	for name, part := range map[string]accesslog.MappingConfig{
		"TPS_LOG_GATEWAY": {Gateway: c.Gateway}, "TPS_LOG_ENDPOINT": {Endpoint: c.Endpoint}, "TPS_PATH_TEMPLATES": {PathTemplates: c.PathTemplates},
	} {
		if _, err := accesslog.NewMapping(part); err != nil && r.good(name) {
			r.fail(name, err.Error())
		}
	}
	return c
}
