package admin

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// noLimits answers instead of a list while none was ever loaded.
const noLimits = "no limits were loaded yet: /readyz says what is missing"

// listLimits shows every row, sorted by key. They are written one by one, for there may be a
// million.
func (a *api) listLimits(w http.ResponseWriter, r *http.Request) {
	t := a.Current.Load()
	if t == nil {
		httpjson.Problem(w, http.StatusServiceUnavailable, noLimits)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	if err := writeRows(bufio.NewWriter(w), t); err != nil { // the answer breaks off, so that it is no JSON
		a.Log.DebugContext(r.Context(), "the limits could not be shown to their end", slog.Any("error", err))
	}
}

func writeRows(w *bufio.Writer, t *limits.Table) error {
	separator := `{"limits":[`
	for _, l := range t.Sorted() {
		row, err := json.Marshal(limits.RowOf(l))
		if err != nil {
			return fmt.Errorf("encoding the row %s: %w", l.Key, err)
		}
		if _, err = w.WriteString(separator); err == nil {
			_, err = w.Write(row)
		}
		if err != nil {
			return err
		}
		separator = ","
	}
	if t.Len() > 0 {
		separator = ""
	}
	if _, err := w.WriteString(separator + "]}\n"); err != nil {
		return err
	}
	return w.Flush()
}

// active are the enabled rows of one domain, without those that count per value or over another
// window than a second.
type active struct {
	Gateways  map[string]int64            `json:"gateway_limits"`
	Endpoints map[string]map[string]int64 `json:"endpoint_limits"`
}

func (a *api) activeLimits(w http.ResponseWriter, r *http.Request) {
	domain, err := only(r.URL.RawQuery, "domain")
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	t := a.Current.Load()
	if t == nil {
		httpjson.Problem(w, http.StatusServiceUnavailable, noLimits)
		return
	}
	out := active{Gateways: map[string]int64{}, Endpoints: map[string]map[string]int64{}}
	for l := range t.All() {
		if l.Domain == domain["domain"] && l.Enabled && l.Dim() == (limits.Dim{}) {
			out.add(l)
		}
	}
	httpjson.Answer(w, http.StatusOK, out)
}

func (a *active) add(l *limits.Limit) {
	if l.Endpoint == "" {
		a.Gateways[l.Gateway] = l.MaxTPS
		return
	}
	if a.Endpoints[l.Gateway] == nil {
		a.Endpoints[l.Gateway] = map[string]int64{}
	}
	a.Endpoints[l.Gateway][l.Endpoint] = l.MaxTPS
}

// putLimit writes one whole row; an absent column takes its default.
func (a *api) putLimit(w http.ResponseWriter, r *http.Request) {
	body, code, err := httpjson.ReadBody(w, r, a.bodyTimeout)
	if err != nil {
		httpjson.Problem(w, code, err.Error())
		return
	}
	l, code, err := decodeRow(body)
	if err != nil {
		httpjson.Problem(w, code, oneLine(err))
		return
	}
	if a.FileDomain != nil && a.FileDomain(l.Domain) {
		httpjson.Problem(w, http.StatusConflict, fmt.Sprintf("domain %s: a descriptor file names its limits, so that a row would mean nothing", quote(l.Domain)))
		return
	}
	stored, err := a.Store.Put(r.Context(), l, who(r))
	if err != nil {
		a.failed(w, r, err)
		return
	}
	httpjson.Answer(w, http.StatusOK, limits.RowOf(&stored))
}

// deleteLimit removes the row of exactly the key in the query.
func (a *api) deleteLimit(w http.ResponseWriter, r *http.Request) {
	key, err := keyOf(r.URL.RawQuery)
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	if err := a.Store.Delete(r.Context(), key, who(r)); err != nil {
		a.failed(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// keyOf reads domain, gateway, endpoint, per and per_seconds; an empty one is as good as none.
func keyOf(query string) (limits.Key, error) {
	v, err := only(query, "domain", "gateway", "endpoint", "per", "per_seconds")
	if err != nil {
		return limits.Key{}, err
	}
	key := limits.Key{Domain: v["domain"], Gateway: v["gateway"], Endpoint: v["endpoint"], Per: v["per"]}
	if seconds := v["per_seconds"]; seconds != "" {
		key.PerSeconds, err = strconv.ParseInt(seconds, 10, 64)
		if err != nil || key.PerSeconds == 0 {
			err = &limits.FieldError{Field: "per_seconds", Value: quote(seconds), Reason: fmt.Sprintf("is not within 1 to %d", limits.MaxPerSeconds)}
			return key, errors.Join(err, limits.Key{Domain: key.Domain, Gateway: key.Gateway, Endpoint: key.Endpoint, Per: key.Per}.Validate())
		}
	}
	return key.Canonical(), key.Validate()
}

// only returns the parameters of a query, each of which must have one of names and come once: a
// misspelled one would name another row than was meant.
func only(query string, names ...string) (map[string]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("query %s: %w", quote(query), err)
	}
	found := make(map[string]string, len(names))
	for _, name := range names {
		if given := values[name]; len(given) > 1 {
			return nil, fmt.Errorf("query parameter %s: comes %d times", name, len(given))
		}
		found[name] = values.Get(name)
		delete(values, name)
	}
	for name := range values {
		return nil, fmt.Errorf("query parameter %s: is none of %v", quote(name), names)
	}
	return found, nil
}

// who says in the history where a change came from.
func who(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return "api from " + host
}
