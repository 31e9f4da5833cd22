package filesync

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// one is a row as most of the cases want it.
func one(change func(*limits.Limit)) []limits.Limit {
	l := limits.Limit{Key: limits.Key{Gateway: "shop"}, MaxTPS: limits.DefaultMaxTPS, Enabled: true}
	change(&l)
	return []limits.Limit{l}
}

func TestParse(t *testing.T) {
	at := time.Date(2026, 11, 24, 10, 0, 0, 123456000, time.UTC)
	tests := []struct {
		name, body string
		want       []limits.Limit
	}{
		{"nothing", "", nil},
		{"only blanks", " \n\t\n", nil},
		{"byte order mark", "\ufefflimits: [{gateway: shop}]", one(func(*limits.Limit) {})},
		{"absent columns", "limits: [{gateway: shop}]", one(func(*limits.Limit) {})},
		{"nulls are absent", "limits: [{domain: ~, gateway: shop, endpoint: null, per: , max_tps: ~, enabled: ~, burst: null, max_wait_ms: ~, shadow: ~, note: ~, created_at: ~, updated_at: ~, version: ~}]", one(func(*limits.Limit) {})},
		{"empty names are NULL", `limits: [{domain: "", gateway: shop, endpoint: "", per: ""}]`, one(func(*limits.Limit) {})},
		{
			"every column",
			"limits:\n- {domain: edge, gateway: shop, endpoint: pay, per: user, max_tps: 7, enabled: false, burst: 9, max_wait_ms: 250, shadow: true, note: why, created_at: 2026-11-24T10:00:00.123456Z, updated_at: '2026-11-24T11:00:00.123456+01:00', version: 3}",
			[]limits.Limit{{
				Key: limits.Key{Domain: "edge", Gateway: "shop", Endpoint: "pay", Per: "user"}, MaxTPS: 7, Burst: 9, MaxWaitMS: 250,
				Shadow: true, Note: "why", CreatedAt: at, UpdatedAt: at, Version: 3,
			}},
		},
		{"JSON as GET shows it", `{"limits":[{"domain":"","gateway":"shop","endpoint":null,"per":null,"max_tps":5,"enabled":true,"burst":null,"max_wait_ms":0,"shadow":false,"note":"","created_at":"2026-11-24T10:00:00.123456Z","updated_at":"2026-11-24T10:00:00.123456Z","version":8}]}`, one(func(l *limits.Limit) {
			l.MaxTPS, l.CreatedAt, l.UpdatedAt, l.Version = 5, at, at, 8
		})},
		{"a number as a name", "limits: [{gateway: shop, endpoint: 0404}]", one(func(l *limits.Limit) { l.Endpoint = "0404" })},
		{"a truth as a name", "limits: [{gateway: shop, endpoint: true}]", one(func(l *limits.Limit) { l.Endpoint = "true" })},
		{"a date as a name", "limits: [{gateway: shop, endpoint: 2026-11-24}]", one(func(l *limits.Limit) { l.Endpoint = "2026-11-24" })},
		{"a float as a name", "limits: [{gateway: shop, endpoint: 1.50}]", one(func(l *limits.Limit) { l.Endpoint = "1.50" })},
		{"a null as a name, in quotes", "limits: [{gateway: shop, endpoint: 'null'}]", one(func(l *limits.Limit) { l.Endpoint = "null" })},
		{"a pattern", "limits: [{gateway: shop, endpoint: '*'}]", one(func(l *limits.Limit) { l.Endpoint = "*" })},
		{"a leading zero is decimal", "limits: [{gateway: shop, max_tps: 0100}]", one(func(l *limits.Limit) { l.MaxTPS = 100 })},
		{"minus zero", "limits: [{gateway: shop, max_tps: -0}]", one(func(l *limits.Limit) { l.MaxTPS = 0 })},
		{"the largest", "limits: [{gateway: shop, max_tps: 1000000000, burst: 1000000000, max_wait_ms: 1800000, version: 9007199254740991}]", one(func(l *limits.Limit) {
			l.MaxTPS, l.Burst, l.MaxWaitMS, l.Version = 1e9, 1e9, 1_800_000, 1<<53-1
		})},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			doc, err := parse([]byte(tt.body))
			if err != nil {
				t.Fatalf("parse(%q): %v", tt.body, err)
			}
			if !slices.Equal(doc.rows, tt.want) {
				t.Errorf("parse(%q)\n got %v\nwant %v", tt.body, doc.rows, tt.want)
			}
		})
	}
}

