package instance

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"
)

func TestLinesAreMadePrintable(t *testing.T) {
	for _, row := range []struct{ line, want string }{
		{"", ""},
		{"plain text, äöü 漢字 🚀", "plain text, äöü 漢字 🚀"},
		{"ends\r\n", "ends"},
		{"\x1b[32m✓\x1b[0m ready in \x1b[1m412\x1b[22m ms", "✓ ready in 412 ms"},
		{"\x1b[38;2;10;20;30mtrue colour\x1b[m", "true colour"},
		{"\x1b]0;a window's title\x07text", "text"},
		{"\x1b]8;;https://example.com\x1b\\a link\x1b]8;;\x1b\\", "a link"},
		{"\x1b(Bcharset", "charset"},
		{"\x1bMup", "up"},
		{"cut \x1b[3", "cut "},
		{"cut \x1b", "cut "},
		{"no end \x1b]0;title", "no end "},
		{"10%\r50%\r100%", "100%"},
		{"a\tb", "a b"},
		{"nul\x00bell\x07del\x7f", "nulbelldel"},
		{"left \u202egnp.exe", "left gnp.exe"},
		{"isolate \u2066x\u2069 \u200bzero", "isolate x zero"},
		{"<script>alert(1)</script>", "<script>alert(1)</script>"},
		{"\u009b31mC1", "31mC1"},
		{"not \xff\xfe text", "not \ufffd\ufffd text"},
		{strings.Repeat("ä", 500), strings.Repeat("ä", 500)},
		{strings.Repeat("ä", 501), strings.Repeat("ä", 500) + "…"},
	} {
		if got := Printable(row.line); got != row.want {
			t.Errorf("%q became %q, want %q", row.line, got, row.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, line := range []string{"\x1b[31mred", "\x1b]0;t\x07x", "\x1b", "a\rb", "\x1b\x1b[", "\xff\x1b(\u202e"} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		got := Printable(line)
		if !utf8.ValidString(got) || utf8.RuneCountInString(got) > maxPrintable+1 {
			t.Errorf("%q became %q", line, got)
		}
		for _, c := range got {
			if !unicode.IsPrint(c) {
				t.Errorf("%q became %q, with %q in it", line, got, c)
			}
		}
		if again := Printable(got); again != got && utf8.RuneCountInString(got) <= maxPrintable {
			t.Errorf("%q became %q, and that %q", line, got, again)
		}
	})
}
