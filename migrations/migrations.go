package migrations

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

const (
	versionTable   = "ratelimitd_schema"
	lockID         = 0x7470735f6c696d73 // of this schema alone; the bytes of "tps_lims"
	lockRetries    = 300                // one a second: a replica waits five minutes for another one
	connectTimeout = 5 * time.Second    // where the connection string says none
)

//go:embed *.sql
var files embed.FS

// Up brings the database of connString to the newest version, and waits for another replica
// that is doing so, at most five minutes. It does nothing where the database has that version or
// a newer one. Where it fails the database has the version of the last migration that was whole.
func Up(ctx context.Context, connString string, log *slog.Logger) error {
	db, err := open(connString)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing is left to be written
	provider, err := newProvider(db)
	if err != nil {
		return err
	}
	results, err := provider.Up(ctx)
	if partial, ok := errors.AsType[*goose.PartialError](err); ok {
		results = partial.Applied
	}
	for _, r := range results {
		log.InfoContext(ctx, "database migrated", slog.Int64("version", r.Source.Version), slog.Duration("took", r.Duration))
	}
	if err != nil {
		return fmt.Errorf("migrating the database: %w", err)
	}
	return nil
}

// Check returns nil when the database of connString has at least the newest version of this
// binary, an [OutdatedError] when it has an older one, and another error when it does not say.
// It changes nothing, and does not wait for a migration that runs.
func Check(ctx context.Context, connString string) error {
	db, err := open(connString)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // nothing is left to be written
	wanted, err := newest(db)
	if err != nil {
		return err
	}
	current, err := version(ctx, db)
	if err != nil {
		return fmt.Errorf("reading the version of the schema: %w", err)
	}
	if current < wanted {
		return &OutdatedError{Current: current, Wanted: wanted}
	}
	return nil
}

// OutdatedError says that a migration is missing. Current is 0 where none ever ran.
type OutdatedError struct{ Current, Wanted int64 }

func (e *OutdatedError) Error() string {
	return fmt.Sprintf("the schema of the database has version %d, this ratelimitd wants %d: run `ratelimitd migrate`", e.Current, e.Wanted)
}

func open(connString string) (*sql.DB, error) {
	pool, err := pgxpool.ParseConfig(connString) // which knows of pool_max_conns; pgx would ask Postgres for it
	if err != nil {
		return nil, fmt.Errorf("reading the settings of the database: %w", err)
	}
	config := pool.ConnConfig
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	return stdlib.OpenDB(*config), nil
}

func newProvider(db *sql.DB) (*goose.Provider, error) {
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(lockID), lock.WithLockTimeout(1, lockRetries))
	if err != nil {
		return nil, fmt.Errorf("making the migration lock: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectPostgres, db, files,
		goose.WithTableName(versionTable), goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return nil, fmt.Errorf("reading the migrations: %w", err)
	}
	return provider, nil
}

func newest(db *sql.DB) (int64, error) {
	provider, err := newProvider(db)
	if err != nil {
		return 0, err
	}
	sources := provider.ListSources()
	return sources[len(sources)-1].Version, nil
}

// version does not ask goose, which makes its table where there is none.
func version(ctx context.Context, db *sql.DB) (current int64, err error) {
	err = db.QueryRowContext(ctx, "SELECT coalesce(max(version_id), 0) FROM "+versionTable+" WHERE is_applied").Scan(&current)
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok && refused.Code == undefinedTable {
		return 0, nil
	}
	return current, err
}

const undefinedTable = "42P01"
