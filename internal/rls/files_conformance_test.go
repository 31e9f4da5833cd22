package rls_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// fileStory is one case of testdata/descriptors.txt, which says how to read it. It is told over gRPC
// and over /json, in time that stands still but for the steps; it begins at 2000-01-01 00:00 UTC.
type fileStory struct {
	name  string
	lines []string
}

func readStories(tb testing.TB, path string) (all []fileStory) {
	tb.Helper()
	body, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	for line := range strings.Lines(string(body)) {
		line = strings.TrimRight(line, "\n")
		if name, ok := strings.CutPrefix(line, "== "); ok {
			all = append(all, fileStory{name: name})
		} else if len(all) > 0 && line != "" {
			all[len(all)-1].lines = append(all[len(all)-1].lines, line)
		}
	}
	return all
}

// TestFileConformance tells every story over both surfaces.
func TestFileConformance(t *testing.T) {
	stories := readStories(t, "testdata/descriptors.txt")
	names := map[string]bool{}
	for _, story := range stories {
		if names[story.name] {
			t.Errorf("%q comes twice", story.name)
		}
		names[story.name] = true
		for _, s := range surfaces {
			t.Run(story.name+"/"+s.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { story.tell(t, s) })
			})
		}
	}
	if len(stories) < 120 {
		t.Errorf("%d stories, want 120 or more", len(stories))
	}
}

// fileTeller tells one story.
type fileTeller struct {
	*testing.T

	surface surface
	server  *server
	set     *descriptors.Set
	files   map[string]descriptors.File
	file    string // that lines are added to
	changed bool
	got     string // the answer to the last request
	start   time.Time
}

func (s *fileStory) tell(t *testing.T, over surface) {
	t.Helper()
	c := rls.Config{Files: rls.FileConfig{Required: true, Headers: [3]string{"RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}}}
	f := &fileTeller{T: t, surface: over, files: map[string]descriptors.File{}, file: "test.yaml", start: time.Now()}
	lines := s.lines
	if settings, ok := strings.CutPrefix(lines[0], "! "); ok {
		lines = lines[1:]
		for word := range strings.FieldsSeq(settings) {
			*map[string]*bool{
				"headers": &c.ResponseHeaders, "shadow": &c.Files.Shadow, "quota": &c.Files.Quota, "metadata": &c.Files.Metadata,
			}[word] = true
		}
	}
	f.server = newServer(t, setup{rls: c})
	for _, line := range lines {
		f.line(line)
	}
	if f.got != "" {
		t.Errorf("nobody has looked at %s", f.got)
	}
}

func (f *fileTeller) line(line string) {
	f.Helper()
	kind, rest, _ := strings.Cut(line, " ")
	switch kind {
	case "|":
		file := f.files[f.file]
		file.Body = append(file.Body, rest+"\n"...)
		f.files[f.file], f.changed = file, true
	case "@":
		f.file = rest
	case "reload":
		f.files, f.changed = map[string]descriptors.File{}, true
	case ">":
		f.serve()
		f.got = f.ask(rest)
	case "<":
		if f.got != rest {
			f.Errorf("got  %s\nwant %s", f.got, rest)
		}
		f.got = ""
	case "after":
		d, err := time.ParseDuration(rest)
		if err != nil {
			f.Fatal(err)
		}
		time.Sleep(d) // in the bubble's time
	default:
		f.Fatalf("line %q is of no kind", line)
	}
}

func (f *fileTeller) serve() {
	if !f.changed {
		return
	}
	f.set = descriptors.Update(f.set, f.files)
	f.server.service.Serve(f.set)
	f.changed, f.file = false, "test.yaml"
}

// ask sends `[domain=D] [hits=N] DESCRIPTOR[ ; DESCRIPTOR]…`, each descriptor `k=v[,k=v]… [hits=N]
// [negative] [limit=N/UNIT]`, and returns the answer as stories show it.
func (f *fileTeller) ask(text string) string {
	f.Helper()
	r := &ratelimitv3.RateLimitRequest{Domain: "d"}
	for i, part := range strings.Split(text, ";") {
		words := strings.Fields(part)
		for i == 0 && len(words) > 0 && (strings.HasPrefix(words[0], "domain=") || strings.HasPrefix(words[0], "hits=")) {
			name, value, _ := strings.Cut(words[0], "=")
			if name == "domain" {
				r.Domain = value
			} else {
				r.HitsAddend = uint32(f.number(value))
			}
			words = words[1:]
		}
		if len(words) > 0 {
			r.Descriptors = append(r.Descriptors, f.descriptor(words))
		}
	}
	return show(f.surface.ask(f, f.server, f.Context(), r))
}

func (f *fileTeller) number(text string) uint64 {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		f.Fatal(err)
	}
	return n
}

func (f *fileTeller) descriptor(words []string) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	if words[0] != "-" { // a descriptor without entries
		for pair := range strings.SplitSeq(words[0], ",") {
			key, value, _ := strings.Cut(pair, "=")
			d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: key, Value: strings.ReplaceAll(value, "_", " ")})
		}
	}
	for _, word := range words[1:] {
		name, value, _ := strings.Cut(word, "=")
		switch name {
		case "hits":
			d.HitsAddend = wrapperspb.UInt64(f.number(value))
		case "negative":
			d.IsNegativeHits = true
		case "limit":
			n, unit, _ := strings.Cut(value, "/")
			d.Limit = &commonv3.RateLimitDescriptor_RateLimitOverride{
				RequestsPerUnit: uint32(f.number(n)), Unit: typev3.RateLimitUnit(typev3.RateLimitUnit_value[unit]),
			}
		default:
			f.Fatalf("word %q", word)
		}
	}
	return d
}

