package admin

import (
	"testing"
	"time"
)

// What nobody watches any more is forgotten.
func TestStreamsForget(t *testing.T) {
	s := streams{shared: make(map[StatsQuery]*sharedEvent)}
	one, other := StatsQuery{Window: time.Minute}, StatsQuery{Window: time.Hour}
	a, b, c := s.enter(one), s.enter(one), s.enter(other)
	if a != b || a == c || len(s.shared) != 2 {
		t.Errorf("equal questions share %v, others %v, there are %d", a == b, a == c, len(s.shared))
	}
	s.leave(one, a)
	s.leave(other, c)
	if len(s.shared) != 1 || s.count != 1 {
		t.Errorf("%d are left for %d", len(s.shared), s.count)
	}
	s.leave(one, b)
	if len(s.shared) != 0 || s.count != 0 {
		t.Errorf("%d are left for %d", len(s.shared), s.count)
	}
}
