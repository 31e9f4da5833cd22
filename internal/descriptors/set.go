package descriptors

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
)

// Set are the domains of all files, or of one xDS response. It never changes; the nil Set is empty.
type Set struct {
	sources []*source // by name
	domains map[string]*Domain
}

// source is what a Set knows of one file.
type source struct {
	name     string
	hash     [sha256.Size]byte // of the newest content; zero where that could not be read
	parsed   *Domain           // what the newest content that could be read says, nil where it is bad
	readable string            // the domain of bad content, empty where that cannot be read
	err      error             // why it is bad

	inForce *Domain // nil = none; one of no limits where nothing good was ever there
	loaded  bool    // inForce was good
	lost    error   // why parsed is not in force: the domain is another file's
}

// File is a file as it was found.
type File struct {
	Body []byte
	Err  error // why it could not be read; nil = it could
	// Unchanged: it was not read, since it is what the Set before has seen.
	Unchanged bool
}

// Source tells of one file of a Set.
type Source struct {
	Name   string  // path inside the directory, or name of the resource
	Domain *Domain // in force, nil = none
	// Loaded: Domain is what the file says now or, where Err is set, said when it was good last. Without
	// it no content was ever good; Domain is then one without limits, so that the name at least is known.
	Loaded bool
	Err    error // all that is wrong with the newest content; nil = it is in force
}

// Update returns the Set of all files that there are now, which files holds by their paths inside the
// directory; prev is the one before, nil for the first. Only what has changed is compiled, and a file
// that is gone takes its domain along. A file with faults keeps the domain that it had. Of two files
// that name one domain the one that had it keeps it, at the first time the first by name; the other has
// a fault that names both.
func Update(prev *Set, files map[string]File) *Set {
	next := &Set{}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		next.sources = append(next.sources, prev.source(name).with(name, files[name]))
	}
	next.settle(prev)
	return next
}

// source finds what is known of a file, nil if nothing is.
func (s *Set) source(name string) *source {
	if s == nil {
		return nil
	}
	i, found := slices.BinarySearchFunc(s.sources, name, func(src *source, name string) int { return strings.Compare(src.name, name) })
	if !found {
		return nil
	}
	return s.sources[i]
}

// with returns what is known of a file after a look at it; the receiver may be nil.
func (src *source) with(name string, f File) *source {
	next := source{name: name}
	if src != nil {
		next = *src
	}
	if f.Unchanged && src != nil {
		return &next
	}
	if f.Err != nil {
		next.hash, next.err = [sha256.Size]byte{}, fmt.Errorf("%s: %w", name, f.Err) // parsed is what it said last
		return &next
	}
	if hash := sha256.Sum256(f.Body); hash != next.hash {
		next.hash = hash
		next.parsed, next.readable, next.err = parse(name, f.Body)
	}
	return &next
}

// settle works out which source has which domain; prev says who had it.
func (s *Set) settle(prev *Set) {
	claims := make([]*claim, len(s.sources))
	for i, src := range s.sources {
		claims[i] = newClaim(src, prev)
	}
	for s.contest(claims) { // whoever lost wants something else now
		continue
	}
	for _, c := range claims {
		c.source.inForce, c.source.loaded = c.domain(), c.domain() != nil && !c.stub
	}
}

// contest gives each domain to the one who has the best claim on it, and tells whether anybody lost.
func (s *Set) contest(claims []*claim) (lost bool) {
	s.domains = make(map[string]*Domain, len(claims))
	owners := make(map[string]*claim, len(claims))
	for _, c := range claims {
		d := c.domain()
		if d == nil {
			continue
		}
		if o := owners[d.name]; o != nil {
			lost = true
			c = c.against(o)
		}
		owners[d.name], s.domains[d.name] = c, c.domain()
	}
	return lost
}

// claim is what a source would have in force, the best first.
type claim struct {
	source *source
	wants  []*Domain
	had    string // its domain in the Set before, empty = none
	stub   bool   // wants is a domain without limits
}

func newClaim(src *source, prev *Set) *claim {
	c := &claim{source: src}
	src.lost = nil
	if src.parsed != nil {
		c.wants = append(c.wants, src.parsed)
	}
	if src.loaded {
		c.had = src.inForce.name
		c.wants = append(c.wants, src.inForce)
	}
	if len(c.wants) == 0 && src.readable != "" {
		c.stub = true
		c.wants = append(c.wants, &Domain{name: src.readable})
		if before := prev.source(src.name); before != nil && before.inForce != nil && before.inForce.name == src.readable {
			c.wants[0] = before.inForce
		}
	}
	return c
}

func (c *claim) domain() *Domain {
	if len(c.wants) == 0 {
		return nil
	}
	return c.wants[0]
}

// against returns who of two keeps the domain that both want. The other takes what it wants next.
func (c *claim) against(o *claim) (winner *claim) {
	name, loser := c.domain().name, c
	winner = o
	if o.stub || (c.had == name && !c.stub) {
		winner, loser = c, o
	}
	if d := loser.wants[0]; !loser.stub {
		loser.source.lost = &FaultError{
			Source: loser.source.name, Line: int(d.at.line), Column: int(d.at.column),
			Reason: fmt.Sprintf("duplicate domain '%s' in config file: %s has it", cut(name), winner.source.name),
		}
	}
	loser.wants = loser.wants[1:]
	return winner
}

// Domain returns a domain by its name. That of a file that never loaded is there, without limits.
func (s *Set) Domain(name string) (d *Domain, ok bool) {
	if s == nil {
		return nil, false
	}
	d, ok = s.domains[name]
	return d, ok
}

// Domains yields all domains in force, by name.
func (s *Set) Domains() iter.Seq[*Domain] {
	return func(yield func(*Domain) bool) {
		if s == nil {
			return
		}
		for _, name := range slices.Sorted(maps.Keys(s.domains)) {
			if !yield(s.domains[name]) {
				return
			}
		}
	}
}

// Len is the number of domains.
func (s *Set) Len() int {
	if s == nil {
		return 0
	}
	return len(s.domains)
}

// Sources yields all files, by name.
func (s *Set) Sources() iter.Seq[Source] {
	return func(yield func(Source) bool) {
		if s == nil {
			return
		}
		for _, src := range s.sources {
			if !yield(Source{Name: src.name, Domain: src.inForce, Loaded: src.loaded, Err: src.fault()}) {
				return
			}
		}
	}
}

func (src *source) fault() error {
	if src.err != nil {
		return src.err
	}
	return src.lost
}

// Err joins what is wrong with all files; nil if nothing is.
func (s *Set) Err() error {
	var errs []error
	for src := range s.Sources() {
		errs = append(errs, src.Err)
	}
	return errors.Join(errs...)
}

// Loaded returns nil when every file was good at least once, else what is wrong with those that were not.
func (s *Set) Loaded() error {
	var errs []error
	for src := range s.Sources() {
		if !src.Loaded {
			errs = append(errs, src.Err)
		}
	}
	return errors.Join(errs...)
}

// Rules is the number of limits in force.
func (s *Set) Rules() (n int) {
	for d := range s.Domains() {
		n += len(d.rules)
	}
	return n
}

// Same tells whether two sets have the same in force, and the same faults.
func (s *Set) Same(o *Set) bool {
	if s == nil || o == nil || len(s.sources) != len(o.sources) {
		return s == o
	}
	for i, a := range s.sources {
		b := o.sources[i]
		if a.name != b.name || a.hash != b.hash || a.inForce != b.inForce || !sameError(a.fault(), b.fault()) {
			return false
		}
	}
	return true
}

func sameError(a, b error) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return a.Error() == b.Error()
}
