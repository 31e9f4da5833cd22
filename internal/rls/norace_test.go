//go:build !race

package rls

// raceEnabled tells that the race detector runs, which allocates by itself.
const raceEnabled = false
