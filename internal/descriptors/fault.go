package descriptors

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// FaultError is one thing that is wrong with a file or an xDS resource.
type FaultError struct {
	Source string // path of the file inside the directory, or name of the resource
	Line   int    // from 1; 0 = not known
	Column int    // from 1; 0 = not known
	Path   string // of the descriptor, where there is no line: `descriptors[3].descriptors[0]`
	Reason string
}

func (f *FaultError) Error() string {
	var b strings.Builder
	b.WriteString(f.Source)
	if f.Line > 0 {
		fmt.Fprintf(&b, ": line %d", f.Line)
	}
	if f.Column > 0 {
		fmt.Fprintf(&b, ", column %d", f.Column)
	}
	if f.Path != "" {
		b.WriteString(": " + f.Path)
	}
	return b.String() + ": " + f.Reason
}

func (f *FaultError) compare(o *FaultError) int {
	return cmp.Or(cmp.Compare(f.Line, o.Line), cmp.Compare(f.Column, o.Column))
}

// maxFaults is how many faults of one source are named; the others are counted.
const maxFaults = 100

// faults collects what is wrong with one source.
type faults struct {
	source string
	named  []*FaultError
	more   int
}

func (f *faults) add(at pos, reason string) {
	f.put(&FaultError{Line: int(at.line), Column: int(at.column), Reason: reason})
}

// put takes a fault, unless it was named already: an alias repeats what it stands for.
func (f *faults) put(one *FaultError) {
	one.Source = f.source
	switch {
	case len(f.named) == maxFaults:
		f.more++
	case slices.ContainsFunc(f.named, func(had *FaultError) bool { return *had == *one }):
	default:
		f.named = append(f.named, one)
	}
}

// err joins the faults in the order of their places, each a [FaultError]; nil if there are none.
func (f *faults) err() error {
	slices.SortStableFunc(f.named, (*FaultError).compare)
	errs := make([]error, 0, len(f.named)+1)
	for _, one := range f.named {
		errs = append(errs, one)
	}
	if f.more > 0 {
		errs = append(errs, fmt.Errorf("%s: and %d more", f.source, f.more))
	}
	return errors.Join(errs...)
}

// cut shortens a text of the file to a length that fits a line.
func cut(s string) string {
	const longest = 64
	if len(s) <= longest {
		return s
	}
	return strings.ToValidUTF8(s[:longest], "") + "…"
}
