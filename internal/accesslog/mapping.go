package accesslog

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// MappingConfig says where the gateway and the endpoint of an entry come from. The zero value is
// the default.
type MappingConfig struct {
	// Gateway has the sources of the gateway in order; the first that tells one counts. Empty =
	// decision, tag, cluster.
	//
	//	decision   what the rate limit service said of the request (dynamic metadata)
	//	tag        the custom tag `gateway`, unless it is empty or "-"
	//	cluster    the upstream cluster
	//	authority  the host that the client asked for, in lower case and without a port
	Gateway []string
	// Endpoint has those of the endpoint. Empty = decision, tag, path, route.
	//
	//	decision  what the decision says, if the gateway comes from it: then no later source is
	//	          asked, because without an endpoint the gateway as a whole was limited
	//	tag       the custom tag `endpoint`, unless it is empty or "-"
	//	path      the template of PathTemplates that the path matches
	//	route     the name of the route; not where `tag` stands before it and the gateway is a tag:
	//	          who tags gateways says by a tag what an endpoint is
	Endpoint []string
	// PathTemplates are the endpoints of `path`, such as /users/{id}, /files/{rest...} or
	// GET /users/{id}: patterns of [http.ServeMux] without a host. A path is matched as it was sent,
	// without its query, and one that no template matches is no endpoint, so that clients cannot
	// invent any. Where several match, the one that has a literal segment first counts.
	PathTemplates []string
}

// Mapping names gateways and endpoints. It may be used by any number of goroutines.
type Mapping struct {
	gateway     []source
	endpoint    []source
	tagsGoFirst bool // the tag of the endpoint is asked before the route
	templates   templates
	vocabulary  vocabulary
}

// source is where a name comes from.
type source string

const (
	fromNothing   source = ""
	fromDecision  source = "decision"
	fromTag       source = "tag"
	fromCluster   source = "cluster"
	fromAuthority source = "authority"
	fromPath      source = "path"
	fromRoute     source = "route"
)

// NewMapping returns a Mapping. The error joins all faults, each of which names a field and its
// value.
func NewMapping(cfg MappingConfig) (*Mapping, error) {
	m := &Mapping{vocabulary: newVocabulary()}
	var errGateway, errEndpoint, errPaths error
	m.gateway, errGateway = sources("gateway", cfg.Gateway, fromDecision, fromTag, fromCluster, fromAuthority)
	m.endpoint, errEndpoint = sources("endpoint", cfg.Endpoint, fromDecision, fromTag, fromPath, fromRoute)
	m.templates, errPaths = newTemplates(cfg.PathTemplates)
	if err := errors.Join(errGateway, errEndpoint, errPaths); err != nil {
		return nil, err
	}
	if len(m.gateway) == 0 {
		m.gateway = []source{fromDecision, fromTag, fromCluster}
	}
	if len(m.endpoint) == 0 {
		m.endpoint = []source{fromDecision, fromTag, fromPath, fromRoute}
	}
	tag := slices.Index(m.endpoint, fromTag)
	m.tagsGoFirst = tag >= 0 && tag < slices.Index(m.endpoint, fromRoute)
	return m, nil
}

func sources(field string, names []string, allowed ...source) ([]source, error) {
	var out []source
	var errs []error
	for _, name := range names {
		s := source(name)
		switch {
		case !slices.Contains(allowed, s):
			errs = append(errs, fmt.Errorf("%s source %q: is not one of %s", field, name, list(allowed)))
		case slices.Contains(out, s):
			errs = append(errs, fmt.Errorf("%s source %q: comes twice", field, name))
		}
		out = append(out, s)
	}
	return out, errors.Join(errs...)
}

func list(sources []source) string {
	var names []string
	for _, s := range sources {
		names = append(names, string(s))
	}
	return strings.Join(names, ", ")
}

// wantsRequest tells whether names come from what the client asked for.
func (m *Mapping) wantsRequest() bool {
	return slices.Contains(m.gateway, fromAuthority) || m.wantsPath()
}

func (m *Mapping) wantsPath() bool {
	return slices.Contains(m.endpoint, fromPath) && !m.templates.empty()
}

// names returns the gateway and the endpoint as the entry has them: they are not cleaned, and may
// alias its memory.
func (m *Mapping) names(e *entry) (gateway, endpoint string) {
	gateway, from := m.gatewayOf(e)
	return gateway, m.endpointOf(e, from)
}

func (m *Mapping) gatewayOf(e *entry) (name string, from source) {
	for _, s := range m.gateway {
		if name := e.gateway(s); name != "" {
			return name, s
		}
	}
	return traffic.NoGateway, fromNothing
}

// gateway is what one source tells; empty = nothing.
func (e *entry) gateway(s source) string {
	switch s {
	case fromDecision:
		return e.decision.gateway
	case fromTag:
		return tagName(e.tagGateway)
	case fromCluster:
		return e.cluster
	case fromAuthority:
		return hostOf(e.authority)
	default:
		return ""
	}
}

func (m *Mapping) endpointOf(e *entry, gatewayFrom source) string {
	for _, s := range m.endpoint {
		name := ""
		switch s {
		case fromDecision:
			if gatewayFrom == fromDecision {
				return e.decision.endpoint
			}
		case fromTag:
			name = tagName(e.tagEndpoint)
		case fromPath:
			name = m.templates.match(e.method, e.path)
		case fromRoute:
			if gatewayFrom != fromTag || !m.tagsGoFirst {
				name = e.route
			}
		default:
		}
		if name != "" {
			return name
		}
	}
	return ""
}

// tagName is empty for a tag that found nothing: it is absent, or "-", the default_value that the
// files of envoy/ give.
func tagName(tag string) string {
	if tag == traffic.NoGateway {
		return ""
	}
	return tag
}

// hostOf is an authority in lower case, without its port and without the brackets of an IPv6
// address. Names are short: of what a client makes longer, nobody needs the rest.
func hostOf(authority string) string {
	host := authority[:min(len(authority), traffic.MaxName+1)]
	if inner, ok := strings.CutPrefix(host, "["); ok {
		host, _, _ = strings.Cut(inner, "]")
	} else if colon := strings.IndexByte(host, ':'); colon >= 0 && strings.IndexByte(host[colon+1:], ':') < 0 {
		host = host[:colon]
	}
	return tagName(strings.ToLower(host))
}
