package recorder

import (
	"bytes"
	"fmt"
	"strconv"
	"testing"
	"time"

	alspb "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

const (
	perMessage = 100 // entries, some 80 kB
	different  = 20  // messages of a sender, sent by turns: 2,000 entries of 200 names
)

// message is a StreamAccessLogsMessage that is marshalled once and sent many times. What changes
// between two times is written over it.
type message struct {
	wire    []byte
	starts  []int // where the seconds are at which an entry began
	numbers []int // where the digits of an invented name are
	second  int64 // what starts have now
}

// What stands in a message where something is written over it.
const (
	anySecond   = int64(0x6_0102_0304) // as a varint as long as any second from 1978 to 3058
	anyNumber   = "0123456789"
	inventedFor = "/invented/"
)

// newMessage makes entries from number first on. Those for which rename returns an endpoint get it in
// place of their own; nil = none do.
func newMessage(first int, rename func(i int) string) (*message, error) {
	logs := testenv.AccessLogMessage(first, perMessage)
	invented := 0
	for i, e := range logs.GetHttpLogs().GetLogEntry() {
		e.GetCommonProperties().GetStartTime().Seconds = anySecond
		if rename == nil {
			continue
		}
		name := rename(first + i)
		e.GetCommonProperties().GetMetadata().GetFilterMetadata()["envoy.filters.http.ratelimit"].GetFields()["endpoint"] = structpb.NewStringValue(name)
		invented += bytes.Count([]byte(name), []byte(anyNumber))
	}
	wire, err := proto.Marshal(logs)
	if err != nil {
		return nil, err
	}
	m := &message{wire: wire, starts: places(wire, secondsField(anySecond)), numbers: places(wire, []byte(anyNumber))}
	if len(m.starts) != perMessage || len(m.numbers) != invented {
		return nil, fmt.Errorf("found %d starts and %d invented names in a message, want %d and %d", len(m.starts), len(m.numbers), perMessage, invented)
	}
	return m, nil
}

// secondsField is the field seconds of a Timestamp.
func secondsField(second int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(second))
}

func places(in, of []byte) (found []int) {
	for at := 0; ; at++ {
		next := bytes.Index(in[at:], of)
		if next < 0 {
			return found
		}
		at += next
		found = append(found, at)
	}
}

// stamp makes the entries end within the second before now.
func (m *message) stamp(now time.Time) {
	second := now.Unix() - 1
	if second == m.second {
		return
	}
	m.second = second
	field := secondsField(second)
	for _, at := range m.starts {
		copy(m.wire[at:], field)
	}
}

// invent gives each invented name a number that none had before: from next on. It returns the number
// after the last one.
func (m *message) invent(next int64) int64 {
	var digits [len(anyNumber)]byte
	for _, at := range m.numbers {
		n := next
		for i := len(digits) - 1; i >= 0; i-- {
			digits[i] = byte('0' + n%10)
			n /= 10
		}
		copy(m.wire[at:], digits[:])
		next++
	}
	return next
}

// newMessages returns those of one sender.
func newMessages(rename func(i int) string) (all []*message, err error) {
	for i := range different {
		m, err := newMessage(i*perMessage, rename)
		if err != nil {
			return nil, err
		}
		all = append(all, m)
	}
	return all, nil
}

func TestMessage(t *testing.T) {
	m, err := newMessage(300, func(i int) string {
		if i%10 == 0 {
			return inventedFor + anyNumber
		}
		return "known-" + strconv.Itoa(i)
	})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1_800_000_000, 0)
	m.stamp(now.Add(-time.Hour))
	m.stamp(now)
	if next := m.invent(m.invent(7)); next != 27 {
		t.Errorf("after two times ten names from 7 on the next one is %d, want 27", next)
	}
	var got alspb.StreamAccessLogsMessage
	if err := proto.Unmarshal(m.wire, &got); err != nil {
		t.Fatal(err)
	}
	for i, e := range got.GetHttpLogs().GetLogEntry() {
		common := e.GetCommonProperties()
		if end := common.GetStartTime().AsTime().Add(common.GetDuration().AsDuration()); end.Before(now.Add(-time.Second)) || end.After(now.Add(100*time.Millisecond)) {
			t.Errorf("entry %d ends at %s, want the second before %s", i, end, now)
		}
		name, want := common.GetMetadata().GetFilterMetadata()["envoy.filters.http.ratelimit"].GetFields()["endpoint"].GetStringValue(), "known-"+strconv.Itoa(300+i)
		if i%10 == 0 {
			want = fmt.Sprintf("%s%010d", inventedFor, 17+i/10)
		}
		if name != want {
			t.Errorf("entry %d is of %q, want %q", i, name, want)
		}
	}
	if len(got.GetHttpLogs().GetLogEntry()) != perMessage {
		t.Errorf("%d entries, want %d", len(got.GetHttpLogs().GetLogEntry()), perMessage)
	}
}
