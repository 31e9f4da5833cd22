//go:build e2e

package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"
)

// traffic sends requests one after the other until it is stopped: to an endpoint whose limit
// refuses everything and to one that has plenty of room, by turns. So a limit that is lost shows at
// once, as well as a request that is not decided.
type traffic struct {
	sent, wrong int
	firstWrong  string
	quit        chan struct{}
	running     sync.WaitGroup
}

// trafficLimits are the rows that traffic relies on.
const trafficLimits = `INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('gw-main', 'closed', 0), ('gw-main', 'open', 1000000)`

func startTraffic(s *stack) *traffic {
	return startNamedTraffic(s, func(endpoint string, _ int) string { return endpoint })
}

// namedLimits are those of [startNamedTraffic], for names that go on after a dash.
const namedLimits = `INSERT INTO tps_limits (gateway, endpoint, max_tps) VALUES ('gw-main', 'closed-*', 0), ('gw-main', 'open-*', 1000000)`

// startNamedTraffic sends each request to an endpoint that name makes of the usual one and the number of the request.
func startNamedTraffic(s *stack, name func(endpoint string, n int) string) *traffic {
	tr := &traffic{quit: make(chan struct{})}
	wanted := map[string]int{"closed": http.StatusTooManyRequests, "open": http.StatusOK}
	tr.running.Go(func() {
		for {
			for endpoint, want := range wanted {
				tr.sent++
				r, err := s.get(context.Background(), name(endpoint, tr.sent))
				if err != nil || r.status != want {
					if tr.wrong++; tr.wrong == 1 {
						tr.firstWrong = fmt.Sprintf("request %d, endpoint %s: status %d, %v; want %d", tr.sent, endpoint, r.status, err, want)
					}
				}
			}
			select {
			case <-tr.quit:
				return
			case <-time.After(2 * time.Millisecond): // the queue in memory is bounded
			}
		}
	})
	return tr
}

// stop ends the traffic and returns how many requests were sent, of which none may have been
// answered otherwise than the limits say.
func (tr *traffic) stop(tb testing.TB) int {
	tb.Helper()
	close(tr.quit)
	tr.running.Wait()
	if tr.wrong > 0 {
		tb.Errorf("%d of %d requests were answered wrongly, the first one: %s", tr.wrong, tr.sent, tr.firstWrong)
	}
	return tr.sent
}
