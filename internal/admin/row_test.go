package admin

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// FuzzPutLimits looks for a body that makes the reader fall over, and for a row that it reads
// otherwise than encoding/json does, or that does not survive being sent back.
func FuzzPutLimits(f *testing.F) {
	for _, seed := range []string{
		"", "null", "[]", "{}", `{"gateway":"shop"}`, `{"gateway":"shop","max_tps":1.5}`, `{"gateway":"shop","max_tps":-0,"burst":null}`,
		`{"domain":"edge","gateway":"shop","endpoint":"pay","per":"user","max_tps":7,"enabled":false,"burst":9,"max_wait_ms":250,"shadow":true,"note":"why","created_at":"2026-11-24T10:00:00Z","updated_at":null,"version":3}`,
		`{"gateway":"\ud83d\udcb3 \\ud83d \ufffd"}`, `{"gateway":"\ud83d"}`, `{"gateway":"a","gateway":"b"}`, `{"Gateway":"a"}`, "\ufeff{}", "{\"gateway\":\"\xff\"}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		l, code, err := decodeRow(body)
		if err != nil {
			if code != http.StatusBadRequest && code != http.StatusUnprocessableEntity || (code == http.StatusBadRequest) != (checkJSON(body) != nil) {
				t.Fatalf("%q is answered with %d: %v", body, code, err)
			}
			return
		}
		shown, err := json.Marshal(limits.RowOf(&l))
		if err != nil {
			t.Fatalf("showing %s of %q: %v", l.Key, body, err)
		}
		if again, _, err := decodeRow(shown); err != nil || again.Key != l.Key || again != l {
			t.Errorf("%q is the row %+v, and that sent back as %s is %+v, %v", body, l, shown, again, err)
		}
		if diff := cmp.Diff(read(t, body), read(t, shown)); diff != "" {
			t.Errorf("%q: encoding/json reads another row than decodeRow (-json +decodeRow):\n%s", body, diff)
		}
	})
}

// columns are what a client sets, as encoding/json reads them, defaults filled in.
type columns struct {
	Domain, Gateway string
	Endpoint, Per   string
	MaxTPS          int64 `json:"max_tps"`
	Enabled, Shadow bool
	Burst           int64
	MaxWaitMS       int64 `json:"max_wait_ms"`
	Note            string
}

func read(tb testing.TB, body []byte) columns {
	tb.Helper()
	c := columns{MaxTPS: limits.DefaultMaxTPS, Enabled: true}
	if err := json.Unmarshal(body, &c); err != nil {
		tb.Fatalf("%q: encoding/json says %v", body, err)
	}
	return c
}
