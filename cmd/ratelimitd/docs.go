package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// docsCmd writes tables that the code knows best into Markdown files, between their markers.
type docsCmd struct {
	Files []string `arg:"" help:"Markdown files with the markers of a table, such as <!-- settings:begin --> and <!-- settings:end -->; - prints the settings."`
}

func (c *docsCmd) run(stdout io.Writer) error {
	metrics, err := metricsTable()
	if err != nil {
		return err
	}
	tables := map[string]string{"settings": settingsTable(), "metrics": metrics}
	for _, file := range c.Files {
		if file == "-" {
			_, err = io.WriteString(stdout, tables["settings"])
		} else {
			err = writeTables(file, tables)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// writeTables puts each table into the file where it has the markers of it.
func writeTables(file string, tables map[string]string) error {
	body, err := os.ReadFile(file) //nolint:gosec // what the command line says
	if err != nil {
		return fmt.Errorf("writing tables: %w", err)
	}
	text, found := string(body), 0
	for name, table := range tables {
		begin, end := "<!-- "+name+":begin -->", "<!-- "+name+":end -->"
		before, rest, ok := strings.Cut(text, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if ok && ok2 {
			text = before + begin + "\n" + table + end + after
			found++
		}
	}
	switch {
	case found == 0:
		return fmt.Errorf("writing tables: %s has no markers of any, such as <!-- settings:begin --> and <!-- settings:end -->", file)
	case text == string(body):
		return nil
	}
	return os.WriteFile(file, []byte(text), 0o644) //nolint:gosec // a document
}

// settingsTable is every setting as a Markdown table.
func settingsTable() string {
	var b strings.Builder
	b.WriteString("| variable | flag | default | meaning |\n|---|---|---|---|\n")
	for field := range reflect.TypeFor[settings]().Fields() {
		tag := field.Tag
		fallback := "none"
		if f := tag.Get("fallback"); f != "" {
			fallback = "`" + f + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s |\n", tag.Get("setting"), tag.Get("name"), fallback, tag.Get("help"))
	}
	return b.String()
}

// metricsTable is every metric of ratelimitd's own as a Markdown table.
func metricsTable() (string, error) {
	const missing = "none.pem" // what certs cannot read it has registered metrics of before
	all := map[string]*dto.MetricFamily{}
	for _, s := range []settings{
		{TLSCert: missing, TLSKey: missing, TLSClientCA: missing},
		{DatabaseURL: "postgres://localhost/none", CollectorURL: "http://localhost", ConfigDir: "."}, // nothing connects before it runs
		{ConfigXDS: "localhost:1"},
	} {
		families, err := metricsWith(&s)
		if err != nil {
			return "", fmt.Errorf("collecting the metrics: %w", err)
		}
		for _, f := range families {
			if f.GetHelp() != all[f.GetName()].GetHelp() && all[f.GetName()] != nil {
				return "", fmt.Errorf("collecting the metrics: %s has two texts of help", f.GetName())
			}
			all[f.GetName()] = f
		}
	}
	var b strings.Builder
	b.WriteString("| metric | type | labels | meaning |\n|---|---|---|---|\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if f := all[name]; strings.HasPrefix(name, "ratelimitd_") {
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), labelNames(f), f.GetHelp())
		}
	}
	return b.String(), nil
}

// labelNames are those of a family, in alphabetical order.
func labelNames(f *dto.MetricFamily) string {
	var names []string
	for _, label := range f.GetMetric()[0].GetLabel() {
		names = append(names, "`"+label.GetName()+"`")
	}
	return strings.Join(names, ", ")
}

// metricsWith returns the metrics of a server with these settings, which is made but does not run.
func metricsWith(given *settings) ([]*dto.MetricFamily, error) {
	cfg, err := given.resolve(nil)
	if err != nil {
		return nil, err
	}
	if cfg.dataDir, err = os.MkdirTemp("", "ratelimitd-docs"); err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(cfg.dataDir) }() // in the directory of temporary files
	s := prepare(cfg, slog.New(slog.DiscardHandler), &touching{prometheus.NewRegistry()})
	defer s.close()
	for _, step := range s.parts() {
		if err := step(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return s.registry.Gather()
}

// touching is a registry that shows a family of metrics also before it has a child.
type touching struct{ *prometheus.Registry }

// Register makes a child of what has labels.
func (t *touching) Register(c prometheus.Collector) error {
	if err := t.Registry.Register(c); err != nil {
		return err
	}
	const mostLabels = 10
	for n := range mostLabels {
		values := make([]string, n)
		var err error
		switch v := c.(type) {
		case *prometheus.CounterVec:
			_, err = v.GetMetricWithLabelValues(values...)
		case *prometheus.GaugeVec:
			_, err = v.GetMetricWithLabelValues(values...)
		case *prometheus.HistogramVec:
			_, err = v.GetMetricWithLabelValues(values...)
		}
		if err == nil { // the number of labels is right
			break
		}
	}
	return nil
}
