package wire_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/tps-agent/ratelimitd/internal/wire"
)

// walk returns every field that Fields calls with, as text: the number and what each accessor
// returns that says yes.
func walk(b []byte) (fields []string, err error) {
	err = wire.Fields(b, func(num protowire.Number, v wire.Value) error {
		fields = append(fields, show(num, v))
		return nil
	})
	return fields, err
}

func show(num protowire.Number, v wire.Value) string {
	s := fmt.Sprint(num)
	if n, ok := v.Varint(); ok {
		s += fmt.Sprintf(" varint %d", n)
	}
	if n, ok := v.Fixed64(); ok {
		s += fmt.Sprintf(" fixed64 %#x", n)
	}
	if b, ok := v.Bytes(); ok {
		s += fmt.Sprintf(" bytes %q", b)
	}
	if t, ok := v.String(); ok {
		s += fmt.Sprintf(" string %q", t)
	}
	return s
}

// walkStock is walk by protowire alone.
func walkStock(b []byte) (fields []string, err error) {
	for len(b) > 0 {
		num, kind, size := protowire.ConsumeField(b)
		if size < 0 || num > protowire.MaxValidNumber {
			return fields, fmt.Errorf("field %d: %w", num, protowire.ParseError(size))
		}
		_, _, tag := protowire.ConsumeTag(b)
		content, s := b[tag:size], fmt.Sprint(num)
		switch kind {
		case protowire.VarintType:
			n, _ := protowire.ConsumeVarint(content)
			s += fmt.Sprintf(" varint %d", n)
		case protowire.Fixed64Type:
			n, _ := protowire.ConsumeFixed64(content)
			s += fmt.Sprintf(" fixed64 %#x", n)
		case protowire.BytesType:
			text, _ := protowire.ConsumeBytes(content)
			s += fmt.Sprintf(" bytes %q string %q", text, text)
		default: // fixed32, groups: nobody asks for their value
		}
		fields, b = append(fields, s), b[size:]
	}
	return fields, nil
}

