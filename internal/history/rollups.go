package history

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/tps-agent/ratelimitd/internal/rollup"
)

// mergeRollups adds the counts of a batch to those that are stored of the server. Seconds come
// first: what they have then are the peaks of minutes and hours.
func mergeRollups(ctx context.Context, tx pgx.Tx, g *rollup.Groups, server string) error {
	var seconds, longer columns
	seconds.append("second", g.Seconds)
	stored, err := seconds.add(ctx, tx, server, " RETURNING at, domain, gateway, endpoint, requests")
	if err != nil {
		return err
	}
	var slot rollup.Slot
	var at time.Time
	var requests int64
	_, err = pgx.ForEachRow(stored, []any{&at, &slot.Domain, &slot.Gateway, &slot.Endpoint, &requests}, func() error {
		slot.Unix = at.Unix()
		g.Raise(slot, requests)
		return nil
	})
	if err != nil {
		return fmt.Errorf("adding to rollups per second: %w", err)
	}
	longer.append("minute", g.Minutes)
	longer.append("hour", g.Hours)
	rows, err := longer.add(ctx, tx, server, "")
	if err == nil {
		rows.Close()
		err = rows.Err()
	}
	if err != nil {
		return fmt.Errorf("adding to rollups per minute and hour: %w", err)
	}
	return nil
}

// columns are rows as Postgres takes them: an array for each column.
type columns struct {
	resolution                                    []string
	at                                            []time.Time
	domain, gateway, endpoint                     []string
	requests, successes, throttled, held, peakTPS []int64
	waitedMS, durationMS                          []float64
	histogram                                     []*rollup.Histogram
}

// append adds rows of a resolution. The histograms stay theirs.
func (c *columns) append(resolution string, rows []rollup.Row) {
	for i := range rows {
		r := &rows[i]
		c.resolution, c.at = append(c.resolution, resolution), append(c.at, time.Unix(r.Unix, 0))
		c.domain, c.gateway, c.endpoint = append(c.domain, r.Domain), append(c.gateway, r.Gateway), append(c.endpoint, r.Endpoint)
		c.requests, c.successes = append(c.requests, r.Requests), append(c.successes, r.Successes)
		c.throttled, c.held, c.peakTPS = append(c.throttled, r.Throttled), append(c.held, r.Held), append(c.peakTPS, r.Peak)
		c.waitedMS, c.durationMS = append(c.waitedMS, r.Waited.Milliseconds()), append(c.durationMS, r.Duration.Milliseconds())
		c.histogram = append(c.histogram, &r.Histogram)
	}
}

// addSQL has parameters in the order of args. The peak of a second is all that it has.
const addSQL = `
	INSERT INTO tps_rollups AS r (resolution, at, domain, gateway, endpoint, server_id, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, histogram)
	SELECT resolution, at, domain, gateway, endpoint, $1, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, histogram
	FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::float8[], $12::float8[], $13::bigint[], $14::numeric[])
		AS i (resolution, at, domain, gateway, endpoint, requests, successes, throttled, held, waited_ms, duration_ms, peak_tps, histogram)
	ON CONFLICT (resolution, at, domain, gateway, endpoint, server_id) DO UPDATE SET
		requests = r.requests + excluded.requests, successes = r.successes + excluded.successes, throttled = r.throttled + excluded.throttled, held = r.held + excluded.held,
		waited_ms = r.waited_ms + excluded.waited_ms, duration_ms = r.duration_ms + excluded.duration_ms, histogram = r.histogram + excluded.histogram,
		peak_tps = CASE excluded.resolution WHEN 'second' THEN r.requests + excluded.requests ELSE greatest(r.peak_tps, excluded.peak_tps) END`

// add adds the rows to those that are stored. It passes pgx by, which would send numerics as text.
func (c *columns) add(ctx context.Context, tx pgx.Tx, server, returning string) (pgx.Rows, error) {
	var p parameters
	types := tx.Conn().TypeMap()
	for _, arg := range c.args(server) {
		if err := p.append(types, arg); err != nil {
			return nil, err
		}
	}
	p.values, p.types, p.forms = append(p.values, appendHistograms(nil, c.histogram)), append(p.types, pgtype.NumericArrayOID), append(p.forms, pgx.BinaryFormatCode)
	binary := []int16{pgx.BinaryFormatCode}
	return pgx.RowsFromResultReader(types, tx.Conn().PgConn().ExecParams(ctx, addSQL+returning, p.values, p.types, p.forms, binary)), nil
}

func (c *columns) args(server string) []any {
	return []any{
		server, c.resolution, c.at, c.domain, c.gateway, c.endpoint, c.requests, c.successes, c.throttled, c.held, c.waitedMS, c.durationMS, c.peakTPS,
	}
}

// parameters are those of a statement, as they go over the wire.
type parameters struct {
	values [][]byte
	types  []uint32
	forms  []int16
}

func (p *parameters) append(types *pgtype.Map, arg any) error {
	t, ok := types.TypeForValue(arg)
	if !ok {
		return fmt.Errorf("sending a %T: it has no type in Postgres", arg)
	}
	value, err := types.Encode(t.OID, pgx.BinaryFormatCode, arg, nil)
	if err != nil {
		return fmt.Errorf("sending a %T: %w", arg, err)
	}
	p.values, p.types, p.forms = append(p.values, value), append(p.types, t.OID), append(p.forms, pgx.BinaryFormatCode)
	return nil
}
