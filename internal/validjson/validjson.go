// Package validjson finds its way in JSON that encoding/json has found valid: so nothing that it looks
// for is missing. On other bytes it may panic.
//
//	{"a": [1, 2]}
//	 ^ ^  ^     ^
//	 | |  |     ValueEnd of the list, less one
//	 | |  SkipSpace after the colon
//	 | TextEnd of the name, less one
//	 a string, at which TextEnd begins
package validjson

// SkipSpace returns where the white space ends that may begin at i.
func SkipSpace(b []byte, i int) int {
	for b[i] == ' ' || b[i] == '\t' || b[i] == '\r' || b[i] == '\n' {
		i++
	}
	return i
}

// ValueEnd returns where the value ends that begins at i.
func ValueEnd(b []byte, i int) int {
	switch b[i] {
	case '"':
		return TextEnd(b, i)
	case '{', '[':
		return nestedEnd(b, i)
	}
	for b[i] > ' ' && b[i] != ',' && b[i] != '}' && b[i] != ']' {
		i++
	}
	return i
}

// TextEnd returns where the string ends that begins at i.
func TextEnd(b []byte, i int) int {
	for i++; b[i] != '"'; i++ {
		if b[i] == '\\' {
			i++
		}
	}
	return i + 1
}

func nestedEnd(b []byte, i int) int {
	for depth := 0; ; {
		switch b[i] {
		case '"':
			i = TextEnd(b, i)
			continue
		case '{', '[':
			depth++
		case '}', ']':
			depth--
		}
		if i++; depth == 0 {
			return i
		}
	}
}
