package rollup

import "math"

// estimate follows the number of tokens that are used, for requests that come at random within
// their seconds. It is a diffusion: a second in which n requests come and r tokens is a Brownian
// bridge with the variance n, from what is used at its begin to n - r more, between a full bucket
// (0 are used) and an empty one.
//
// Beside simulations of requests at random, with loads of 0.3 to 2 of the limit, the share that it
// refuses is within 0.5 percentage points for bursts of 10 and more, and within 2.5 for smaller ones. The
// share of those who wait is within 10.
type estimate struct {
	refill   float64 // tokens a second
	capacity float64 // tokens, the bottom included
	patience float64 // tokens of the bottom
	used     float64
	refused  float64
	held     float64
}

func newEstimate(b *bucket) estimate {
	token := float64(b.token)
	return estimate{
		refill:   float64(b.refill) / token,
		capacity: float64(b.capacity) / token,
		patience: float64(b.bottom) / token,
	}
}

func (e *estimate) skip(seconds int64) { e.used = max(e.used-float64(seconds)*e.refill, 0) }

func (e *estimate) add(requests int64) {
	n := float64(requests)
	switch {
	case requests == 0:
		e.skip(1)
		return
	case e.capacity == 0:
		e.refused += n
		return
	}
	before := e.used
	refused := min(e.flow(n), n)
	e.refused += refused
	if e.patience > 0 {
		e.held += (n - refused) * e.waiting(before, n)
	}
}

// flow moves on by a second, and returns how many requests found no token.
func (e *estimate) flow(n float64) (refused float64) {
	to, lost := e.used+n-e.refill, 0.0
	if e.settles(n, 1) {
		refused = n * refusedOf(n/e.refill, e.capacity)
	} else {
		refused = overflow(e.used, to, e.capacity, n)
		lost = overflow(e.capacity-e.used, e.capacity-to, e.capacity, n)
	}
	e.used = min(max(to-refused+lost, 0), e.capacity)
	return refused
}

// settles tells whether the bucket is so small that it forgets within a second, or that many, what
// was before.
func (e *estimate) settles(n, seconds float64) bool { return e.capacity*e.capacity < seconds*n }

// refusedOf is the share that a bucket of some tokens refuses at a constant load, as a part of the
// limit: the loss of a queue M/D/1/K by its first two moments (MacGregor Smith, "M/G/c/K blocking
// probability models and system performance", Performance Evaluation 52, 2003), near a load of 1. It
// is exact for one token.
func refusedOf(load, tokens float64) float64 {
	k := 2 * tokens
	if math.Abs(load-1) < 1e-6 {
		return 1 / k
	}
	if load > 1 { // the same, without powers that are too large
		return (load - 1) / (load - math.Pow(load, 1-k))
	}
	return (1 - load) * math.Pow(load, k-1) / (1 - math.Pow(load, k))
}

// overflow is by how much a Brownian bridge of the variance n a second that goes from one level to
// another one rises above the top on its way, in the mean: the integral over all m above the top of
// exp(-2(m-from)(m-to)/n), which is the probability that its maximum is above m (Karatzas and Shreve,
// Brownian Motion and Stochastic Calculus, section 4.3). from is not above the top.
func overflow(from, to, top, n float64) float64 {
	scale := math.Sqrt(2 / n)
	over := max(to-top, 0)
	u := (max(to, top) - (from+to)/2) * scale
	w := math.Abs(to-from) / 2 * scale
	switch exponent := w*w - u*u; {
	case exponent < -20:
		return over
	case u > 5 && exponent > -1e-6: // as below, without exp, which takes long: one of both is beyond the top
		return over + math.Sqrt(n/8)/u
	case u > 5: // erfc would be 0 where exp is infinite
		return over + math.Sqrt(n/8)*math.Exp(exponent)/u
	default:
		return over + math.Sqrt(math.Pi*n/8)*math.Exp(w*w)*math.Erfc(u)
	}
}

// waiting is the part of those who pass in a second that find less than a token above the bottom.
func (e *estimate) waiting(before, n float64) float64 {
	empty := e.capacity - e.patience - 0.5 // tokens that are used, half of the next one
	if e.settles(n, 4) {
		return above(2*(n-e.refill)/n, empty, e.capacity)
	}
	// Three points of Gauss and Legendre.
	share := 8. / 18 * bridgeAbove(before, e.used, empty, 0.5, n)
	for _, at := range [...]float64{0.1127, 0.8873} {
		share += 5. / 18 * bridgeAbove(before, e.used, empty, at, n)
	}
	return share
}

// above is the probability that something between 0 and most is above at, if its density grows as
// exp(rate·x): a diffusion between two barriers, when it has settled.
func above(rate, at, most float64) float64 {
	at = max(at, 0)
	if math.Abs(rate*most) < 1e-6 {
		return 1 - at/most
	}
	if rate > 0 { // the same, without powers that are too large
		return (1 - math.Exp(rate*(at-most))) / (1 - math.Exp(-rate*most))
	}
	return (math.Exp(rate*most) - math.Exp(rate*at)) / (math.Exp(rate*most) - 1)
}

// bridgeAbove is the probability that a Brownian bridge is above a level at a time between 0 and 1.
func bridgeAbove(from, to, level, at, n float64) float64 {
	z := (level - from - (to-from)*at) / math.Sqrt(2*n*at*(1-at))
	switch { // erfc takes long
	case z > 4:
		return 0
	case z < -4:
		return 1
	}
	return math.Erfc(z) / 2
}
