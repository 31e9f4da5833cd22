package history

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// copySQL has the columns in the order of appendRow.
const copySQL = "COPY tps_metrics (gateway, endpoint, timestamp, duration_ms, success, domain, server_id, status_code, throttled, waited_ms) FROM STDIN"

// copyRows writes rows in COPY's text format: Postgres reads it into columns of whatever kind, also
// into one whose kind a migration has just changed, and it takes less work here than pgx's CopyFrom
// (BenchmarkWrite).
func copyRows(ctx context.Context, tx pgx.Tx, ts []traffic.Transaction, server string) error {
	if len(ts) == 0 {
		return nil
	}
	r := &rowReader{rows: ts, server: server}
	defer r.stop()
	_, err := tx.Conn().PgConn().CopyFrom(ctx, r, copySQL)
	return err
}

// rowReader is rows in that format. They are made while Postgres works on those before.
type rowReader struct {
	server string

	mu   sync.Mutex
	rows []traffic.Transaction
	made []byte // of which left is not read yet
	left []byte
}

// stop gives the rows back to whoever has lent them: pgx goes on to read for a moment when the
// connection has broken.
func (r *rowReader) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rows, r.left = nil, nil
}

// Read never fails.
func (r *rowReader) Read(p []byte) (n int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.left) == 0 {
		if len(r.rows) == 0 {
			return 0, io.EOF
		}
		r.makeLocked()
	}
	n = copy(p, r.left)
	r.left = r.left[n:]
	return n, nil
}

func (r *rowReader) makeLocked() {
	const together = 256
	now := r.rows[:min(together, len(r.rows))]
	r.rows, r.made = r.rows[len(now):], r.made[:0]
	for i := range now {
		r.made = appendRow(r.made, &now[i], r.server)
	}
	r.left = r.made
}

func appendRow(b []byte, t *traffic.Transaction, server string) []byte {
	b = append(appendText(b, t.Gateway), '\t')
	b = append(appendText(b, t.Endpoint), '\t')
	b = append(t.At.UTC().AppendFormat(b, "2006-01-02 15:04:05.999999Z07:00"), '\t')
	b = append(appendMS(b, t.Duration), '\t')
	b = append(appendBool(b, t.Success), '\t')
	b = append(appendText(b, t.Domain), '\t')
	b = append(appendText(b, server), '\t')
	b = append(strconv.AppendInt(b, int64(t.StatusCode), 10), '\t')
	b = append(appendBool(b, t.Throttled), '\t')
	return append(appendMS(b, t.Waited), '\n')
}

// appendText escapes what means something to COPY. Names have no control characters, but the server's
// own may come from elsewhere.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		switch c := s[i]; c {
		case '\\':
			b = append(b, '\\', '\\')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, c)
		}
	}
	return b
}

func appendMS(b []byte, d time.Duration) []byte {
	return strconv.AppendFloat(b, float64(d)/float64(time.Millisecond), 'g', -1, 64)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 't')
	}
	return append(b, 'f')
}
