// Package admin is the HTTP side of ratelimitd for operators: the REST API over the limits, the
// figures, health, readiness and metrics.
//
//	PUT, DELETE /api/v1/limits --> Store (pgsync or filesync) --> limits.Current
//	GET /api/v1/limits, /active <--------------------------------------+
//
// Errors are RFC 9457 problems that name field and value. Who may write is decided in one
// place (auth.go): by bearer token, or, where none are set, only this very host.
package admin
