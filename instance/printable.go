package instance

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPrintable bounds a line that people are shown, in characters.
const maxPrintable = 500

// Printable makes a line of a container's output fit to be shown: without the
// colours and cursor movements of terminals, without control characters and
// those that change the direction of what follows, and cut after 500
// characters. Of a line that was written over and over, as progress bars are,
// the last state is left. It is no HTML: whoever puts it there escapes it.
func Printable(line string) string {
	line = strings.TrimRight(line, "\r\n")
	var text strings.Builder
	written := 0
	for line != "" {
		if skip := escapeLen(line); skip > 0 {
			line = line[skip:]
			continue
		}
		c, size := utf8.DecodeRuneInString(line)
		line = line[size:]
		switch {
		case c == '\r':
			text.Reset()
			written = 0
			continue
		case c == '\t':
			c = ' '
		case !unicode.IsPrint(c):
			continue
		}
		if written++; written <= maxPrintable {
			text.WriteRune(c)
		}
	}
	if written > maxPrintable {
		text.WriteRune('…')
	}
	return text.String()
}

const (
	escape = '\x1b'
	bell   = '\a'
)

// escapeLen is the length of the sequence for terminals that s begins with, as
// ECMA-48 has them; zero: it begins with none. One that has no end takes the
// rest.
func escapeLen(s string) int {
	switch {
	case s[0] != escape:
		return 0
	case len(s) == 1:
		return 1
	}
	switch s[1] {
	case '[': // ends with a letter or the like
		for i := 2; i < len(s); i++ {
			if s[i] >= '@' && s[i] <= '~' {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', 'X', '^', '_': // a text, such as a window's title or a link's target
		return textLen(s)
	}
	i := 1
	for i < len(s) && s[i] >= ' ' && s[i] <= '/' { // which character set, say
		i++
	}
	if i == len(s) || s[i] > '~' {
		return i // its end is missing: what follows is text
	}
	return i + 1
}

// textLen is the length of a sequence that holds a text.
func textLen(s string) int {
	for i := 2; i < len(s); i++ {
		switch {
		case s[i] == bell:
			return i + 1
		case s[i] == escape && i+1 < len(s) && s[i+1] == '\\':
			return i + 2
		}
	}
	return len(s)
}
