// Package descriptors reads the descriptor files of envoyproxy/ratelimit, and finds which of their
// limits a descriptor of a request has.
//
//	files  --> ReadDir --> Set.Update ---.
//	                                     +--> tree --> compile --> Domain, immutable
//	xDS resources --> SetFromResources --'                            |
//	                                                                  v
//	request --> Set.Domain --> Domain.Match --> Rule, Replacing, AppendKey
//
// A [Domain] is one compiled file: a tree of levels in which each entry of a descriptor goes one
// level down, by exact value, else by the first pattern in the order of the file, else by the node
// without a value; there is no way back. Only the node of the last entry gives a limit, its [Rule].
// What is counted together has one key ([AppendKey]). Keys and values are compared apart, so that no
// two names meet.
//
// Invariants: a Set, and all that it gives away, never changes; looking up allocates nothing. A file
// that cannot be used keeps the last good domain that it had, and touches no other file. Its
// [FaultError]s name every fault at once, with file, line and column.
//
// What envoyproxy/ratelimit accepts is refused where it says something else than its author can have
// meant: a key that comes twice, a valid key in the wrong place, a missing requests_per_unit, a second
// document in one file, `*` only in the key of a node with share_threshold, values of metadata that JSON
// has not, and !!binary. A `*` in a key is an ordinary letter. Three keys are ours: algorithm and
// per_seconds in rate_limit, all_or_nothing in the file. The bounds are [MaxFile], [MaxDepth], [MaxNodes],
// [MaxMetadataDepth] and [MaxReplaces].
//
// The package counts nothing (package buckets does), keeps no state and logs nothing; only ReadDir
// touches the disk.
package descriptors
