package main

import (
	"time"

	"github.com/tps-agent/ratelimitd/internal/admin"
	"github.com/tps-agent/ratelimitd/internal/buckets"
	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

// fullest shows the engine's buckets to the API.
func (s *server) fullest(most int) []admin.Bucket {
	found := s.engine.Buckets(most)
	shown := make([]admin.Bucket, 0, len(found))
	for i := range found {
		shown = append(shown, shownBucket(&found[i]))
	}
	return shown
}

func shownBucket(b *buckets.BucketState) admin.Bucket {
	out := admin.Bucket{
		Domain: b.Domain, Gateway: b.Gateway, Limit: b.Limit.Name(), Left: b.Tokens, Capacity: b.Capacity, Queued: b.Queued,
	}
	if b.Limit.Gateway == "" {
		out.Limit = "override"
	}
	if b.Counter != "" {
		out.Limit = descriptors.ShowKey(b.Counter)
	}
	if b.HasEndpoint {
		out.Endpoint = &b.Endpoint
	}
	if b.Limit.Per != "" {
		out.Value = &b.Value
	}
	if b.FullInNS != limits.Never {
		out.FullInMS = new((b.FullInNS + int64(time.Millisecond) - 1) / int64(time.Millisecond))
	}
	return out
}

func (s *server) resetBucket(k admin.BucketKey) bool {
	key := buckets.BucketKey{Domain: k.Domain, Gateway: k.Gateway, Value: k.Value}
	key.Dim = limits.Key{Per: k.Per, PerSeconds: k.PerSeconds}.Dim()
	if k.Endpoint != nil {
		key.HasEndpoint, key.Endpoint = true, *k.Endpoint
	}
	return s.engine.Reset(key)
}
