package limits

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Row is a Limit as JSON, YAML and the REST API show it: the names are the columns of
// tps_limits, nil is NULL or "not said".
type Row struct {
	Domain     string     `json:"domain" yaml:"domain,omitempty"`
	Gateway    string     `json:"gateway" yaml:"gateway"`
	Endpoint   *string    `json:"endpoint" yaml:"endpoint,omitempty"`
	Per        *string    `json:"per" yaml:"per,omitempty"`
	MaxTPS     *int64     `json:"max_tps" yaml:"max_tps,omitempty"`
	Enabled    *bool      `json:"enabled" yaml:"enabled,omitempty"`
	Burst      *int64     `json:"burst" yaml:"burst,omitempty"`
	MaxWaitMS  *int64     `json:"max_wait_ms" yaml:"max_wait_ms,omitempty"`
	Shadow     *bool      `json:"shadow" yaml:"shadow,omitempty"`
	Note       *string    `json:"note" yaml:"note,omitempty"`
	PerSeconds *int64     `json:"per_seconds" yaml:"per_seconds,omitempty"`
	Algorithm  *string    `json:"algorithm" yaml:"algorithm,omitempty"`
	CreatedAt  *time.Time `json:"created_at,omitempty" yaml:"created_at,omitempty"`
	UpdatedAt  *time.Time `json:"updated_at,omitempty" yaml:"updated_at,omitempty"`
	Version    int64      `json:"version,omitempty" yaml:"version,omitempty"`
}

// Limit returns the row with every absent column at its default, or all its faults at once,
// each as a [FieldError].
func (r Row) Limit() (Limit, error) {
	algorithm, unknown := ParseAlgorithm(or(r.Algorithm, ""))
	l := Limit{
		Key:       Key{Domain: r.Domain, Gateway: r.Gateway, Endpoint: or(r.Endpoint, ""), Per: or(r.Per, ""), PerSeconds: or(r.PerSeconds, 1)}.Canonical(),
		Algorithm: algorithm,
		MaxTPS:    or(r.MaxTPS, DefaultMaxTPS),
		Enabled:   or(r.Enabled, true),
		Burst:     or(r.Burst, 0),
		MaxWaitMS: or(r.MaxWaitMS, 0),
		Shadow:    or(r.Shadow, false),
		Note:      or(r.Note, ""),
		CreatedAt: or(r.CreatedAt, time.Time{}),
		UpdatedAt: or(r.UpdatedAt, time.Time{}),
		Version:   r.Version,
	}
	err := errors.Join(l.Validate(), unknown)
	if r.PerSeconds != nil && *r.PerSeconds == 0 {
		err = errors.Join(err, CheckSeconds(0))
	}
	if r.Burst != nil && *r.Burst == 0 {
		err = errors.Join(err, &FieldError{"burst", "0", fmt.Sprintf("is not within 1 to %d", MaxBurst)})
	}
	return l, err
}

// RowOf returns l as it is shown: NULL columns are nil, all others are said.
func RowOf(l *Limit) Row {
	seconds, algorithm := l.Seconds(), l.Algorithm.String()
	return Row{
		PerSeconds: &seconds, Algorithm: &algorithm,
		Domain: l.Domain, Gateway: l.Gateway, Endpoint: nilIfZero(l.Endpoint), Per: nilIfZero(l.Per),
		MaxTPS: &l.MaxTPS, Enabled: &l.Enabled, Burst: nilIfZero(l.Burst), MaxWaitMS: &l.MaxWaitMS,
		Shadow: &l.Shadow, Note: &l.Note,
		CreatedAt: nilIfZero(l.CreatedAt), UpdatedAt: nilIfZero(l.UpdatedAt), Version: l.Version,
	}
}

// MarshalJSON writes the limit as [RowOf] shows it.
func (l Limit) MarshalJSON() ([]byte, error) { return json.Marshal(RowOf(&l)) }

func or[T any](p *T, otherwise T) T {
	if p == nil {
		return otherwise
	}
	return *p
}

func nilIfZero[T comparable](v T) *T {
	var zero T
	if v == zero {
		return nil
	}
	return &v
}
