// Package migrations holds the schema of the database and brings a database up to it.
//
//	NNNNN_name.sql --embedded--> Up --session lock--> one transaction per file --> ratelimitd_schema
//
// Migrations are SQL files in this directory. They run in the order of their numbers, each once
// and whole, under a lock of the database, so that any number of replicas may start at the same
// time. The table ratelimitd_schema says which have run.
//
// A file that was released is never changed. A database that is newer than this binary is left
// as it is: every release works with the schema before and after its own migration.
package migrations
