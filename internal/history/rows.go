package history

import (
	"bytes"
	"context"
	"strconv"
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
	const usual = 120 // bytes of a row
	b := make([]byte, 0, usual*len(ts))
	for i := range ts {
		b = appendRow(b, &ts[i], server)
	}
	_, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(b), copySQL)
	return err
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
