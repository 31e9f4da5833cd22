package rls

import (
	"net/http"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// explanation is what POST /api/v1/explain answers. Codes are OK and OVER_LIMIT; times are in
// milliseconds, rounded up, null for what never comes.
type explanation struct {
	Code        string                  `json:"overall_code"`
	WouldWaitMS *int64                  `json:"would_wait_ms,omitempty"` // it would be held instead of refused, at least so long
	Descriptors []explainedByDescriptor `json:"descriptors"`
}

type explainedByDescriptor struct {
	Gateway  *string          `json:"gateway"`  // null = the descriptor names none
	Endpoint *string          `json:"endpoint"` // null = the descriptor names none
	Code     string           `json:"code"`
	Limits   []explainedLimit `json:"limits"`
}

type explainedLimit struct {
	Name    string      `json:"limit"` // as answers have it; "override" for what the request brings along
	Level   string      `json:"level"` // endpoint, gateway, or descriptor: a descriptor file's
	Value   string      `json:"value,omitempty"`
	Row     *limits.Row `json:"row,omitempty"` // absent for the default limit and an override
	State   string      `json:"state"`         // enforced, shadow, disabled
	Decided bool        `json:"decided"`
	Refuses bool        `json:"refuses"`

	Before   int64  `json:"before"`
	After    int64  `json:"after"`
	Capacity int64  `json:"capacity"`
	Queued   int64  `json:"queued"`
	FullInMS *int64 `json:"full_in_ms"`
	WaitMS   *int64 `json:"wait_ms"` // until there is room; 0 = there is
}

// Explain returns the handler of POST /api/v1/explain: a RateLimitRequest as proto3 JSON in; out,
// every limit that matches, its bucket before and after, and which one decides. Nothing is charged.
func (s *Service) Explain() http.Handler { return http.HandlerFunc(s.serveExplain) }

func (s *Service) serveExplain(w http.ResponseWriter, r *http.Request) {
	wire, code, err := readRequest(w, r, s.cfg.BodyTimeout)
	if err != nil {
		httpjson.Problem(w, code, err.Error())
		return
	}
	var request Request
	err = request.UnmarshalWire(wire)
	if err == nil {
		err = request.prepare(&s.cfg)
	}
	if err != nil {
		httpjson.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	x, err := s.explain(&request)
	if err != nil {
		httpjson.Problem(w, httpStatus(codes.Unavailable), err.Error())
		return
	}
	httpjson.Answer(w, http.StatusOK, x)
}

func (s *Service) explain(r *Request) (explanation, error) {
	domain, err := s.fileDomain(r.Domain)
	if err != nil {
		return explanation{}, err
	}
	var m matched
	if domain != nil {
		m.match(r, domain)
	}
	x, err := s.engine.Explain(&r.Request)
	switch {
	case err != nil:
		return explanation{}, err
	case domain != nil:
		return m.explain(r, &x, &s.cfg.Files), nil
	}
	return explanationOf(r, &x), nil
}

// explain is explanationOf where a descriptor file names the limits.
func (m *matched) explain(r *Request, x *buckets.Explanation, cfg *FileConfig) explanation {
	var d buckets.Decision
	for i := range x.Descriptors {
		d.Statuses = append(d.Statuses, buckets.Status{Code: x.Descriptors[i].Code})
	}
	m.verdict(&d, cfg)
	x.Code = d.Code
	out := explanationOf(r, x)
	for i := range out.Descriptors {
		out.Descriptors[i].Code = d.Statuses[i].Code.String()
		for j := range out.Descriptors[i].Limits {
			m.explainLimit(&out.Descriptors[i].Limits[j], i, string(r.Descriptors[i].Counter.Key))
		}
	}
	return out
}

func (m *matched) explainLimit(l *explainedLimit, i int, key string) {
	l.Level, l.Value = "descriptor", shown(descriptors.ShowKey(key))
	if rule := m.rules[i].Rule; rule != nil {
		l.Name = shown(rule.Key())
	}
}

func explanationOf(r *Request, x *buckets.Explanation) explanation {
	out := explanation{Code: x.Code.String()}
	if x.Held {
		out.WouldWaitMS = milliseconds(x.WaitNS)
	}
	for i := range x.Descriptors {
		desc, d := &r.Descriptors[i], explainedByDescriptor{Code: x.Descriptors[i].Code.String(), Limits: []explainedLimit{}}
		if desc.HasGateway {
			d.Gateway = new(shown(desc.Gateway))
		}
		if desc.HasEndpoint {
			d.Endpoint = new(shown(desc.Endpoint))
		}
		for j := range x.Descriptors[i].Limits {
			d.Limits = append(d.Limits, explainedLimitOf(&x.Descriptors[i].Limits[j]))
		}
		out.Descriptors = append(out.Descriptors, d)
	}
	return out
}

func explainedLimitOf(x *buckets.ExplainedLimit) explainedLimit {
	l := explainedLimit{
		Name: x.Limit.Name(), Level: "gateway", Value: shown(x.Value), State: "enforced", Decided: x.Decided, Refuses: x.Refuses,
		Before: x.Before, After: x.After, Capacity: x.Capacity, Queued: x.Queued, FullInMS: milliseconds(x.FullInNS), WaitMS: milliseconds(x.WaitNS),
	}
	if x.Endpoint {
		l.Level = "endpoint"
	}
	switch {
	case x.Limit.Gateway == "":
		l.Name = "override"
	case !x.Default:
		l.Row = new(limits.RowOf(x.Limit))
	}
	switch {
	case x.Disabled:
		l.State = "disabled"
	case x.Limit.Shadow:
		l.State = "shadow"
	}
	return l
}

func milliseconds(ns int64) *int64 {
	if ns == limits.Never {
		return nil
	}
	return new((ns + int64(time.Millisecond) - 1) / int64(time.Millisecond))
}