// Every fault has one clear message.
func TestParseRefuses(t *testing.T) {
	row := func(columns string) string { return "limits:\n  - gateway: shop\n    " + columns + "\n" }
	long := strings.Repeat("x", 256)
	var bomb strings.Builder // each row would hold the one before it twice
	bomb.WriteString("limits:\n- &a {gateway: a}\n")
	for i := range 20 {
		fmt.Fprintf(&bomb, "- &%c [*%c, *%c]\n", 'b'+i, 'a'+i, 'a'+i)
	}
	tests := []struct{ name, body, want string }{
		{"no mapping", "5", "line 1, column 1: the file 5: is no mapping with the key limits"},
		{"a list", "- gateway: shop\n", "line 1, column 1: the file (a list): is no mapping with the key limits"},
		{"text", "limits", `line 1, column 1: the file "limits": is no mapping with the key limits`},
		{"unknown key", "limits: []\nlimit: []\n", `line 2, column 1: key "limit": is unknown; the only one is limits`},
		{"limits twice", "limits: []\nlimits: []\n", "line 2, column 1: key limits: comes twice"},
		{"limits is a mapping", "limits: {gateway: shop}\n", "line 1, column 9: limits (a mapping): is no list"},
		{"limits is text", "limits: none\n", `line 1, column 9: limits "none": is no list`},
		{"row is text", "limits: [shop]\n", `line 1, column 10: row "shop": is no mapping of columns to values`},
		{"row is null", "limits:\n-\n", "line 2, column 2: row : is no mapping of columns to values"},
		{"row is a list", "limits:\n- [shop]\n", "line 2, column 3: row (a list): is no mapping of columns to values"},
		{"unknown column", row("max_tsp: 5"), `line 3, column 5: key "max_tsp": is no column of a limit`},
		{"other case", row("MAX_TPS: 5"), `line 3, column 5: key "MAX_TPS": is no column of a limit`},
		{"column twice", row("max_tps: 5\n    max_tps: 6"), "line 4, column 5: max_tps 6: comes twice in the row"},
		{"no gateway", "limits:\n- max_tps: 5\n", `line 2, column 3: gateway "": is empty`},
		{"gateway is null", "limits:\n- gateway: ~\n", `line 2, column 12: gateway "": is empty`},
		{"gateway is a list", "limits:\n- gateway: [shop]\n", "line 2, column 12: gateway (a list): is no text"},
		{"gateway is a mapping", "limits:\n- gateway: {a: b}\n", "line 2, column 12: gateway (a mapping): is no text"},
		{"gateway is a mapping with a tag", "limits:\n- gateway: !!str {a: b}\n", "line 2, column 12: gateway (a mapping): is no text"},
		{"gateway is binary", "limits:\n- gateway: !!binary c2hvcA==\n", "line 2, column 12: gateway c2hvcA==: is no text"},
		{"gateway has a tag of its own", "limits:\n- gateway: !env SHOP\n", "line 2, column 12: gateway SHOP: is no text"},
		{"gateway has a control character", "limits:\n- gateway: \"a\\nb\"\n", `line 2, column 12: gateway "a\nb": has a control character`},
		{"gateway is too long", "limits:\n- gateway: " + long + "\n", "line 2, column 12: gateway \"" + long[:64] + "\"… (256 bytes): is longer than 255 bytes"},
		{"name is no UTF-8", "limits:\n- gateway: \"\xff\"\n", "line 2: has bytes that are no UTF-8"},
		{"UTF-16", "\xff\xfel\x00", "line 1: has bytes that are no UTF-8"},
		{"max_tps is text", row("max_tps: fast"), `line 3, column 14: max_tps "fast": is no whole number`},
		{"max_tps is in quotes", row(`max_tps: "5"`), `line 3, column 14: max_tps "5": is no whole number`},
		{"max_tps is a fraction", row("max_tps: 1.5"), "line 3, column 14: max_tps 1.5: is no whole number"},
		{"max_tps is a float", row("max_tps: 5.0"), "line 3, column 14: max_tps 5.0: is no whole number"},
		{"max_tps has an exponent", row("max_tps: 1e3"), "line 3, column 14: max_tps 1e3: is no whole number"},
		{"max_tps is not a number", row("max_tps: .nan"), "line 3, column 14: max_tps .nan: is no whole number"},
		{"max_tps is infinite", row("max_tps: .inf"), "line 3, column 14: max_tps .inf: is no whole number"},
		{"max_tps is hexadecimal", row("max_tps: 0x10"), "line 3, column 14: max_tps 0x10: is no whole number"},
		{"max_tps has an underscore", row("max_tps: 1_000"), "line 3, column 14: max_tps 1_000: is no whole number"},
		{"max_tps is over int64", row("max_tps: 9223372036854775808"), "line 3, column 14: max_tps 9223372036854775808: is no whole number"},
		{"max_tps is a truth", row("max_tps: true"), "line 3, column 14: max_tps true: is no whole number"},
		{"max_tps is a list", row("max_tps: [5]"), "line 3, column 14: max_tps (a list): is no whole number"},
		{"max_tps is below", row("max_tps: -1"), "line 3, column 14: max_tps -1: is not within 0 to 1000000000"},
		{"max_tps is above", row("max_tps: 1000000001"), "line 3, column 14: max_tps 1000000001: is not within 0 to 1000000000"},
		{"burst is 0", row("burst: 0"), "line 3, column 12: burst 0: is not within 1 to 1000000000"},
		{"max_wait_ms is above", row("max_wait_ms: 1800001"), "line 3, column 18: max_wait_ms 1800001: is not within 0 to 1800000"},
		{"max_wait_ms is a duration", row("max_wait_ms: 5s"), `line 3, column 18: max_wait_ms "5s": is no whole number`},
		{"enabled is yes", row("enabled: yes"), `line 3, column 14: enabled "yes": is not true or false`},
		{"enabled is 1", row("enabled: 1"), "line 3, column 14: enabled 1: is not true or false"},
		{"shadow is text", row(`shadow: "true"`), `line 3, column 13: shadow "true": is not true or false`},
		{"created_at is text", row("created_at: today"), `line 3, column 17: created_at "today": is no time as in RFC 3339`},
		{"updated_at is a day", row("updated_at: 2026-11-24"), "line 3, column 17: updated_at 2026-11-24: is no time as in RFC 3339"},
		{"version is negative", row("version: -1"), "line 3, column 14: version -1: is not within 0 to 9007199254740991"},
		{"version is too large", row("version: 9007199254740992"), "line 3, column 14: version 9007199254740992: is not within 0 to 9007199254740991"},
		{"one key twice", "limits:\n- gateway: shop\n- {gateway: shop, endpoint: null}\n", `line 3, column 3: the row (domain "", gateway "shop", endpoint "", per ""): stands in line 2 already`},
		{"anchor", "limits:\n- gateway: &g shop\n", `line 2, column 12: gateway "shop": anchors and aliases are not read`},
		{"alias", "limits:\n- gateway: &g shop\n- gateway: *g\n", "line 3, column 12: gateway *g: anchors and aliases are not read"},
		{"alias of a row", "limits:\n- &r {gateway: shop}\n- *r\n", "line 3, column 3: row *r: is no mapping of columns to values"},
		{"alias as a key", "limits:\n- {&gateway a: b, *gateway : shop}\n", `line 2, column 19: gateway "shop": anchors and aliases are not read`},
		{"merge key", "limits:\n- {gateway: shop, <<: {max_tps: 5}}\n", `line 2, column 19: key "<<": is no column of a limit`},
		{"bomb of aliases", bomb.String(), "line 3, column 3: row (a list): is no mapping of columns to values"},
		{"bomb of depth", strings.Repeat("[", 20000), "reading YAML: exceeded max depth"},
		{"two documents", "limits: []\n---\nlimits: []\n", "line 2: a second YAML document begins; a limits file is one"},
		{"rubbish after the document", "limits: []\n...\n%\n", "reading YAML: "},
		{"tab", "limits:\n\t- gateway: shop\n", "reading YAML: line 2: found character that cannot start any token"},
		{"unclosed", "limits: [{gateway: shop", "reading YAML: line 1: did not find expected"},
		{"undefined alias", "limits: *nothing\n", "reading YAML: unknown anchor 'nothing' referenced"},
		{"NUL", "limits: []\x00", "reading YAML: control characters are not allowed"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := parse([]byte(tt.body))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("parse(%.200q)\n got %v\nwant %s", tt.body, err, tt.want)
			}
		})
	}
}