// show writes an answer as `CODE [STATUS ; STATUS] NAME: VALUE, … {metadata}`, or as the error.
func show(a answer) string {
	if a.response == nil {
		return a.code.String() + ": " + a.message
	}
	var statuses []string
	for _, s := range a.response.Statuses {
		statuses = append(statuses, showStatus(s))
	}
	text := a.response.OverallCode.String() + " [" + strings.Join(statuses, " ; ") + "]"
	var headers []string
	for _, h := range a.response.ResponseHeadersToAdd {
		headers = append(headers, h.Key+": "+h.Value)
	}
	if len(headers) > 0 {
		text += " " + strings.Join(headers, ", ")
	}
	if m := a.response.DynamicMetadata; m != nil {
		text += " " + showJSON(m.AsMap())
	}
	if len(a.response.RequestHeadersToAdd) > 0 || len(a.response.RawBody) > 0 || a.response.Quota != nil {
		text += " and more"
	}
	return text
}

func showStatus(s *ratelimitv3.RateLimitResponse_DescriptorStatus) string {
	text := s.Code.String()
	if l := s.CurrentLimit; l != nil {
		text += fmt.Sprintf(" %d/%s", l.RequestsPerUnit, l.Unit)
		if l.Name != "" {
			text += " name=" + l.Name
		}
	}
	if s.CurrentLimit != nil || s.LimitRemaining > 0 {
		text += fmt.Sprintf(" left=%d", s.LimitRemaining)
	}
	if s.DurationUntilReset != nil {
		text += fmt.Sprintf(" reset=%d", s.DurationUntilReset.AsDuration()/time.Second)
	}
	return text
}

// showJSON is JSON without quotes and in the order of the keys.
func showJSON(v any) string {
	var parts []string
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			parts = append(parts, key+":"+showJSON(value))
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, " ") + "}"
	case []any:
		for _, value := range v {
			parts = append(parts, showJSON(value))
		}
		return "[" + strings.Join(parts, " ") + "]"
	}
	return fmt.Sprint(v)
}

// What is not limited is answered with these bytes and no others.
func TestFileAnswerOfNothing(t *testing.T) {
	f := newServer(t, setup{})
	set := descriptors.Update(nil, map[string]descriptors.File{"a.yaml": {Body: []byte("domain: d")}})
	f.service.Serve(set)
	for _, domain := range []string{"d", "unknown"} {
		out, err := f.overGRPC(t.Context(), encode(askIn(domain, d("user", "alice"))))
		if want := "\x08\x01\x12\x02\x08\x01"; err != nil || string(out) != want {
			t.Errorf("domain %s: %x, %v, want %x", domain, out, err, want)
		}
	}
	if f.service.Files() != set {
		t.Error("Files are others than those that Serve got")
	}
}
