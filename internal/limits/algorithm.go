package limits

import "fmt"

// Algorithm is how the room of a limit comes back.
type Algorithm uint8

const (
	// TokenBucket gives room back evenly, max_tps in each window, up to burst. In any time t at most
	// burst + max_tps·t/window pass.
	TokenBucket Algorithm = iota
	// FixedWindow gives all of it back at once, at the multiples of the window since 1970 (UTC). At most max_tps
	// pass from one of them to the next, twice that around one.
	FixedWindow
	// SlidingWindow gives it back at the latest 1/64 of the window after what was taken is older than the
	// window. At most max_tps pass in any time of that length.
	SlidingWindow

	algorithms
)

var algorithmNames = [algorithms]string{"token_bucket", "fixed_window", "sliding_window"} //nolint:gochecknoglobals // a constant list

// String is the word of the column.
func (a Algorithm) String() string {
	if a < algorithms {
		return algorithmNames[a]
	}
	return fmt.Sprintf("Algorithm(%d)", uint8(a))
}

// ParseAlgorithm reads the word of the column; empty is TokenBucket. The error is a [FieldError].
func ParseAlgorithm(word string) (Algorithm, error) {
	for a, name := range algorithmNames {
		if word == name || word == "" {
			return Algorithm(a), nil
		}
	}
	return 0, &FieldError{"algorithm", quoteCut(word), "is not token_bucket, fixed_window or sliding_window"}
}
