package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// The form of transactions in the log: one after the other, each
//
//	flags (1 byte) | end, nanoseconds since 1970 (8, little endian) | duration, waited, status code (uvarints)
//	| domain, gateway, endpoint (each a uvarint of its length, and its bytes)
//
// A byte with flags that are not known here is of a later release, and so is all that follows it.
const (
	flagSuccess byte = 1 << iota
	flagThrottled
	knownFlags = flagSuccess | flagThrottled
)

// AppendBinary appends the form of t in the log, some 60 bytes, to b. Negative durations and codes
// count as 0.
func AppendBinary(b []byte, t *Transaction) []byte {
	var flags byte
	if t.Success {
		flags |= flagSuccess
	}
	if t.Throttled {
		flags |= flagThrottled
	}
	b = binary.LittleEndian.AppendUint64(append(b, flags), uint64(t.At.UnixNano()))
	for _, n := range [...]int64{int64(t.Duration), int64(t.Waited), int64(t.StatusCode)} {
		b = binary.AppendUvarint(b, uint64(max(n, 0)))
	}
	for _, name := range [...]string{t.Domain, t.Gateway, t.Endpoint} {
		b = append(binary.AppendUvarint(b, uint64(len(name))), name...)
	}
	return b
}

// Decoder reads what AppendBinary has written. Names that come again share their memory. It is for
// one goroutine at a time; the zero value is ready.
type Decoder struct{ names map[string]string }

// mostNames is how many names a Decoder remembers; then it begins anew.
const mostNames = 4096

var errBinary = errors.New("bytes that are no transaction of this release")

// Append reads all of b and appends its transactions to ts. After an error ts has those before the
// fault.
func (d *Decoder) Append(ts []Transaction, b []byte) ([]Transaction, error) {
	for at := 0; at < len(b); {
		var t Transaction
		n, err := d.one(&t, b[at:])
		if err != nil {
			return ts, fmt.Errorf("byte %d of %d: %w", at, len(b), err)
		}
		ts, at = append(ts, t), at+n
	}
	return ts, nil
}

func (d *Decoder) one(t *Transaction, b []byte) (size int, err error) {
	const fixed = 9
	if len(b) < fixed || b[0]&^knownFlags != 0 {
		return 0, errBinary
	}
	t.Success, t.Throttled = b[0]&flagSuccess != 0, b[0]&flagThrottled != 0
	t.At = time.Unix(0, int64(binary.LittleEndian.Uint64(b[1:]))) //nolint:gosec // two's complement
	r := rest{b: b[fixed:]}
	t.Duration, t.Waited = time.Duration(r.number(int64(MaxDuration))), time.Duration(r.number(int64(MaxDuration)))
	t.StatusCode = int32(r.number(999)) //nolint:gosec // at most 999
	t.Domain, t.Gateway, t.Endpoint = d.name(&r), d.name(&r), d.name(&r)
	if r.bad {
		return 0, errBinary
	}
	return len(b) - len(r.b), nil
}

func (d *Decoder) name(r *rest) string {
	raw := r.bytes(int(r.number(MaxName)))
	if known, ok := d.names[string(raw)]; ok || len(raw) == 0 {
		return known
	}
	if d.names == nil || len(d.names) >= mostNames {
		d.names = make(map[string]string)
	}
	name := string(raw)
	d.names[name] = name
	return name
}

// rest is what is left to be read. After a fault all that is read is empty.
type rest struct {
	b   []byte
	bad bool
}

func (r *rest) number(most int64) int64 {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > uint64(most) { //nolint:gosec // most is a positive constant
		*r = rest{bad: true}
		return 0
	}
	r.b = r.b[size:]
	return int64(n) //nolint:gosec // at most most
}

func (r *rest) bytes(n int) []byte {
	if n > len(r.b) {
		*r = rest{bad: true}
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}
