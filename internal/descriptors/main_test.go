package descriptors

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// mustParse compiles a file without faults.
func mustParse(tb testing.TB, body string) *Domain {
	tb.Helper()
	d, err := Parse("test.yaml", []byte(body))
	if err != nil {
		tb.Fatalf("Parse: %v\n%s", err, body)
	}
	return d
}

// entriesOf makes entries of key, value, key, value…
func entriesOf(keysAndValues ...string) []Entry {
	entries := make([]Entry, 0, len(keysAndValues)/2)
	for i := 0; i < len(keysAndValues); i += 2 {
		entries = append(entries, Entry{Key: keysAndValues[i], Value: keysAndValues[i+1]})
	}
	return entries
}
