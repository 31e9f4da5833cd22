package accesslog

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/tps-agent/ratelimitd/internal/traffic"
	"github.com/tps-agent/ratelimitd/internal/validjson"
)

// Line reads one line of an access log in JSON (json_format of Envoy), whose names the user has
// chosen. It knows the usual ones; upper case, and _ - . : @ in them, make no difference, and a name in
// an object is the same as one with the name of the object before it: http.response.status_code,
// {"http": {"response": {"statusCode": …}}}, HTTP_RESPONSE_STATUS_CODE. Of several names for one fact the
// first in this table counts that tells something; null, "" and "-" tell nothing. A number may be
// written as a text. What is not in the table is passed over.
//
//	it began          start_time, request_start_time, time, ts, timestamp
//	it ended          end_time; else it began and has lasted as long as its duration
//	duration          duration, request_duration, total_duration, latency, each perhaps with a unit after it
//	                  (_ms, _us, _ns, _s and longer forms), else in milliseconds; as text also 1.5s;
//	                  http.server.request.duration, in seconds. With what a limit has held it
//	status code       response_code, status_code, http.response.status_code, http.status_code, response_status, status
//	response flags    response_flags, response_flags_long: names of Envoy (RL or RateLimited), by commas
//	gRPC status       grpc_status, grpc_status_number, grpc_status_code, rpc.grpc.status_code, rpc.response.status_code:
//	                  a number or a name
//	cluster           upstream_cluster, upstream_cluster_name, upstream_cluster_raw
//	route             route_name, http.route, route
//	method            method, request_method, http.request.method, http.method, req_method
//	authority         authority, request_authority, req_authority, host, http.host, server.address, url.domain
//	path              path, request_path, req_path, url.path, http.target, x-envoy-original-path, x-envoy-origin-path,
//	                  original_path, request_uri, uri, url, url.original, url.full, http.url
//	tags              gateway and endpoint, also in custom_tags or tags
//	decision          domain, gateway, endpoint, throttled and waited_ms in envoy.filters.http.ratelimit,
//	                  envoy.filters.network.ratelimit, ratelimit, ratelimit_metadata, decision, metadata or
//	                  dynamic_metadata: in an object, in a text that holds one, or with the name before
//	its other fields  domain, throttled, rate_limited, waited (with a unit as duration has it) by themselves
//	kind of entry     access_log_type
//
// A line with `success` (true or false) is a row of ours: its timestamp is when it ended, and its
// duration is less what it was held.
//
// counted is false for a line that is of no finished request: it tells neither a status code nor a
// duration, flags or a success, as the log of Envoy itself does among the lines, or it is an entry of
// another kind. A line with a name for its outcome, but without status code, method, path and route is
// that of a TCP connection.
//
// receivedAt stands in where no time is told. The error says why the line is no JSON object, that it has
// a duration and no name for how the request ended, or names a value that cannot be meant, such as a time
// that is more than 366 days ago.
func (m *Mapping) Line(line []byte, receivedAt time.Time) (t traffic.Transaction, counted bool, err error) {
	var e entry
	of, err := m.readLine(line, &e)
	if err != nil || !of || !e.counted() {
		return traffic.Transaction{}, false, err
	}
	if at, told := e.toldEnd(); told && !traffic.Believable(at, receivedAt) {
		return traffic.Transaction{}, false, &traffic.FieldError{
			Field: "end", Value: at.UTC().Format(time.RFC3339Nano), Reason: "is more than 366 days ago, or a day ahead, in " + shown(line),
		}
	}
	n := namer{mapping: m}
	return n.transaction(&e, receivedAt), true, nil
}

// readLine makes an entry of a line. False says that the line is of no request.
func (m *Mapping) readLine(line []byte, e *entry) (ofRequest bool, err error) {
	if !json.Valid(line) || !isObject(line) {
		return false, notAnObject(line)
	}
	f := facts{vocabulary: &m.vocabulary}
	o := jsonObject{facts: &f, whole: line}
	o.tell(validjson.SkipSpace(line, 0), make([]byte, 0, mostPath), 0)
	if !f.ofRequest() {
		return false, nil
	}
	if err := f.entry(e); err != nil {
		bad, _ := errors.AsType[*valueError](err)
		bad.Reason += fmt.Sprintf(", at byte %d of %s", bad.at+1, shown(line))
		return false, &bad.FieldError
	}
	if err := f.outcomeNamed(); err != nil {
		return false, fmt.Errorf("%w: %s", err, shown(line))
	}
	return true, nil
}

func notAnObject(line []byte) error {
	var v json.RawMessage
	err := json.Unmarshal(line, &v)
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Errorf("is not JSON: %w, at byte %d of %s", err, syntax.Offset, shown(line))
	}
	return fmt.Errorf("is no JSON object: %s", shown(line))
}

// shown is a line as errors show it.
func shown(line []byte) string { return cut(string(line[:min(len(line), mostShown+1)])) }
