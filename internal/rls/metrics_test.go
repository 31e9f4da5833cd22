package rls_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/rls"
)

// series returns what a metric family holds, as `label=value,…` to number.
func (f *server) series(tb testing.TB, family string) map[string]float64 {
	tb.Helper()
	families, err := f.registry.Gather()
	if err != nil {
		tb.Fatal(err)
	}
	all := map[string]float64{}
	for _, g := range families {
		if g.GetName() != family {
			continue
		}
		for _, m := range g.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			all[strings.Join(labels, ",")] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return all
}

func TestMetricsOfDecisions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newServer(t, setup{}, row("pay", "", 2, burst(2)), row("web", "", 0, shadow))
		for range 3 {
			askGRPC(t, f, t.Context(), ask(ep("pay", "charge")))
		}
		askGRPC(t, f, t.Context(), ask(d("user", "ann")))
		askJSON(t, f, t.Context(), askIn("other", gw("web")))
		askJSON(t, f, t.Context(), ask(gw("web")))
		askGRPC(t, f, t.Context(), ask(gw("p\xff")))
		want := map[string]float64{
			"code=ok,domain=shop,endpoint=charge,gateway=pay":         2,
			"code=over_limit,domain=shop,endpoint=charge,gateway=pay": 1,
			"code=ok,domain=shop,endpoint=,gateway=":                  1,
			"code=ok,domain=other,endpoint=,gateway=web":              1,
			"code=shadow,domain=shop,endpoint=,gateway=web":           1,
			"code=ok,domain=shop,endpoint=,gateway=p\uFFFD":           1,
		}
		if diff := cmp.Diff(want, f.series(t, "ratelimitd_decisions_total")); diff != "" {
			t.Errorf("decisions, -want +got: %s", diff)
		}
		if got := f.series(t, "ratelimitd_decision_duration_seconds")[""]; got != 7 {
			t.Errorf("durations of %v decisions, want 7", got)
		}
		if diff := cmp.Diff(map[string]float64{"protocol=grpc": 5, "protocol=json": 2}, f.series(t, "ratelimitd_requests_total")); diff != "" {
			t.Errorf("requests, -want +got: %s", diff)
		}
	})
}

func TestMetricsOfErrors(t *testing.T) {
	f := newServer(t, setup{noLimits: true})
	askGRPC(t, f, t.Context(), ask(gw("pay")))
	askGRPC(t, f, t.Context(), ask())
	askBytes(t, f, t.Context(), []byte("\xff"))
	askJSON(t, f, t.Context(), ask(gw("pay")))
	f.overHTTP(t.Context(), []byte("{"), nil)
	want := map[string]float64{"code=InvalidArgument": 3, "code=Unavailable": 2, "code=Canceled": 0, "code=DeadlineExceeded": 0}
	if diff := cmp.Diff(want, f.series(t, "ratelimitd_request_errors_total")); diff != "" {
		t.Errorf("errors, -want +got: %s", diff)
	}
	if diff := cmp.Diff(map[string]float64{"protocol=grpc": 3, "protocol=json": 2}, f.series(t, "ratelimitd_requests_total")); diff != "" {
		t.Errorf("requests, -want +got: %s", diff)
	}
	if got := f.series(t, "ratelimitd_decisions_total"); len(got) != 0 {
		t.Errorf("decisions %v, want none: errors are none", got)
	}
}

// TestMetricsAreBounded sends invented names of each kind: beyond MaxSeries they count as other,
// and what was there before goes on counting under its name.
func TestMetricsAreBounded(t *testing.T) {
	const maxSeries, names = 5, 50
	for name, invent := range map[string]func(i int) (domain, gateway, endpoint string){
		"endpoints":     func(i int) (string, string, string) { return "shop", "pay", strconv.Itoa(i) },
		"gateways":      func(i int) (string, string, string) { return "shop", strconv.Itoa(i), "charge" },
		"domains":       func(i int) (string, string, string) { return strconv.Itoa(i), "pay", "charge" },
		"long names":    func(i int) (string, string, string) { return "shop", "pay", fmt.Sprintf("%d%s", i, long("x", 1000)) },
		"long tails":    func(i int) (string, string, string) { return "shop", "pay", fmt.Sprintf("%s%d", long("x", 1000), i) },
		"invalid UTF-8": func(i int) (string, string, string) { return "shop", "pay", fmt.Sprintf("%d\xff", i) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newServer(t, setup{rls: rls.Config{MaxSeries: maxSeries}}, row("*", "", 1e9))
			askGRPC(t, f, t.Context(), ask(ep("known", "name")))
			for i := range names {
				domain, gateway, endpoint := invent(i)
				askGRPC(t, f, t.Context(), askIn(domain, ep(gateway, endpoint)))
			}
			askGRPC(t, f, t.Context(), ask(ep("known", "name")))
			got := f.series(t, "ratelimitd_decisions_total")
			sum := 0.0
			for _, n := range got {
				sum += n
			}
			const known = "code=ok,domain=shop,endpoint=name,gateway=known"
			if len(got) > maxSeries+1 || sum != names+2 || got[known] != 2 {
				t.Errorf("%d series of %v decisions (%v of the known name), want at most %d of %d (2): %v", len(got), sum, got[known], maxSeries+1, names+2, got)
			}
			const other = "code=ok,domain=other,endpoint=other,gateway=other"
			if name != "long tails" && got[other] != names-(maxSeries-1) {
				t.Errorf("%v decisions count as other, want %d: %v", got[other], names-(maxSeries-1), got)
			}
		})
	}
}
