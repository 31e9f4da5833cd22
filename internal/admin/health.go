package admin

import (
	"net/http"
	"slices"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
)

// Check is one thing that readiness depends on.
type Check struct {
	Name  string
	Run   func() error // must not wait: probes have short deadlines
	Fatal bool         // false: said, but no reason not to serve
	// ReadyOnly: /healthcheck does not look at it. There are those who restart a process for that, which
	// would not mend what is wrong.
	ReadyOnly bool
}

// checkResult is one line of /readyz.
type checkResult struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Message string `json:"message,omitempty"`
}

// What /readyz says of all checks together.
const (
	statusReady    = "ready"
	statusDegraded = "degraded" // serves, but a person should look: the limits may be old
	statusNotReady = "not ready"
)

func (a *api) runChecks(checks []Check) (status string, results []checkResult) {
	status = statusReady
	for _, c := range checks {
		res := checkResult{Name: c.Name, OK: true}
		if err := c.Run(); err != nil {
			res.OK, res.Message = false, err.Error()
			if c.Fatal {
				status = statusNotReady
			} else if status == statusReady {
				status = statusDegraded
			}
		}
		results = append(results, res)
	}
	return status, results
}

// healthz says that the process lives: it is not to be restarted for what it lacks.
func healthz(w http.ResponseWriter, _ *http.Request) {
	httpjson.Answer(w, http.StatusOK, map[string]string{"status": "alive"})
}

// readyz says what is missing. A check that is not fatal is said, and the answer is still 200:
// old limits are better than none, which is what a caller without this replica has.
func (a *api) readyz(w http.ResponseWriter, _ *http.Request) {
	status, results := a.runChecks(a.Checks)
	code := http.StatusOK
	if status == statusNotReady {
		code = http.StatusServiceUnavailable
	}
	httpjson.Answer(w, code, struct {
		Status string        `json:"status"`
		Checks []checkResult `json:"checks"`
	}{status, results})
}

// healthcheck is what envoyproxy/ratelimit has: whether requests can be decided.
func (a *api) healthcheck(w http.ResponseWriter, _ *http.Request) {
	checks := slices.DeleteFunc(slices.Clone(a.Checks), func(c Check) bool { return c.ReadyOnly })
	if status, _ := a.runChecks(checks); status == statusNotReady {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte("OK")) // whoever asked has gone: nobody is left to tell
}
