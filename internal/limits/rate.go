package limits

import "math/bits"

// Rate is an exact speed of refill: Tokens per PerNS nanoseconds, reduced by their
// greatest common divisor. The zero Rate never refills.
type Rate struct {
	Tokens uint64
	PerNS  uint64
}

// NewRate returns tokens per windowNS nanoseconds, reduced. A windowNS of 0 or less
// gives the zero Rate.
func NewRate(tokens uint64, windowNS int64) Rate {
	if tokens == 0 || windowNS <= 0 {
		return Rate{}
	}
	d := gcd(tokens, uint64(windowNS))
	return Rate{Tokens: tokens / d, PerNS: uint64(windowNS) / d}
}

func gcd(a, b uint64) uint64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// Refill returns the whole tokens that elapsedNS nanoseconds bring when rem parts of
// the next token were there before, and the parts that are left. One token has PerNS
// parts. More than most tokens come back as most with no parts: the bucket is full.
func (r Rate) Refill(elapsedNS int64, rem, most uint64) (tokens, left uint64) {
	if r.PerNS == 0 || elapsedNS <= 0 {
		return 0, rem
	}
	hi, lo := bits.Mul64(uint64(elapsedNS), r.Tokens)
	lo, carry := bits.Add64(lo, rem, 0)
	hi += carry
	if hi >= r.PerNS { // more than 2^64 tokens
		return most, 0
	}
	tokens, left = bits.Div64(hi, lo, r.PerNS)
	if tokens >= most {
		return most, 0
	}
	return tokens, left
}

// Never is the wait for something that cannot happen.
const Never = int64(1<<63 - 1)

// WaitNS returns the nanoseconds until tokens more whole tokens are there when rem
// parts of the next one are there already, rounded up; [Never] when they cannot come
// within 292 years.
func (r Rate) WaitNS(tokens, rem uint64) int64 {
	if tokens == 0 {
		return 0
	}
	if r.PerNS == 0 {
		return Never
	}
	hi, lo := bits.Mul64(tokens, r.PerNS)
	lo, borrow := bits.Sub64(lo, rem, 0)
	hi -= borrow
	lo, carry := bits.Add64(lo, r.Tokens-1, 0)
	hi += carry
	if hi >= r.Tokens {
		return Never
	}
	wait, _ := bits.Div64(hi, lo, r.Tokens)
	if wait >= uint64(Never) {
		return Never
	}
	return int64(wait)
}

// Rescale turns rem parts of a token of r into parts of a token of to, rounded down.
func (r Rate) Rescale(rem uint64, to Rate) uint64 {
	if r.PerNS == 0 || to.PerNS == 0 || rem >= r.PerNS {
		return 0
	}
	hi, lo := bits.Mul64(rem, to.PerNS) // rem < r.PerNS, so hi < r.PerNS
	out, _ := bits.Div64(hi, lo, r.PerNS)
	return out
}
