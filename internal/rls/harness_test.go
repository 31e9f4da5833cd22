package rls_test

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/limits"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// setup is what a test configures; the zero setup is what the settings have by default, but
// for a default limit of 100.
type setup struct {
	rls      rls.Config
	buckets  buckets.Config
	noLimits bool // no set of limits is ever loaded
}

// server is a Service with all that it needs, and what grpc-go would call.
type server struct {
	service  *rls.Service
	engine   *buckets.Engine
	clock    limits.Clock
	current  *limits.Current
	registry *prometheus.Registry
	handler  any
	desc     *grpc.ServiceDesc
}

// defaultTPS is the default limit of tests: its burst is 10.
const defaultTPS = 100

func newServer(tb testing.TB, s setup, rows ...limits.Limit) *server {
	tb.Helper()
	if s.rls.GatewayKeys == nil {
		s.rls.GatewayKeys = []string{"gateway"}
	}
	if s.rls.EndpointKeys == nil {
		s.rls.EndpointKeys = []string{"endpoint"}
	}
	if s.rls.MaxSeries == 0 {
		s.rls.MaxSeries = 100
	}
	switch s.buckets.DefaultMaxTPS {
	case 0:
		s.buckets.DefaultMaxTPS = defaultTPS
	case unlimited:
		s.buckets.DefaultMaxTPS = 0
	}
	f := &server{clock: limits.NewClock(), current: &limits.Current{}, registry: prometheus.NewRegistry()}
	f.engine = buckets.New(s.buckets, f.clock, f.current)
	if !s.noLimits {
		f.load(tb, rows...)
	}
	service, err := rls.New(s.rls, f.engine, f.registry)
	if err != nil {
		tb.Fatal(err)
	}
	f.service = service
	service.Register(f)
	return f
}

// unlimited as setup.buckets.DefaultMaxTPS stands for the 0 of the settings.
const unlimited = -1

// RegisterService makes a server the [grpc.ServiceRegistrar] that keeps what is registered.
func (f *server) RegisterService(desc *grpc.ServiceDesc, handler any) {
	f.desc, f.handler = desc, handler
}

// load puts the rows in force.
func (f *server) load(tb testing.TB, rows ...limits.Limit) {
	tb.Helper()
	prev := f.current.Load()
	stamp := limits.Stamp{ID: 1, AtNS: f.clock.NowNS()}
	if prev != nil {
		stamp.ID = prev.ID() + 1
	}
	table, err := limits.NewTable(prev, rows, stamp)
	if err != nil {
		tb.Fatal(err)
	}
	f.current.Store(table)
}

// overGRPC asks with the bytes of a request, and returns those of the answer: all that happens
// to a message but the transport.
func (f *server) overGRPC(ctx context.Context, request []byte) ([]byte, error) {
	var codec rls.Codec
	decode := func(v any) error { return codec.Unmarshal(mem.BufferSlice{mem.SliceBuffer(request)}, v) }
	v, err := f.desc.Methods[0].Handler(f.handler, ctx, decode, nil)
	if err != nil {
		return nil, err
	}
	out, err := codec.Marshal(v)
	if err != nil {
		return nil, err
	}
	defer out.Free()
	return out.Materialize(), nil
}

// overHTTP asks with a body of /json.
func (f *server) overHTTP(ctx context.Context, body []byte, header http.Header) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/json", bytes.NewReader(body))
	maps.Copy(r.Header, header)
	w := httptest.NewRecorder()
	f.service.JSON().ServeHTTP(w, r)
	return w
}

// answer is what a caller got: a response or an error.
type answer struct {
	response *ratelimitv3.RateLimitResponse
	code     codes.Code
	message  string
}

// surface asks a server over one of its two surfaces.
type surface struct {
	name string
	ask  func(tb testing.TB, f *server, ctx context.Context, r *ratelimitv3.RateLimitRequest) answer
}

var surfaces = []surface{{"grpc", askGRPC}, {"json", askJSON}}

func askGRPC(tb testing.TB, f *server, ctx context.Context, r *ratelimitv3.RateLimitRequest) answer { //nolint:revive // tb comes first
	tb.Helper()
	return askBytes(tb, f, ctx, encode(r))
}

func askBytes(tb testing.TB, f *server, ctx context.Context, request []byte) answer { //nolint:revive // tb comes first
	tb.Helper()
	out, err := f.overGRPC(ctx, request)
	if err != nil {
		st := status.Convert(err)
		return answer{code: st.Code(), message: st.Message()}
	}
	a := answer{response: &ratelimitv3.RateLimitResponse{}}
	if err := proto.Unmarshal(out, a.response); err != nil {
		tb.Errorf("request %x: answer %x is no RateLimitResponse: %v", request, out, err)
	}
	return a
}

// codeOf is the gRPC code that a status of /json stands for.
var codeOf = map[int]codes.Code{
	http.StatusBadRequest:         codes.InvalidArgument,
	http.StatusServiceUnavailable: codes.Unavailable,
	http.StatusGatewayTimeout:     codes.DeadlineExceeded,
	499:                           codes.Canceled,
}

func askJSON(tb testing.TB, f *server, ctx context.Context, r *ratelimitv3.RateLimitRequest) answer { //nolint:revive // tb comes first
	tb.Helper()
	body, err := protojson.Marshal(r)
	if err != nil {
		tb.Errorf("request %v: %v", r, err)
		return answer{}
	}
	w := f.overHTTP(ctx, body, nil)
	if code, ok := codeOf[w.Code]; ok {
		return answer{code: code, message: detailOf(tb, w)}
	}
	a := answer{response: &ratelimitv3.RateLimitResponse{}}
	if err := protojson.Unmarshal(w.Body.Bytes(), a.response); err != nil {
		tb.Errorf("request %s: answer %d %q is no RateLimitResponse: %v", body, w.Code, w.Body, err)
	}
	checkHTTP(tb, w, a.response)
	return a
}

// checkHTTP compares what HTTP says beside the body with what the body says.
func checkHTTP(tb testing.TB, w *httptest.ResponseRecorder, r *ratelimitv3.RateLimitResponse) {
	tb.Helper()
	code, after := http.StatusOK, ""
	if r.OverallCode == ratelimitv3.RateLimitResponse_OVER_LIMIT {
		code = http.StatusTooManyRequests
	}
	for _, h := range r.ResponseHeadersToAdd {
		if h.Key == "retry-after" {
			after = h.Value
		}
	}
	if got := w.Header().Get("Retry-After"); w.Code != code || got != after {
		tb.Errorf("body %s: status %d and retry-after %q, want %d and %q", w.Body, w.Code, got, code, after)
	}
	if got := w.Header().Get("Content-Type"); got != "application/json" {
		tb.Errorf("body %s: content type %q, want application/json", w.Body, got)
	}
}

// detailOf returns the detail of the problem that w holds.
func detailOf(tb testing.TB, w *httptest.ResponseRecorder) string {
	tb.Helper()
	var p struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}
	d := json.NewDecoder(strings.NewReader(w.Body.String()))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil || p.Status != w.Code || w.Header().Get("Content-Type") != "application/problem+json" {
		tb.Errorf("answer %d %q (%s): is no problem with that status: %v", w.Code, w.Body, w.Header().Get("Content-Type"), err)
	}
	return p.Detail
}
