package validjson_test

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/tps-agent/ratelimitd/internal/testenv"
	"github.com/tps-agent/ratelimitd/internal/validjson"
)

func TestMain(m *testing.M) { testenv.Main(m) }

// FuzzValueEnd: a value that stands in a list ends where encoding/json says, and white space where the
// value begins.
func FuzzValueEnd(f *testing.F) {
	for _, s := range []string{
		`1`, `-1.5e9`, `true`, `null`, `""`, `"a\"b\\"`, `"\\\""`, `[]`, `{}`, `[1,[2,{"a":"]"}],3]`, `{"a}":{"b]":[1,2]},"c":"\"}"}`, `"\u005d"`, " \t\r\n[ ] ",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		if !json.Valid(value) {
			return
		}
		list := append(append([]byte{'['}, value...), ']')
		begin := validjson.SkipSpace(list, 1)
		want := bytes.Trim(value, " \t\r\n")
		if end := validjson.ValueEnd(list, begin); string(list[begin:end]) != string(want) {
			t.Errorf("%s: the value is %s, want %s", list, list[begin:end], want)
		}
		if want[0] == '"' && validjson.TextEnd(list, begin) != begin+len(want) {
			t.Errorf("%s: the string ends at %d, want %d", list, validjson.TextEnd(list, begin), begin+len(want))
		}
	})
}
