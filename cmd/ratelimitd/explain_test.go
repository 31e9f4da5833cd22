package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestCheckExplain(t *testing.T) {
	d := start(t, "TPS_DEFAULT_MAX_TPS=0")
	d.ratelimitd(t, "check", "--explain", "gateway=shop").wants(t, 0, "OK\nno limit applies\n", "")
	d.ratelimitd(t, "limits", "set", "--gateway=shop", "--max-tps=10", "--disabled").wants(t, 0, "shop", "")
	d.ratelimitd(t, "limits", "set", "--gateway=shop", "--endpoint=pay", "--max-tps=2", "--per=customer", "--per-seconds=604800").wants(t, 0, "604800", "")
	want := `OK
LIMIT                        LEVEL     VALUE  STATE     BEFORE  AFTER  CAPACITY  QUEUED  ROOM IN  DECIDES
shop/pay{customer};w=604800  endpoint  ada    enforced  2       1      2         0       now      yes
shop                         gateway          disabled  0       0      0         0       -        
`
	for range 2 { // nothing is charged
		d.ratelimitd(t, "check", "--explain", "gateway=shop", "endpoint=pay", "customer=ada").wants(t, 0, want, "")
	}
	d.ratelimitd(t, "check", "gateway=shop", "endpoint=pay", "customer=ada").wants(t, 0, "OK\nlimit shop/pay{customer};w=604800: 2 per week, 1 remaining", "")
	never := d.ratelimitd(t, "check", "--explain", "gateway=shop", "endpoint=pay", "customer=ada", "--hits=3")
	never.wants(t, 1, "OVER_LIMIT\n", "")
	never.wants(t, 1, "  1       1      2         0       never    yes\n", "")
	asJSON := d.ratelimitd(t, "check", "--explain", "gateway=shop", "endpoint=pay", "customer=ada", "-o", "json")
	var x explained
	if err := json.Unmarshal([]byte(asJSON.stdout), &x); err != nil || len(x.Descriptors) != 1 || len(x.Descriptors[0].Limits) != 2 || asJSON.code != 0 {
		t.Errorf("-o json: %v, %+v", err, asJSON)
	}
	d.ratelimitd(t, "check", "--explain", "--domain=", "gateway=shop").wants(t, 1, "", "ratelimitd: the server answered 400 Bad Request: ")
}

// What an endpoint has used of its day is still used after a restart, and can be reset.
func TestUsageOfADayAcrossARestart(t *testing.T) {
	testenv.InOneWindow(t, testenv.LeapYear)
	dir := t.TempDir()
	env := []string{"TPS_DEFAULT_MAX_TPS=0", "TPS_DATA_DIR=" + dir + "/data", "TPS_LIMITS_FILE=" + dir + "/limits.yaml"}
	first := start(t, env...)
	first.ratelimitd(t, "limits", "set", "--gateway=shop", "--endpoint=pay", "--max-tps=9", "--per-seconds=31622400", "--algorithm=fixed_window").wants(t, 0, "shop", "")
	first.ratelimitd(t, "check", "gateway=shop", "endpoint=pay", "--hits=4").wants(t, 0, "9 per window, 5 remaining", "")
	first.stop()
	if code := first.wait(); code != 0 {
		t.Fatalf("serve ended with %d", code)
	}
	second := start(t, env...)
	second.ratelimitd(t, "check", "gateway=shop", "endpoint=pay").wants(t, 0, "9 per window, 4 remaining", "")
	_, shown := get(t, second.api+"/api/v1/buckets")
	if want := `{"domain":"edge","gateway":"shop","endpoint":"pay","value":null,"limit":"shop/pay;w=31622400","left":4,"capacity":9,"queued":0,`; !strings.Contains(shown, want) {
		t.Errorf("buckets %s, want %s", shown, want)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, second.api+"/api/v1/buckets/reset", strings.NewReader(`{"domain":"edge","gateway":"shop","endpoint":"pay","per_seconds":31622400}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		t.Errorf("reset is answered with %d, want 204", resp.StatusCode)
	}
	second.ratelimitd(t, "check", "gateway=shop", "endpoint=pay").wants(t, 0, "9 per window, 8 remaining", "")
}
