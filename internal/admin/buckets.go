package admin

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// Bucket is one live bucket, as the API shows it.
type Bucket struct {
	Domain   string  `json:"domain"`
	Gateway  string  `json:"gateway"`
	Endpoint *string `json:"endpoint"`
	Value    *string `json:"value"` // of the descriptor key that the limit counts by
	Limit    string  `json:"limit"` // its name, as answers have it; "override" for what a request brought along
	Left     uint64  `json:"left"`  // whole tokens
	Capacity uint64  `json:"capacity"`
	Queued   uint64  `json:"queued"`     // hits of those who wait for tokens
	FullInMS *int64  `json:"full_in_ms"` // null = never
}

// BucketKey names a bucket by what requests say.
type BucketKey struct {
	Domain     string  `json:"domain"`
	Gateway    string  `json:"gateway"`
	Endpoint   *string `json:"endpoint"`
	Per        string  `json:"per"`
	Value      string  `json:"value"` // of the descriptor key Per
	PerSeconds int64   `json:"per_seconds"`
}

// unknownPart is the reason of a name that no bucket has.
const unknownPart = "is no part of the name of a bucket"

const (
	defaultBuckets = 100
	mostBuckets    = 10_000
)

// listBuckets shows the buckets that an operator looks for.
func (a *api) listBuckets(w http.ResponseWriter, r *http.Request) {
	query, err := only(r.URL.RawQuery, "most")
	most := int64(defaultBuckets)
	if err == nil && query["most"] != "" {
		most, err = strconv.ParseInt(query["most"], 10, 64)
		if err != nil || most < 1 || most > mostBuckets {
			err = &limits.FieldError{Field: "most", Value: quote(query["most"]), Reason: fmt.Sprintf("is not within 1 to %d", mostBuckets)}
		}
	}
	if err != nil {
		httpjson.Problem(w, http.StatusUnprocessableEntity, oneLine(err))
		return
	}
	found := a.Fullest(int(most))
	if found == nil {
		found = []Bucket{}
	}
	httpjson.Answer(w, http.StatusOK, map[string][]Bucket{"buckets": found})
}

// resetBucket fills one bucket again.
func (a *api) resetBucket(w http.ResponseWriter, r *http.Request) {
	body, code, err := httpjson.ReadBody(w, r, a.bodyTimeout)
	if err != nil {
		httpjson.Problem(w, code, err.Error())
		return
	}
	key, code, err := decodeBucketKey(body)
	if err != nil {
		httpjson.Problem(w, code, oneLine(err))
		return
	}
	if !a.ResetBucket(key) {
		httpjson.Problem(w, http.StatusNotFound, "there is no such bucket, or it is full")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func decodeBucketKey(body []byte) (key BucketKey, code int, err error) {
	if err := checkJSON(body); err != nil {
		return key, http.StatusBadRequest, fmt.Errorf("body: %w", err)
	}
	var seconds *int64
	members, err := readMembers(body, func(name string, v json.RawMessage) (reason string) {
		switch name {
		case "domain":
			key.Domain, reason = orNull(v, text)
		case "gateway":
			key.Gateway, reason = orNull(v, text)
		case "endpoint":
			key.Endpoint, reason = pointer(v, text)
		case "per":
			key.Per, reason = orNull(v, text)
		case "value":
			key.Value, reason = orNull(v, text)
		case "per_seconds":
			seconds, reason = pointer(v, whole)
		default:
			reason = unknownPart
		}
		return reason
	})
	if err == nil && !members["gateway"] {
		err = &limits.FieldError{Field: "gateway", Value: `""`, Reason: "is missing"}
	}
	if err == nil && seconds != nil {
		key.PerSeconds, err = *seconds, limits.CheckSeconds(*seconds)
	}
	return key, http.StatusUnprocessableEntity, err
}
