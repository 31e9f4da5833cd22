package descriptors

import (
	"fmt"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// compiler makes a Domain of a tree.
type compiler struct {
	faults *faults
	domain *Domain
	names  map[string]int32 // that some rule replaces
	places []int            // index of each descriptor on the way down, where the tree has no lines
}

// compile checks a tree and compiles it. The Domain is of no use where it has found faults.
func compile(t *tree, found *faults) *Domain {
	nodes, rules := count(t.descriptors)
	c := compiler{faults: found, names: make(map[string]int32), domain: &Domain{
		name: t.domain, at: t.domainAt, allOrNothing: t.allOrNothing, nodes: make([]node, 0, nodes), rules: make([]Rule, 0, rules),
	}}
	if t.domain == "" {
		c.fault(t.domainAt, "config file cannot have empty domain")
	}
	c.domain.top = c.level(nil, t.descriptors)
	c.nameRules()
	return c.domain
}

// count returns how many descriptors and rate_limits there are.
func count(all []branch) (nodes, rules int) {
	for i := range all {
		n, r := count(all[i].children)
		nodes, rules = nodes+n+1, rules+r
		if all[i].limit != nil {
			rules++
		}
	}
	return nodes, rules
}

func (c *compiler) fault(at pos, reason string) {
	f := &FaultError{Line: int(at.line), Column: int(at.column), Reason: reason}
	if at == (pos{}) {
		parts := make([]string, len(c.places))
		for i, place := range c.places {
			parts[i] = fmt.Sprintf("descriptors[%d]", place)
		}
		f.Path = strings.Join(parts, ".")
	}
	c.faults.put(f)
}

// level compiles the descriptors below parent, which is nil at the top.
func (c *compiler) level(parent *node, all []branch) level {
	var l level
	patterns := make(map[string][]*pattern)
	seen := make(map[[2]string]pos, len(all))
	for i := range all {
		c.places = append(c.places, i)
		n := c.node(parent, &all[i])
		c.checkTwice(seen, n, all[i].at)
		l.add(n)
		if isPattern(n.value) {
			patterns[n.key] = append(patterns[n.key], newPattern(n, len(patterns[n.key])))
		}
		c.places = c.places[:len(c.places)-1]
	}
	for key, all := range patterns {
		l.of(key).patterns = newPatterns(all)
	}
	return l
}

// checkTwice finds nodes that their level has already; seen is where these are.
func (c *compiler) checkTwice(seen map[[2]string]pos, n *node, at pos) {
	name := [2]string{n.key, n.value}
	if first, twice := seen[name]; twice && n.key != "" {
		c.duplicate(n, at, first)
	}
	seen[name] = at
}

func (c *compiler) duplicate(n *node, at, first pos) {
	reason := fmt.Sprintf("duplicate descriptor composite key '%s'", cut(string(n.appendKey([]byte(c.domain.name)))))
	if first.line > 0 {
		reason += fmt.Sprintf(": it stands in line %d already", first.line)
	}
	c.fault(at, reason)
}

func (l *level) add(n *node) {
	s := l.of(n.key)
	if s == nil {
		s = l.addKey(n.key)
	}
	if n.value == "" {
		s.any = n
		return
	}
	if s.exact == nil {
		s.exact = make(map[string]*node)
	}
	s.exact[n.value] = n
}

func (l *level) addKey(key string) *siblings {
	s := &siblings{key: key}
	l.keys = append(l.keys, s)
	switch n := len(l.keys); {
	case n == fewKeys+1:
		l.byName = make(map[string]*siblings, n)
		for _, s := range l.keys {
			l.byName[s.key] = s
		}
	case n > fewKeys:
		l.byName[key] = s
	}
	return s
}

// node compiles one descriptor and all below it.
func (c *compiler) node(parent *node, b *branch) *node {
	c.domain.nodes = append(c.domain.nodes, node{parent: parent, key: b.key, value: b.value, flags: b.flags})
	n := &c.domain.nodes[len(c.domain.nodes)-1] // stays there: the capacity was counted
	if parent != nil {
		n.depth = parent.depth + 1
	}
	if b.key == "" {
		c.fault(b.at, "descriptor has empty key")
	}
	if b.flags.has(shareThreshold) && !isPattern(b.value) {
		c.fault(b.shareAt, "share_threshold can only be used with wildcard values (containing '*'), but found key '"+
			cut(string(appendPart(nil, b.key, b.value)))+"'")
	}
	if b.limit != nil {
		n.rule = c.rule(n, b)
	}
	if len(b.children) > 0 {
		below := c.level(n, b.children)
		n.next = &below
	}
	return n
}

// rule compiles a rate_limit.
func (c *compiler) rule(n *node, b *branch) *Rule {
	p := b.limit
	c.domain.rules = append(c.domain.rules, Rule{
		ID: len(c.domain.rules), Name: p.name, Label: limits.HeaderSafe(p.name), Unlimited: p.unlimited,
		Shadow: b.flags.has(shadowMode), Quota: b.flags.has(quotaMode), Metadata: b.metadata,
		Exact: exact(n), domain: c.domain, node: n, shared: sharedBy(n), replaces: c.replaces(p),
	})
	r := &c.domain.rules[len(c.domain.rules)-1]
	for _, replaced := range p.replaces {
		r.names = append(r.names, replaced.name)
	}
	if p.unlimited {
		c.checkUnlimited(p)
		return r
	}
	r.Seconds = c.seconds(p)
	r.Unit = unitOf(r.Seconds)
	r.Algorithm = c.algorithm(p)
	r.RequestsPerUnit = uint32(p.requests.n) //nolint:gosec // whoever made the tree has checked it
	if !p.requests.given {
		c.fault(p.at, "requests_per_unit is missing; write 0 if everything is to be refused")
	}
	if r.Quota && c.domain.allOrNothing {
		c.fault(b.at, "quota_mode has no meaning in a file with all_or_nothing, where one limit refuses for all")
	}
	r.Limit = limits.Window(r.RequestsPerUnit, r.Seconds, r.Algorithm, r.Shadow)
	return r
}

func (c *compiler) checkUnlimited(p *policy) {
	if _, valid := parseUnit(p.unit.text); valid {
		c.fault(p.unit.at, "should not specify rate limit unit when unlimited")
	}
	if p.perSeconds.given {
		c.fault(p.perSeconds.at, "should not specify per_seconds when unlimited")
	}
	if p.algorithm.given {
		c.fault(p.algorithm.at, "should not specify an algorithm when unlimited")
	}
}

// seconds is the length of the window.
func (c *compiler) seconds(p *policy) int64 {
	n := p.perSeconds
	if !n.given {
		return c.unit(p).Seconds()
	}
	if p.unit.given {
		c.fault(n.at, "per_seconds stands in place of unit, not beside it")
	}
	if n.n < 1 || n.n > limits.MaxPerSeconds {
		c.fault(n.at, fmt.Sprintf("per_seconds %d: is not within 1 to %d", n.n, limits.MaxPerSeconds))
	}
	return n.n
}

func (c *compiler) unit(p *policy) Unit {
	u, ok := parseUnit(p.unit.text)
	switch {
	case ok || p.unit.text == standIn:
	case !p.unit.given:
		c.fault(p.at, "invalid rate limit unit '': unit is missing")
	default:
		c.fault(p.unit.at, fmt.Sprintf("invalid rate limit unit '%s': it is none of second, minute, hour, day, week, month, year", cut(p.unit.text)))
	}
	return u
}

// algorithm is the fixed window where the file says nothing.
func (c *compiler) algorithm(p *policy) limits.Algorithm {
	if !p.algorithm.given {
		return limits.FixedWindow
	}
	a, err := limits.ParseAlgorithm(p.algorithm.text)
	if (err != nil || p.algorithm.text == "") && p.algorithm.text != standIn {
		c.fault(p.algorithm.at, fmt.Sprintf("invalid algorithm '%s': it is none of token_bucket, sliding_window, fixed_window", cut(p.algorithm.text)))
	}
	return a
}

// replaces returns the numbers of the names that a limit replaces.
func (c *compiler) replaces(p *policy) []int32 {
	var all []int32
	for _, r := range p.replaces {
		switch r.name {
		case "":
			c.fault(r.at, "should not have an empty replaces entry")
			continue
		case p.name:
			c.fault(r.at, "replaces should not contain name of same descriptor")
			continue
		}
		id, known := c.names[r.name]
		if !known {
			id = int32(len(c.names)) //nolint:gosec // at most MaxNodes
			c.names[r.name] = id
		}
		all = append(all, id)
	}
	return all
}

// nameRules tells the rules whose names are replaced. All names are known only when all rules are.
func (c *compiler) nameRules() {
	c.domain.replaceable = len(c.names)
	for i := range c.domain.rules {
		r := &c.domain.rules[i]
		r.name = -1
		if id, replaceable := c.names[r.Name]; replaceable {
			r.name = id
		}
	}
}
