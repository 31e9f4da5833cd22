package descriptors

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// maxKey bounds the memory of one counter: the names of a longer key are known by their hash.
const maxKey = 1024

// The first byte of a key.
const (
	keyPlain  = 'k'
	keyHashed = 'h'
	keyNumber = 'n' // before one of the others
)

// AppendKey appends the name of what is counted together within a domain: the keys and values of a
// descriptor, the length of the window in seconds and the algorithm. r is what the entries have matched:
// under share_threshold its patterns count in place of values; nil is a limit that the request brought
// along, which counts what a Rule without share_threshold would. The number of a limit is not part of it,
// so that a changed one keeps its counts.
//
// No two different counters meet: each name is preceded by its length, and what is longer than some
// 1 KiB is hashed by SHA-256.
func AppendKey(b []byte, r *Rule, seconds int64, entries []Entry) []byte {
	start := len(b)
	algorithm := limits.FixedWindow
	if r != nil {
		algorithm = r.Algorithm
	}
	b = append(b, keyPlain, byte(algorithm))
	b = binary.AppendUvarint(b, uint64(seconds)) //nolint:gosec // never negative
	for i := range entries {
		e := &entries[i]
		b = appendName(appendName(b, e.Key), r.value(i, e.Value))
	}
	if len(b)-start <= maxKey {
		return b
	}
	sum := sha256.Sum256(b[start:])
	return append(append(b[:start], keyHashed), sum[:]...)
}

// AppendNumber appends what tells a counter of a limit that the request brought along from those of other
// numbers, where that is wanted. AppendKey follows.
func AppendNumber(b []byte, n uint32) []byte {
	return binary.AppendUvarint(append(b, keyNumber), uint64(n))
}

func appendName(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// ShowKey makes a key of AppendKey readable: `user=alice,path=/a;w=60`.
func ShowKey(key string) string {
	if key != "" && key[0] == keyNumber {
		_, key = cutUvarint(key[1:])
	}
	if len(key) < 2 || key[0] != keyPlain {
		return "sha256:" + hex.EncodeToString([]byte(key[min(1, len(key)):]))
	}
	seconds, rest := cutUvarint(key[2:])
	var parts []string
	for rest != "" {
		var k, v string
		k, rest = cutName(rest)
		v, rest = cutName(rest)
		parts = append(parts, k+"="+v)
	}
	return fmt.Sprintf("%s;w=%d", strings.Join(parts, ","), seconds)
}

func cutUvarint(s string) (n uint64, rest string) {
	n, size := binary.Uvarint([]byte(s[:min(len(s), binary.MaxVarintLen64)]))
	if size <= 0 { // no key of AppendKey
		return 0, ""
	}
	return n, s[size:]
}

func cutName(s string) (name, rest string) {
	n, s := cutUvarint(s)
	at := min(n, uint64(len(s)))
	return s[:at], s[at:]
}
