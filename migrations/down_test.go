package migrations_test

import (
	"context"
	"database/sql"
	"os"

	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

// down runs every Down section, as somebody with the goose command would.
func down(ctx context.Context, connString string) error {
	db, err := sql.Open("pgx", connString)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	provider, err := goose.NewProvider(goose.DialectPostgres, db, os.DirFS("."), goose.WithTableName("ratelimitd_schema"))
	if err != nil {
		return err
	}
	_, err = provider.DownTo(ctx, 0)
	return err
}
