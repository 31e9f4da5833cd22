package testenv

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/tps-agent/ratelimitd/migrations"
)

// templateDatabase is migrated once per server; databases of tests are its clones.
const templateDatabase = "tps_template"

// Database returns the address of a fresh database with the current schema. It is dropped when
// the test ends.
func (p *Postgres) Database(tb testing.TB) string {
	tb.Helper()
	p.makeTemplate(tb)
	return p.makeDatabase(tb, " TEMPLATE "+templateDatabase)
}

// EmptyDatabase returns the address of a fresh database without any schema. It is dropped when
// the test ends.
func (p *Postgres) EmptyDatabase(tb testing.TB) string {
	tb.Helper()
	return p.makeDatabase(tb, "")
}

func (p *Postgres) makeTemplate(tb testing.TB) {
	tb.Helper()
	p.template.Lock()
	defer p.template.Unlock()
	if p.migrated {
		return
	}
	p.Exec(tb, "postgres", "CREATE DATABASE "+templateDatabase)
	if err := migrations.Up(tb.Context(), p.ConnString(templateDatabase), slog.New(slog.DiscardHandler)); err != nil {
		tb.Fatal(err)
	}
	p.migrated = true
}

func (p *Postgres) makeDatabase(tb testing.TB, from string) string {
	tb.Helper()
	name := fmt.Sprintf("tps_%d", p.databases.Add(1))
	p.Exec(tb, "postgres", "CREATE DATABASE "+name+from)
	tb.Cleanup(func() {
		if !p.proc.running() {
			return // the test has killed the server
		}
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := p.exec(ctx, "postgres", "DROP DATABASE "+name+" WITH (FORCE)"); err != nil {
			tb.Errorf("dropping the database of the test: %v", err)
		}
	})
	return p.ConnString(name)
}

// Exec runs SQL without parameters on a connection of its own.
func (p *Postgres) Exec(tb testing.TB, database, sql string) {
	tb.Helper()
	if err := p.exec(tb.Context(), database, sql); err != nil {
		tb.Fatal(err)
	}
}

func (p *Postgres) exec(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, p.ConnString(database))
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", database, err)
	}
	_, err = conn.Exec(ctx, sql)
	_ = conn.Close(ctx) // the error that counts is that of sql
	if err != nil {
		return fmt.Errorf("%s: %w", sql, err)
	}
	return nil
}

// Connect opens a connection that is closed when the test ends, or before by the test.
func Connect(tb testing.TB, connString string) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.Connect(tb.Context(), connString)
	if err != nil {
		tb.Fatalf("connecting to the test database: %v", err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = conn.Close(ctx) // the server may be gone
	})
	return conn
}
