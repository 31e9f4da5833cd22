// Package e2e holds the tests of the whole: the built ratelimitd between a real Envoy, which runs
// the files of envoy/, and a real Postgres. `make test/e2e` runs them; all but those of files that
// no server is needed for carry the build tag e2e.
//
//	test --> Envoy --> upstream            test --SQL--> Postgres
//	          |  `--access logs--> ratelimitd --rows------^ |
//	          `---ShouldRateLimit--^   ^--------limits------'
//
// Unless a test is about failure it ends with a look at Envoy's failure_mode_allowed, which must
// be 0: a dead limiter looks like a generous one.
package e2e
