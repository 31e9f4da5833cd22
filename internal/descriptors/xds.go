package descriptors

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/ratelimit/config/ratelimit/v3"
	"google.golang.org/protobuf/types/known/structpb"
)

// FromResource compiles one xDS resource. The error joins all its faults, each a [FaultError] with the path
// of the descriptor. The resource is not kept.
func FromResource(c *ratelimitv3.RateLimitConfig) (*Domain, error) {
	r := &resource{faults: faults{source: cmp.Or(c.GetName(), c.GetDomain())}}
	d := compile(&tree{source: r.source, domain: c.GetDomain(), descriptors: r.branches(c.GetDescriptors(), 1)}, &r.faults)
	if err := r.err(); err != nil {
		return nil, err
	}
	return d, nil
}

// SetFromResources compiles a whole response. One bad resource, or two of one domain, make it fail with
// all faults of all resources: the answer is then a NACK, and what is in force stays.
func SetFromResources(all []*ratelimitv3.RateLimitConfig) (*Set, error) {
	set := &Set{}
	for _, c := range all {
		d, err := FromResource(c)
		set.sources = append(set.sources, &source{name: cmp.Or(c.GetName(), c.GetDomain()), parsed: d, err: err})
	}
	slices.SortStableFunc(set.sources, func(a, b *source) int { return cmp.Compare(a.name, b.name) })
	set.settle(nil)
	if err := set.Err(); err != nil {
		return nil, err
	}
	return set, nil
}

// resource reads one resource.
type resource struct {
	faults
	nodes int
}

func (r *resource) branches(all []*ratelimitv3.RateLimitDescriptor, depth int) []branch {
	if len(all) > 0 && depth > MaxDepth {
		r.add(pos{}, fmt.Sprintf("descriptors are nested deeper than %d levels", MaxDepth))
		return nil
	}
	if r.nodes += len(all); r.nodes > MaxNodes {
		r.add(pos{}, fmt.Sprintf("there are more than %d descriptors", MaxNodes))
		return nil
	}
	branches := make([]branch, len(all))
	for i, d := range all {
		branches[i] = branch{
			key: d.GetKey(), value: d.GetValue(), flags: flagsOf(d), limit: r.policy(d.GetRateLimit()),
			children: r.branches(d.GetDescriptors(), depth+1),
		}
		if m := d.GetMetadata(); m != nil && !r.tooDeep(structpb.NewStructValue(m), 1) {
			branches[i].metadata = m.AsMap() // NaN and infinities become texts
		}
	}
	return branches
}

// tooDeep tells whether metadata is nested deeper than MaxMetadataDepth, which is a fault.
func (r *resource) tooDeep(v *structpb.Value, depth int) bool {
	var inner []*structpb.Value
	switch kind := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		inner = slices.Collect(maps.Values(kind.StructValue.GetFields()))
	case *structpb.Value_ListValue:
		inner = kind.ListValue.GetValues()
	default:
		return false
	}
	if depth > MaxMetadataDepth {
		r.add(pos{}, metadataTooDeep)
		return true
	}
	return slices.ContainsFunc(inner, func(v *structpb.Value) bool { return r.tooDeep(v, depth+1) })
}

func flagsOf(d *ratelimitv3.RateLimitDescriptor) (f flags) {
	for i, set := range [...]bool{d.GetShadowMode(), d.GetQuotaMode(), d.GetDetailedMetric()} {
		if set {
			f |= 1 << i
		}
	}
	return f
}

// policy reads a rate_limit. A number that is not there is 0 in this protocol.
func (r *resource) policy(l *ratelimitv3.RateLimitPolicy) *policy {
	if l == nil {
		return nil
	}
	if n := len(l.GetReplaces()); n > MaxReplaces {
		r.add(pos{}, fmt.Sprintf("replaces has %d names, more than %d", n, MaxReplaces))
		return nil
	}
	p := &policy{
		unlimited: l.GetUnlimited(), name: l.GetName(), unit: setting{given: true, text: l.GetUnit().String()},
		requests: number{given: true, n: int64(l.GetRequestsPerUnit())},
	}
	for _, replaced := range l.GetReplaces() {
		p.replaces = append(p.replaces, replacement{name: replaced.GetName()})
	}
	return p
}
