// Package admin is the HTTP side of ratelimitd for operators: the REST API over the limits, the
// figures, health, readiness and metrics.
//
//	PUT, DELETE /api/v1/limits --> auth --> row --> Store (pgsync or filesync) --> limits.Current
//	GET /api/v1/limits, /active <-- auth <---------------------------------------------+
//
// Errors are RFC 9457 problems that name field and value. A row is read strictly, for what is
// guessed into a limit is found out during an outage: names are taken in their exact case, none
// twice, numbers only as digits.
//
// Who may do what is decided in one place (auth.go): by bearer token, or, where none are set,
// anybody reads and only this very host writes. Health, readiness, metrics and /json are open.
//
// The package limits the size of bodies and the time that one takes to arrive. Connections and
// headers are the business of the http.Server around it.
package admin
