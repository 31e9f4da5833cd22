// Package history keeps what was measured in Postgres, and answers questions about it.
//
//	traffic.Batch --Write--> one transaction: tps_offsets (what is there already?)
//	                             |--COPY--> tps_metrics  (a row each, or a sample)
//	                             |--upsert--> tps_rollups (second, minute, hour)
//	                             `--> tps_offsets (how far this source is stored now)
//
// Each transaction of a source is stored exactly once, however often and in whatever pieces it
// comes, as long as offsets come in ascending order; writers of one server take turns. Partitions
// are made ahead and dropped by age in Maintain, which replicas may call at the same time.
//
// The package keeps nothing in memory and tries nothing again: whoever calls does.
package history
