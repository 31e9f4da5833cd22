package main

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
)

// visible makes of a name, which a client of Envoy may have chosen, what a terminal shows and does
// not obey. What terminals do not agree on how wide it is goes too: what joins or colours others,
// flags, and more than two marks on one letter.
func visible(name string) string {
	if name == "" {
		return "-"
	}
	marks := 0
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Variation_Selector, r), r == '\u200d', r >= 0x1f3fb && r <= 0x1f3ff:
			return -1
		case unicode.Is(unicode.M, r):
			if marks++; marks > 2 {
				return -1
			}
			return r
		case !unicode.IsPrint(r), r >= 0x1f1e6 && r <= 0x1f1ff:
			marks = 0
			return unicode.ReplacementChar
		}
		marks = 0
		return r
	}, name)
}

// cutMiddle cuts what is wider than width in its middle, for names often differ at both ends.
func cutMiddle(s string, width int) string {
	if uniseg.StringWidth(s) <= width {
		return s
	}
	if width < 1 {
		return ""
	}
	head := upTo(s, width/2)
	var rest []string
	for g := uniseg.NewGraphemes(s[len(head):]); g.Next(); {
		rest = append(rest, g.Str())
	}
	room, tail := width-1-uniseg.StringWidth(head), ""
	for _, g := range slices.Backward(rest) {
		if room -= uniseg.StringWidth(g); room < 0 {
			break
		}
		tail = g + tail
	}
	return head + "…" + tail
}

// upTo is as much of the begin of s as fits.
func upTo(s string, width int) string {
	end := 0
	for g := uniseg.NewGraphemes(s); g.Next(); {
		if width -= g.Width(); width < 0 {
			break
		}
		_, end = g.Positions()
	}
	return s[:end]
}

// shortCount is a number in at most 6 characters.
func shortCount(n int64) string {
	if n < 1_000_000 {
		return strconv.FormatInt(n, 10)
	}
	f, unit := float64(n), ""
	for _, u := range []string{"k", "M", "G", "T", "P", "E"} {
		if f < 1000 {
			break
		}
		f, unit = f/1000, u
	}
	return fmt.Sprintf("%.*f%s", decimals(f, 2), f, unit)
}

// decimals is how many leave three digits that count, and no more than most.
func decimals(f float64, most int) int {
	switch {
	case f < 9.995:
		return most
	case f < 99.95:
		return min(most, 1)
	}
	return 0
}

// shortMS is a number of milliseconds in at most 6 characters; - where there is none.
func shortMS(ms *float64) string {
	switch {
	case ms == nil:
		return "-"
	case *ms >= 99_999_000:
		return fmt.Sprintf("%.0fh", min(*ms/3_600_000, 99_999))
	case *ms >= 99_999:
		return fmt.Sprintf("%.0fs", *ms/1000)
	}
	return strconv.FormatFloat(*ms, 'f', decimals(*ms, 2), 64)
}

// shortShare is a share as per cent, never rounded up to 100.
func shortShare(share *float64) string {
	switch {
	case share == nil:
		return "-"
	case *share >= 1:
		return "100%"
	}
	return fmt.Sprintf("%.1f%%", math.Floor(*share*1000)/10)
}

// shortDuration is a duration without parts that are 0.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

func orLowest(f *float64) float64 {
	if f == nil {
		return -1
	}
	return *f
}

func orHighest(f *float64) float64 {
	if f == nil {
		return 2
	}
	return *f
}
