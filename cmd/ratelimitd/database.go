package main

import (
	"errors"
	"io/fs"
	"net/url"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// database returns what pgx connects with, "" for the embedded default.
func (r *reader) database() string {
	conn, name := r.values["TPS_DATABASE_URL"], "TPS_DATABASE_URL"
	if conn == "" {
		if r.values["TPS_DB_HOST"] == "" {
			r.noHost()
			return ""
		}
		r.int("TPS_DB_PORT", 1, 65535)
		r.oneOf("TPS_DB_SSLMODE", "disable", "allow", "prefer", "require", "verify-ca", "verify-full")
		name = "TPS_DB_HOST"
		conn = r.address()
	}
	if !r.good("TPS_DB_PORT", "TPS_DB_SSLMODE") {
		return conn
	}
	if strings.TrimSpace(r.values[name]) == "" { // which pgx takes for whatever Postgres this host has
		r.fail(name, "is blank")
		return conn
	}
	if _, err := pgxpool.ParseConfig(conn); err != nil {
		r.fail(name, "is no address of a Postgres database such as postgres://user:password@host:5432/database, with special characters percent-encoded: "+withoutAddress(conn, err))
	}
	return conn
}

// address puts TPS_DB_* together. Host and port are parameters, so that the directory of a Unix
// socket and a list of hosts are understood too.
func (r *reader) address() string {
	return (&url.URL{
		Scheme: "postgres", User: url.UserPassword(r.values["TPS_DB_USER"], r.values["TPS_DB_PASSWORD"]), Path: "/" + r.values["TPS_DB_NAME"],
		RawQuery: url.Values{"host": {r.values["TPS_DB_HOST"]}, "port": {r.values["TPS_DB_PORT"]}, "sslmode": {r.values["TPS_DB_SSLMODE"]}}.Encode(),
	}).String()
}

// withoutAddress says why pgx refuses conn. Its own message repeats conn, in which it finds the
// password only where conn is almost good, and bits of conn in the cause: neither is shown.
func withoutAddress(conn string, err error) string {
	if file, ok := errors.AsType[*fs.PathError](err); ok {
		return file.Error()
	}
	reason, ok := strings.CutPrefix(err.Error(), pgconn.NewParseConfigError(conn, "", nil).Error())
	if !ok {
		return "it cannot be read"
	}
	reason, _, _ = strings.Cut(reason, " (")
	return reason
}

// dbVariables mean something beside TPS_DB_HOST only.
var dbVariables = []string{ //nolint:gochecknoglobals // a constant list
	"TPS_DB_PORT", "TPS_DB_NAME", "TPS_DB_USER", "TPS_DB_PASSWORD", "TPS_DB_SSLMODE",
}

// noHost tells of database settings that have no effect without a host.
func (r *reader) noHost() {
	for _, name := range dbVariables {
		if r.env[name] != "" {
			r.fail(name, "is set, but neither TPS_DB_HOST nor TPS_DATABASE_URL is")
		}
	}
}

// overruled returns one warning for each setting that TPS_DATABASE_URL takes the place of.
func (r *reader) overruled() []string {
	var warnings []string
	for _, name := range append([]string{"TPS_DB_HOST"}, dbVariables...) {
		if value := r.env[name]; value != "" && r.values["TPS_DATABASE_URL"] != "" {
			warnings = append(warnings, linked(name+" means nothing beside TPS_DATABASE_URL", name, value))
		}
	}
	return warnings
}
