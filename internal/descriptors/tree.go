package descriptors

// Bounds of one file or resource.
const (
	// MaxFile is the largest file, in bytes: some 160,000 limits.
	MaxFile = 16 << 20
	// MaxDepth is how many descriptors may stand one within the other.
	MaxDepth = 64
	// MaxNodes bounds the descriptors, values of metadata, entries of replaces and merged mappings of a
	// file, all together and each time that an alias repeats them.
	MaxNodes = 1_000_000
	// MaxMetadataDepth is how deep metadata may be nested: Envoy takes no answer that is nested deeper than
	// 100 messages, three for each level.
	MaxMetadataDepth = 16
	// MaxReplaces is how many names one limit may replace.
	MaxReplaces = 1000
)

// tree is a domain as it is written, by a file or by an xDS resource.
type tree struct {
	source       string // file or resource, for messages
	domain       string
	domainAt     pos
	allOrNothing bool
	descriptors  []branch
}

// branch is one descriptor of a tree and all below it.
type branch struct {
	at       pos
	key      string
	value    string // empty = every value of the key
	limit    *policy
	flags    flags
	shareAt  pos // of share_threshold
	metadata map[string]any
	children []branch
}

// flags are the switches of a descriptor.
type flags uint8

const (
	shadowMode flags = 1 << iota
	quotaMode
	detailedMetric
	valueToMetric
	shareThreshold
)

func (f flags) has(one flags) bool { return f&one != 0 }

// policy is a rate_limit.
type policy struct {
	at        pos
	unlimited bool
	name      string
	replaces  []replacement

	unit      setting
	algorithm setting

	requests   number
	perSeconds number
}

type setting struct {
	at    pos
	given bool
	text  string
}

// number is a whole number that was written down.
type number struct {
	at    pos
	given bool
	n     int64
}

type replacement struct {
	at   pos
	name string
}

// pos is where something stands in a file, both from 1; the zero pos is in none.
type pos struct{ line, column int32 }