var messages = []struct {
	name, message string
	want          []string
	wantErr       bool
}{
	{"nothing", "", nil, false},
	{"varints", "\x08\x00\x10\xac\x02\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", []string{"1 varint 0", "2 varint 300", fmt.Sprintf("3 varint %d", uint64(math.MaxUint64))}, false},
	{"a varint of more bytes than it needs", "\x08\x81\x80\x00", []string{"1 varint 1"}, false},
	{"fixed64", "\x09\x01\x02\x03\x04\x05\x06\x07\x08", []string{"1 fixed64 0x807060504030201"}, false},
	{"fixed32 is passed over", "\x0d\x01\x02\x03\x04\x10\x05", []string{"1", "2 varint 5"}, false},
	{"bytes", "\x0a\x00\x12\x03a\xff\x00", []string{`1 bytes "" string ""`, `2 bytes "a\xff\x00" string "a\xff\x00"`}, false},
	{"a field that comes twice", "\x08\x01\x08\x02", []string{"1 varint 1", "1 varint 2"}, false},
	{"a group is passed over", "\x0b\x10\x01\x13\x14\x0c\x10\x05", []string{"1", "2 varint 5"}, false},
	{"the largest field number", "\xf8\xff\xff\xff\x0f\x01", []string{"536870911 varint 1"}, false},
	{"a field number beyond 29 bits", "\x10\x05\x80\x80\x80\x80\x10\x01", []string{"2 varint 5"}, true},
	{"a field number beyond 31 bits", "\x80\x80\x80\x80\x80\x01\x01", nil, true},
	{"field number 0", "\x10\x05\x00\x01", []string{"2 varint 5"}, true},
	{"wire type 6", "\x0e\x01", nil, true},
	{"wire type 7", "\x0f\x01", nil, true},
	{"a tag that is cut off", "\x10\x05\x80", []string{"2 varint 5"}, true},
	{"no value", "\x08", nil, true},
	{"a varint that is cut off", "\x08\x80", nil, true},
	{"a varint that is too long", "\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02", nil, true},
	{"fixed64 that is cut off", "\x09\x01\x02\x03\x04\x05\x06\x07", nil, true},
	{"fixed32 that is cut off", "\x0d\x01\x02\x03", nil, true},
	{"bytes that are cut off", "\x0a\x03ab", nil, true},
	{"bytes of a length beyond any", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", nil, true},
	{"a group without an end", "\x0b\x10\x01", nil, true},
	{"a group with the end of another", "\x0b\x14", nil, true},
	{"the end of no group", "\x0c", nil, true},
	// Next reads most fields by itself where there are bytes enough after them.
	{"numbers of two bytes", "\x88\x01\xac\x02\x90\x01\x7f\x10\x05\x10\x05", []string{"17 varint 300", "18 varint 127", "2 varint 5", "2 varint 5"}, false},
	{"numbers of three bytes", "\x88\x80\x01\x05\x10\x80\x80\x01\x10\x05\x10\x05", []string{"2049 varint 5", "2 varint 16384", "2 varint 5", "2 varint 5"}, false},
	{"a tag of more bytes than it needs", "\x90\x00\x05\x10\x05\x10\x05", []string{"2 varint 5", "2 varint 5", "2 varint 5"}, false},
	{"field number 0 among others", "\x00\x01\x10\x05\x10\x05\x10\x05", nil, true},
	{"field number 0 of two bytes", "\x80\x00\x01\x10\x05\x10\x05", nil, true},
	{"bytes of two bytes' length", "\x0a\x80\x01" + strings.Repeat("a", 128) + "\x10\x05", []string{fmt.Sprintf("1 bytes %q string %[1]q", strings.Repeat("a", 128)), "2 varint 5"}, false},
	{"more bytes that are cut off", "\x0a\x08abcdefg", nil, true},
	{"many bytes that are cut off", "\x0a\x80\x01" + strings.Repeat("a", 127), nil, true},
	{"bytes to the end", "\x0a\x07abcdefg", []string{`1 bytes "abcdefg" string "abcdefg"`}, false},
	{"fixed32, fixed64 and groups among others", "\x0d\x01\x02\x03\x04\x11\x01\x02\x03\x04\x05\x06\x07\x08\x1b\x10\x05\x10\x05\x1c\x10\x05", []string{"1", "2 fixed64 0x807060504030201", "3", "2 varint 5"}, false},
	{"wire type 7 among others", "\x0f\x01\x10\x05\x10\x05", nil, true},
}

func TestFields(t *testing.T) {
	for _, c := range messages {
		t.Run(c.name, func(t *testing.T) {
			got, err := walk([]byte(c.message))
			if diff := cmp.Diff(c.want, got); diff != "" || (err != nil) != c.wantErr {
				t.Errorf("%x: error %v, want one: %v; fields -want +got: %s", c.message, err, c.wantErr, diff)
			}
			if stock := proto.Unmarshal([]byte(c.message), &emptypb.Empty{}); (stock != nil) != c.wantErr {
				t.Errorf("%x: the protobuf library says %v, want an error: %v", c.message, stock, c.wantErr)
			}
		})
	}
}

func TestFieldsStopsAtTheErrorOfItsCaller(t *testing.T) {
	calls := 0
	err := wire.Fields([]byte("\x08\x01\x10\x02\xff"), func(num protowire.Number, _ wire.Value) error {
		calls++
		if num == 2 {
			return fmt.Errorf("no more: %w", io.EOF)
		}
		return nil
	})
	if !errors.Is(err, io.EOF) || calls != 2 {
		t.Errorf("error %v after %d calls, want the caller's own after 2", err, calls)
	}
}

// FuzzFields holds the walk to the protobuf library, which takes the same bytes for a message of
// unknown fields.
func FuzzFields(f *testing.F) {
	for _, c := range messages {
		f.Add([]byte(c.message))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := walk(b)
		if stock := proto.Unmarshal(b, &emptypb.Empty{}); (err != nil) != (stock != nil) {
			t.Fatalf("%x: error %v, the protobuf library says %v", b, err, stock)
		}
		want, stockErr := walkStock(b)
		if diff := cmp.Diff(want, got); diff != "" || (err != nil) != (stockErr != nil) {
			t.Errorf("%x: error %v, want %v; fields -want +got: %s", b, err, stockErr, diff)
		}
	})
}

func TestAllocFields(t *testing.T) {
	b := []byte("\x0a\x04shop\x12\x03pay\x18\x05\x21\x01\x02\x03\x04\x05\x06\x07\x08\x2b\x2c")
	sum := 0
	allocs := testing.AllocsPerRun(100, func() {
		err := wire.Fields(b, func(num protowire.Number, v wire.Value) error {
			text, _ := v.String()
			sum += int(num) + len(text)
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	if allocs != 0 || sum != 101*(1+2+3+4+5+4+3) {
		t.Errorf("%v allocations, want 0; the fields come to %d, want %d", allocs, sum, 101*(1+2+3+4+5+4+3))
	}
}
