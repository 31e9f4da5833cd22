package traffic

// Source names a numbering of transactions. Within one source every transaction has an offset of
// its own, and these grow.
type Source struct {
	Server string // the TPS_SERVER_ID of whoever measured
	Run    string // one run of that process, or the idempotency key of a request; no two are alike
}

// Batch is a part of what a source has measured: Transactions[i] has the offset First+i.
type Batch struct {
	Source
	First        int64
	Transactions []Transaction
}

// Next is the offset after the last transaction of the batch.
func (b *Batch) Next() int64 { return b.First + int64(len(b.Transactions)) }

// From returns the part of the batch whose offsets are next or later: nothing, some, or all of it.
func (b *Batch) From(next int64) Batch {
	skip := min(max(next-b.First, 0), int64(len(b.Transactions)))
	return Batch{b.Source, b.First + skip, b.Transactions[skip:]}
}

// RefusedError says that a sink will not take a batch however often it is tried.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap returns the sink's own words.
func (e *RefusedError) Unwrap() error { return e.Err }
