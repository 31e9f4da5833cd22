package descriptors

// Replacing finds which limits of one request are replaced by others of it. The zero Replacing is
// ready; it can be used again after Reset. All rules must be of one Domain.
type Replacing struct {
	names []uint64 // bit set of the names that are replaced
	last  *Rule
	any   bool
}

// Reset begins the next request.
func (s *Replacing) Reset() {
	if s.any {
		clear(s.names)
	}
	s.last, s.any = nil, false
}

// Add takes a limit that matched, nil = none: those that are themselves replaced, and unlimited ones,
// replace others all the same.
func (s *Replacing) Add(r *Rule) {
	if r == nil || r == s.last || len(r.replaces) == 0 {
		return
	}
	s.last, s.any = r, true
	if words := (r.domain.replaceable + 63) / 64; words > len(s.names) {
		s.names = append(s.names, make([]uint64, words-len(s.names))...)
	}
	for _, name := range r.replaces {
		s.names[name/64] |= 1 << (name % 64)
	}
}

// Replaced tells, once all were added, whether a limit counts for nothing in this request: its
// descriptor is answered as one without a limit. An unlimited one is never replaced.
func (s *Replacing) Replaced(r *Rule) bool {
	if !s.any || r.name < 0 || r.Unlimited {
		return false
	}
	return s.names[r.name/64]&(1<<(r.name%64)) != 0
}
