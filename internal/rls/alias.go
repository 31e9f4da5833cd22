package rls

import "unsafe"

// alias returns b as a string without copying it. b must not be written to while the string
// is in use.
func alias(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
