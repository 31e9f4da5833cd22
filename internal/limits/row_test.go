package limits

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

func limitOf() *rapid.Generator[Limit] {
	name := rapid.StringMatching(`[a-zö*/ ]{1,20}`)
	maybe := rapid.OneOf(rapid.Just(""), name)
	at := rapid.OneOf(rapid.Just(time.Time{}), rapid.Map(rapid.Int64Range(0, 253_000_000_000_000_000), func(us int64) time.Time { return time.UnixMicro(us).UTC() }))
	return rapid.Custom(func(t *rapid.T) Limit {
		l := Limit{
			Key:       Key{maybe.Draw(t, "domain"), name.Draw(t, "gateway"), maybe.Draw(t, "endpoint"), maybe.Draw(t, "per"), rapid.Int64Range(1, MaxPerSeconds).Draw(t, "per_seconds")}.Canonical(),
			MaxTPS:    rapid.Int64Range(0, MaxMaxTPS).Draw(t, "max_tps"),
			Enabled:   rapid.Bool().Draw(t, "enabled"),
			Burst:     rapid.Int64Range(0, MaxBurst).Draw(t, "burst"),
			MaxWaitMS: rapid.Int64Range(0, MaxMaxWaitMS).Draw(t, "max_wait_ms"),
			Shadow:    rapid.Bool().Draw(t, "shadow"),
			Note:      rapid.StringMatching(`[a-z\n"ö]{0,20}`).Draw(t, "note"),
			CreatedAt: at.Draw(t, "created_at"),
			UpdatedAt: at.Draw(t, "updated_at"),
			Version:   rapid.Int64Range(0, 1<<62).Draw(t, "version"),
		}
		if l.Burst == 0 {
			l.Algorithm = rapid.SampledFrom([]Algorithm{TokenBucket, FixedWindow, SlidingWindow}).Draw(t, "algorithm")
		}
		return l
	})
}

// TestRowRoundTrip sends a limit through what the API, the file and the commands make of it.
func TestRowRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := limitOf().Draw(t, "limit")
		asJSON, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		asYAML, err := yaml.Marshal(RowOf(&l))
		if err != nil {
			t.Fatal(err)
		}
		var fromJSON, fromYAML Row
		if err := json.Unmarshal(asJSON, &fromJSON); err != nil {
			t.Fatalf("%s: %v", asJSON, err)
		}
		if err := yaml.Unmarshal(asYAML, &fromYAML); err != nil {
			t.Fatalf("%s: %v", asYAML, err)
		}
		for from, row := range map[string]Row{"the row": RowOf(&l), string(asJSON): fromJSON, string(asYAML): fromYAML} {
			got, err := row.Limit()
			if err != nil || !got.same(&l) {
				t.Errorf("from %s:\n got %+v, %v\nwant %+v", from, got, err, l)
			}
		}
	})
}

func TestRowDefaults(t *testing.T) {
	got, err := Row{Gateway: "g"}.Limit()
	want := Limit{Key: Key{Gateway: "g"}, MaxTPS: DefaultMaxTPS, Enabled: true}
	if err != nil || got != want {
		t.Errorf("a row with a gateway only: %+v, %v; want %+v", got, err, want)
	}
	empty := ""
	if got, err := (Row{Gateway: "g", Endpoint: &empty, Per: &empty, Note: &empty}).Limit(); err != nil || got != want {
		t.Errorf("empty names are not NULL: %+v, %v; want %+v", got, err, want)
	}
}

func TestRowRefuses(t *testing.T) {
	zero, negative, empty, tooLong, five := int64(0), int64(-1), "", int64(MaxPerSeconds+1), int64(5)
	leaky, fixed := "leaky_bucket", "fixed_window"
	for _, c := range []struct {
		row  Row
		want string
	}{
		{Row{Gateway: "g", Burst: &zero}, "burst 0: is not within 1 to 1000000000"}, // NULL is absent, not 0
		{Row{Gateway: "g", Burst: &negative}, "burst -1: is not within 1 to 1000000000"},
		{Row{Gateway: "g", MaxTPS: &negative}, "max_tps -1: is not within 0 to 1000000000"},
		{Row{Endpoint: &empty}, `gateway "": is empty`},
		{Row{Gateway: "g", PerSeconds: &zero}, "per_seconds 0: is not within 1 to 31622400"},
		{Row{Gateway: "g", PerSeconds: &negative}, "per_seconds -1: is not within 1 to 31622400"},
		{Row{Gateway: "g", PerSeconds: &tooLong}, "per_seconds 31622401: is not within 1 to 31622400"},
		{Row{Gateway: "g", Algorithm: &leaky}, `algorithm "leaky_bucket": is not token_bucket, fixed_window or sliding_window`},
		{Row{Gateway: "g", Algorithm: &fixed, Burst: &five}, "burst 5: has no meaning with algorithm fixed_window, which has room for max_tps"},
		{Row{Burst: &zero}, "gateway \"\": is empty\nburst 0: is not within 1 to 1000000000"},
	} {
		if _, err := c.row.Limit(); err == nil || err.Error() != c.want {
			t.Errorf("%+v\n got %v\nwant %s", c.row, err, c.want)
		}
	}
}

// TestRowShowsColumns wants the names of the columns, and null where the database has NULL.
func TestRowShowsColumns(t *testing.T) {
	l := Limit{Key: Key{Gateway: "g"}, MaxTPS: 5, Enabled: true}
	got, err := json.Marshal(l)
	want := `{"domain":"","gateway":"g","endpoint":null,"per":null,"max_tps":5,"enabled":true,"burst":null,"max_wait_ms":0,"shadow":false,"note":"","per_seconds":1,"algorithm":"token_bucket"}`
	if err != nil || string(got) != want {
		t.Errorf("as JSON %s (%v)\nwant    %s", got, err, want)
	}
	l.Endpoint, l.Per, l.Burst, l.Version = "e", "p", 3, 9
	l.CreatedAt = time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	l.UpdatedAt = l.CreatedAt
	yamlRow, err := yaml.Marshal(RowOf(&l))
	lines := "gateway: g\nendpoint: e\nper: p\nmax_tps: 5\nenabled: true\nburst: 3\nmax_wait_ms: 0\nshadow: false\nnote: \"\"\nper_seconds: 1\nalgorithm: token_bucket\n" +
		"created_at: 2026-01-02T03:04:05.000006Z\nupdated_at: 2026-01-02T03:04:05.000006Z\nversion: 9\n"
	if diff := cmp.Diff(strings.Split(lines, "\n"), strings.Split(string(yamlRow), "\n")); diff != "" || err != nil {
		t.Errorf("as YAML (-want +got), %v:\n%s", err, diff)
	}
}
