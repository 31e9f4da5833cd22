package pgsync

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

func BenchmarkZZ(b *testing.B) {
	current := new(limits.Current)
	s, err := New(Config{ConnString: "postgres://tps@127.0.0.1:1/d?sslmode=disable", DataDir: b.TempDir()}, limits.NewClock(), current, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	var rows []limits.Limit
	for i := range 300_000 {
		l := limits.Limit{Key: limits.Key{Gateway: fmt.Sprint("gateway-", i/100)}, MaxTPS: 1000, Enabled: true, Note: fmt.Sprint("team ", i%50), CreatedAt: time.Now().UTC(), UpdatedAt: time.Now().UTC()}
		if i%100 > 0 {
			l.Endpoint = fmt.Sprint("/api/v1/endpoint-", i%100)
		}
		rows = append(rows, l)
	}
	t, err := limits.NewTable(nil, rows, limits.Stamp{ID: 1, LoadedAt: time.Now()})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("compile", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			limits.NewTable(nil, rows, limits.Stamp{ID: 1, LoadedAt: time.Now()})
		}
	})
	b.Run("write", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if err := s.writeState(t); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			err := s.readState(func(h stateHeader, dec *json.Decoder) error {
				r, err := s.readSaved(context.Background(), h, dec)
				if len(r) != len(rows) {
					b.Fatal(len(r))
				}
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
