// Package collector sends transactions to another ratelimitd, which stores them: so that a replica at
// the edge needs no database.
//
//	recorder --> Client.Write --> NDJSON, gzip --> POST /api/v1/transactions?server=…&run=…&first=… --> its recorder
//	                         <-- {"accepted": how many were new} <--
//
// Exactly once: the query says who has measured the batch and where in its log it stands, and the
// other side keeps that place with the rows. So a batch whose answer got lost is simply sent again,
// to whoever answers at that address then.
//
// Nothing is tried again in here: an error says whether that makes sense, and the log of the recorder
// keeps what could not be sent. The package keeps no state but idle connections.
package collector
