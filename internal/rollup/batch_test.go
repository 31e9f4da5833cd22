package rollup

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tps-agent/ratelimitd/internal/traffic"
)

// stored is a database of one server: what the rows of each length have become.
type stored [3]map[Slot]*Row

func newStored() *stored { return &stored{{}, {}, {}} }

func (s *stored) add(length int, r *Row) *Row {
	row := s[length][r.Slot]
	if row == nil {
		row = &Row{Slot: r.Slot}
		s[length][r.Slot] = row
	}
	row.Merge(&r.Counts)
	row.Peak = max(row.Peak, r.Peak)
	return row
}

// take does what Groups says.
func (s *stored) take(g *Groups) {
	for i := range g.Seconds {
		row := s.add(0, &g.Seconds[i])
		row.Peak = row.Requests
		g.Raise(row.Slot, row.Requests)
	}
	for i := range g.Minutes {
		s.add(1, &g.Minutes[i])
	}
	for i := range g.Hours {
		s.add(2, &g.Hours[i])
	}
}

// expect counts all at once, without any of what is tested but Counts.
func expect(ts []traffic.Transaction) *stored {
	s := newStored()
	for i := range ts {
		t := &ts[i]
		key := Key{t.Domain, t.Gateway, t.Endpoint}
		for length, d := range []time.Duration{time.Second, time.Minute, time.Hour} {
			r := Row{Slot: Slot{t.At.Truncate(d).Unix(), key}}
			r.Add(t)
			s.add(length, &r)
		}
	}
	for _, second := range s[0] {
		second.Peak = second.Requests
		for length, d := range []time.Duration{time.Second, time.Minute, time.Hour} {
			row := s[length][Slot{time.Unix(second.Unix, 0).Truncate(d).Unix(), second.Key}]
			row.Peak = max(row.Peak, second.Requests)
		}
	}
	return s
}

func anyBatch() *rapid.Generator[[]traffic.Transaction] {
	one := rapid.Custom(func(t *rapid.T) traffic.Transaction {
		tr := anyTransaction().Draw(t, "transaction")
		from := rapid.SampledFrom([]time.Time{noon, noon.Add(time.Hour), time.Unix(0, 0)}).Draw(t, "from")
		tr.At = from.Add(time.Duration(rapid.OneOf(rapid.IntRange(-3000, 3000), rapid.IntRange(-200e3, 200e3)).Draw(t, "ms")) * time.Millisecond)
		return tr
	})
	return rapid.SliceOfN(one, 0, 40)
}

func TestGroupInPartsIsAllAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ts, got := anyBatch().Draw(t, "transactions"), newStored()
		for rest := ts; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "part")
			got.take(Group(rest[:n], NewNames(1000)))
			rest = rest[n:]
		}
		if diff := cmp.Diff(expect(ts), got); diff != "" {
			t.Fatalf("-want +got:\n%s", diff)
		}
	})
}

func TestGroupIsSorted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		g := Group(anyBatch().Draw(t, "transactions"), NewNames(1000))
		for _, rows := range [][]Row{g.Seconds, g.Minutes, g.Hours} {
			if !slices.IsSortedFunc(rows, compareRows) {
				t.Fatalf("not sorted: %v", rows)
			}
		}
	})
}

func TestGroupBoundsNames(t *testing.T) {
	ts := batchOf(1000, time.Second)
	g, keys := Group(ts, NewNames(10)), map[Key]bool{}
	for i := range g.Seconds {
		keys[g.Seconds[i].Key] = true
	}
	if len(keys) != 10+4 || !keys[Key{"domain", "gateway-0003", Other}] { // four gateways, each with others
		t.Errorf("%d keys of a bound of 10: %v", len(keys), keys)
	}
}

func TestRaiseOfWhatIsNotInTheBatch(t *testing.T) {
	g := Group([]traffic.Transaction{{At: noon}}, NewNames(10))
	g.Raise(Slot{noon.Unix() + 60, Key{}}, 5)
	if g.Hours[0].Peak != 5 || g.Minutes[0].Peak != 0 { // another minute of the same hour
		t.Errorf("peaks %d of the hour, %d of the minute; want 5, 0", g.Hours[0].Peak, g.Minutes[0].Peak)
	}
}
