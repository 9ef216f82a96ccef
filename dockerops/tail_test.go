package dockerops

import (
	"slices"
	"strings"
	"testing"
)

func TestLinesAreToldHoweverTheyCome(t *testing.T) {
	long := strings.Repeat("x", maxTailLine+100)
	for _, row := range []struct {
		writes []string
		want   []string
	}{
		{nil, nil},
		{[]string{"one\ntwo\n"}, []string{"one", "two"}},
		{[]string{"o", "n", "e\r", "\n", "\ntwo"}, []string{"one", "", "two"}},
		{[]string{"\xff\n"}, []string{"\uFFFD"}},
		{[]string{long, long, "\nnext\n"}, []string{long[:maxTailLine], "next"}},
	} {
		var told []string
		w := &lineWriter{tell: func(line string) { told = append(told, line) }}
		for _, p := range row.writes {
			if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatalf("wrote %d, %v", n, err)
			}
		}
		w.end()
		if !slices.Equal(told, row.want) {
			t.Errorf("of %.60q came %.60q", row.writes, told)
		}
	}
}
