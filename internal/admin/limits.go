package admin

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// maxBody is the largest body of a request.
const maxBody = 1 << 20

// putRow is a row as PUT takes it: what GET shows, of which the last three are ignored.
type putRow struct {
	Domain    string          `json:"domain"`
	Gateway   string          `json:"gateway"`
	Endpoint  *string         `json:"endpoint"`
	Per       *string         `json:"per"`
	MaxTPS    *int64          `json:"max_tps"`
	Enabled   *bool           `json:"enabled"`
	Burst     *int64          `json:"burst"`
	MaxWaitMS *int64          `json:"max_wait_ms"`
	Shadow    *bool           `json:"shadow"`
	Note      *string         `json:"note"`
	CreatedAt json.RawMessage `json:"created_at"`
	UpdatedAt json.RawMessage `json:"updated_at"`
	Version   json.RawMessage `json:"version"`
}

func (p *putRow) limit() (limits.Limit, error) {
	return limits.Row{
		Domain: p.Domain, Gateway: p.Gateway, Endpoint: p.Endpoint, Per: p.Per, MaxTPS: p.MaxTPS, Enabled: p.Enabled,
		Burst: p.Burst, MaxWaitMS: p.MaxWaitMS, Shadow: p.Shadow, Note: p.Note,
	}.Limit()
}

// listLimits shows every row, sorted by key.
func (a *api) listLimits(w http.ResponseWriter, r *http.Request) {
	if !a.allow(w, r, RoleRead) {
		return
	}
	rows := []limits.Row{}
	if t := a.Current.Load(); t != nil {
		for _, l := range t.Sorted() {
			rows = append(rows, limits.RowOf(l))
		}
	}
	answer(w, http.StatusOK, map[string]any{"limits": rows})
}

// activeLimits shows the enabled rows of one domain, without those that count per value.
func (a *api) activeLimits(w http.ResponseWriter, r *http.Request) {
	if !a.allow(w, r, RoleRead) {
		return
	}
	gateways, endpoints := map[string]int64{}, map[string]map[string]int64{}
	domain := r.URL.Query().Get("domain")
	if t := a.Current.Load(); t != nil {
		for l := range t.All() {
			switch {
			case l.Domain != domain || !l.Enabled || l.Per != "":
			case l.Endpoint == "":
				gateways[l.Gateway] = l.MaxTPS
			default:
				if endpoints[l.Gateway] == nil {
					endpoints[l.Gateway] = map[string]int64{}
				}
				endpoints[l.Gateway][l.Endpoint] = l.MaxTPS
			}
		}
	}
	answer(w, http.StatusOK, map[string]any{"gateway_limits": gateways, "endpoint_limits": endpoints})
}

// putLimit writes one whole row; an absent column takes its default.
func (a *api) putLimit(w http.ResponseWriter, r *http.Request) {
	if !a.allow(w, r, RoleWrite) {
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		problem(w, http.StatusRequestEntityTooLarge, fmt.Sprintf("body: is over %d bytes", tooLarge.Limit))
		return
	case err != nil:
		problem(w, http.StatusBadRequest, "reading the body: "+err.Error())
		return
	}
	l, code, err := decodeRow(body)
	if err != nil {
		problem(w, code, err.Error())
		return
	}
	stored, err := a.Store.Put(r.Context(), l, who(r))
	if err != nil {
		a.failed(w, r, err)
		return
	}
	answer(w, http.StatusOK, limits.RowOf(&stored))
}

// decodeRow returns the row of a body, or the status and the fault.
func decodeRow(body []byte) (limits.Limit, int, error) {
	if !json.Valid(body) {
		var any any
		return limits.Limit{}, http.StatusBadRequest, fmt.Errorf("body: is not JSON: %w", json.Unmarshal(body, &any))
	}
	var row putRow
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&row); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			err = fmt.Errorf("%s: a JSON %s is not a %s", fieldName(wrong.Field), wrong.Value, wrong.Type)
		} else {
			err = errors.New(strings.TrimPrefix(err.Error(), "json: "))
		}
		return limits.Limit{}, http.StatusUnprocessableEntity, err
	}
	l, err := row.limit()
	return l, http.StatusUnprocessableEntity, err
}

func fieldName(f string) string {
	if f == "" {
		return "body"
	}
	return f
}

// deleteLimit removes the row of exactly the key in the query.
func (a *api) deleteLimit(w http.ResponseWriter, r *http.Request) {
	if !a.allow(w, r, RoleWrite) {
		return
	}
	key, err := keyOf(r.URL.RawQuery)
	if err != nil {
		problem(w, http.StatusUnprocessableEntity, err.Error())
		return
	}
	if err := a.Store.Delete(r.Context(), key, who(r)); err != nil {
		a.failed(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// keyOf reads domain, gateway, endpoint and per; an empty one is as good as none.
func keyOf(query string) (key limits.Key, err error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return key, fmt.Errorf("query %.200q: %w", query, err)
	}
	fields := map[string]*string{"domain": &key.Domain, "gateway": &key.Gateway, "endpoint": &key.Endpoint, "per": &key.Per}
	for name, v := range values {
		field, known := fields[name]
		switch {
		case !known:
			return key, fmt.Errorf("query parameter %.64q: is not domain, gateway, endpoint or per", name)
		case len(v) > 1:
			return key, fmt.Errorf("query parameter %s %.200q: comes twice", name, v)
		}
		*field = v[0]
	}
	return key, key.Validate()
}

// who says in the history where a change came from.
func who(r *http.Request) string {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return "api from " + host
}
