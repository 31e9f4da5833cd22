package rls

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/httpjson"
)

// maxWaitHeader bounds how long a request over HTTP may be held.
const maxWaitHeader = "X-Max-Wait-Ms"

// JSON returns the handler of POST /json: a RateLimitRequest as proto3 JSON in, 200 or 429
// with the RateLimitResponse out. The answers are those of gRPC.
func (s *Service) JSON() http.Handler { return http.HandlerFunc(s.serveJSON) }

func (s *Service) serveJSON(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		httpjson.Problem(w, http.StatusMethodNotAllowed, "method "+strconv.Quote(r.Method)+": /json takes POST")
		return
	}
	s.metrics.json.Inc()
	maxWait, err := parseMaxWait(r.Header)
	if err != nil {
		s.metrics.failed(codes.InvalidArgument)
		httpjson.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	wire, code, err := readRequest(w, r, s.cfg.BodyTimeout)
	if err != nil {
		s.metrics.failed(codes.InvalidArgument)
		httpjson.Problem(w, code, err.Error())
		return
	}
	c := s.calls.Get().(*call)
	defer c.release()
	if err := c.UnmarshalWire(wire); err != nil {
		httpjson.Problem(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := s.decide(r.Context(), c, maxWait); err != nil {
		st := grpcStatus(r.Context(), err)
		s.metrics.failed(st.Code())
		httpjson.Problem(w, httpStatus(st.Code()), st.Message())
		return
	}
	s.writeJSON(w, c)
}

// parseMaxWait reads the header; -1 where it is absent.
func parseMaxWait(h http.Header) (time.Duration, error) {
	v := h.Get(maxWaitHeader)
	if v == "" {
		return -1, nil
	}
	if strings.Trim(v, "0123456789") != "" { // ParseUint reads no further than where a number is too large
		return 0, fmt.Errorf("header %s %.64q: is not a whole number of milliseconds", maxWaitHeader, v)
	}
	ms, _ := strconv.ParseUint(v, 10, 64) // the most, where it is more than fits
	return time.Duration(min(ms, uint64(buckets.MaxWait/time.Millisecond))) * time.Millisecond, nil
}

// readRequest returns the body in the wire format, or the status that says what is wrong.
func readRequest(w http.ResponseWriter, r *http.Request, timeout time.Duration) (wire []byte, code int, err error) {
	body, code, err := httpjson.ReadBody(w, r, timeout)
	if err != nil {
		return nil, code, err
	}
	var m ratelimitv3.RateLimitRequest
	if err := protojson.Unmarshal(body, &m); err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("body is no RateLimitRequest: %s", reason(err))
	}
	wire, err = proto.Marshal(&m)
	if err != nil {
		return nil, http.StatusBadRequest, fmt.Errorf("body is no RateLimitRequest: %w", err)
	}
	return wire, http.StatusOK, nil
}

// reason is what the protobuf library says of a body, cut to a length that fits a line: it repeats
// whole values. It begins with its name and with one of two spaces, so that nobody compares its words.
func reason(err error) string {
	const longest = 256
	text := strings.TrimLeft(strings.TrimPrefix(err.Error(), "proto:"), " \u00a0")
	if len(text) <= longest {
		return text
	}
	return strings.ToValidUTF8(text[:longest], "") + "…"
}

func (s *Service) writeJSON(w http.ResponseWriter, c *call) {
	var m ratelimitv3.RateLimitResponse
	if err := proto.Unmarshal(c.appendAnswer(nil), &m); err != nil {
		httpjson.Problem(w, http.StatusInternalServerError, "encoding the answer: "+err.Error())
		return
	}
	body, err := protojson.Marshal(&m)
	if err != nil {
		httpjson.Problem(w, http.StatusInternalServerError, "encoding the answer: "+err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if after, ok := retryAfter(&c.decision); ok && c.matched.domain == nil {
		w.Header().Set("Retry-After", strconv.FormatUint(after, 10))
	}
	if c.decision.Code == buckets.OverLimit {
		w.WriteHeader(http.StatusTooManyRequests)
	}
	_, _ = w.Write(append(body, '\n')) // whoever asked has gone: nobody is left to tell
}

func httpStatus(code codes.Code) int {
	switch code {
	case codes.InvalidArgument:
		return http.StatusBadRequest
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	default:
		return 499 // client closed request, as nginx says it
	}
}