// All faults of a file come at once, but no more than a reader takes in.
func TestParseNamesManyFaults(t *testing.T) {
	_, err := parse([]byte("limits:\n- {gateway: a, max_tps: -1, burst: 0}\n- {gateway: b, max_tps: x, enabled: no}\n"))
	want := `line 2, column 25: max_tps -1: is not within 0 to 1000000000
line 2, column 36: burst 0: is not within 1 to 1000000000
line 3, column 25: max_tps "x": is no whole number
line 3, column 37: enabled "no": is not true or false`
	if err == nil {
		t.Fatal("parse took it")
	}
	if diff := cmp.Diff(want, err.Error()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	_, err = parse([]byte("limits:\n" + strings.Repeat("- {gateway: a, max_tps: x}\n", 1000)))
	if err == nil || strings.Count(err.Error(), "\n") != maxFaults || !strings.HasSuffix(err.Error(), "\nand 990 more") {
		t.Errorf("1000 faults are told as %v", err)
	}
}

// FuzzLimitsFile looks for a file that makes the parser fall over, and for one in which an edit
// would change a row that it was not asked to.
func FuzzLimitsFile(f *testing.F) {
	for _, seed := range []string{
		"", "# c\n", "limits:\n", "limits: []\n", "{limits: [{gateway: a}, {gateway: b, per: c}]}",
		"# head\nlimits: # of the list\n  # of a\n  - gateway: a # on a\n    # in a\n    max_tps: 5\n  # foot of a\n\n  # of b\n  - gateway: b\n# end\n",
		"limits:\n- gateway: |\n    a\n  note: >-\n    folded\n    text\n- gateway: 'b'\n  endpoint: \"\\u00e9\"\n",
		"limits:\n- gateway: a\n  note: >-\n    folded\n      and indented\n",
		"limits:\n- {gateway: 0x1, endpoint: 1_0, per: 2026-01-01}\n", "%YAML 1.2\n---\nlimits: !!seq []\n...\n",
		"limits:\n- ? gateway\n  : a\n", "limits: &l [*l]", "\ufefflimits: []", "? limits\n: - gateway: a\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		doc, err := parse(body)
		if err != nil {
			return
		}
		if len(doc.rows) != len(doc.items.Content) {
			t.Fatalf("%d rows of %d", len(doc.rows), len(doc.items.Content))
		}
		added := limits.Limit{Key: limits.Key{Gateway: "added", Endpoint: "x"}, MaxTPS: 5, Version: 1}
		if doc.find(added.Key) >= 0 {
			return
		}
		want := append(slices.Clone(doc.rows), added)
		if err := doc.put(added); err != nil {
			t.Fatal(err)
		}
		if len(doc.rows) > 1 {
			want[0].MaxTPS ^= 1
			if err := doc.put(want[0]); err != nil {
				t.Fatal(err)
			}
		}
		edited, err := doc.encode()
		if err != nil { // rows are safe, but then nobody can edit this file by the API
			t.Fatalf("%v\nfile:\n%s", err, body)
		}
		again, err := parse(edited)
		if err != nil || !slices.Equal(again.rows, want) {
			t.Fatalf("%v\n got %v\nwant %v\nfile:\n%s\nedited:\n%s", err, again.rows, want, body, edited)
		}
	})
}
