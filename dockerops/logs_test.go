package dockerops

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitLines(t *testing.T) {
	for _, test := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"\n", nil},
		{"one", []string{"one"}},
		{"one\ntwo\n", []string{"one", "two"}},
		{"one\r\n\r\ntwo", []string{"one", "", "two"}},
		{"\xff\xfe ok", []string{"\uFFFD ok"}},
	} {
		if got := splitLines(test.text); !slices.Equal(got, test.want) {
			t.Errorf("%q became %q, want %q", test.text, got, test.want)
		}
	}
}

// The driver is one that writes in the background: what a container said last
// must be there nevertheless once it has ended.
func TestTheLastWordsOfAContainerAreThere(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	for range 5 {
		spec := testSpec(t)
		spec.Env["TEST_MODE"] = "exit"
		id, err := c.Create(t.Context(), spec)
		must(t, err)
		must(t, c.Start(t.Context(), id))
		eventually(t, "it ends", func() bool {
			got, err := c.Inspect(t.Context(), id)
			return err == nil && !got.Running
		})
		lines, err := c.Logs(t.Context(), id, 100)
		must(t, err)
		if len(lines) != 2 || !strings.Contains(lines[1], "giving up") {
			t.Errorf("lines %q", lines)
		}
	}
}

func TestLogsOfARunningContainer(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	id, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, c.Start(t.Context(), id))
	eventually(t, "it says that it listens", func() bool {
		lines, err := c.Logs(t.Context(), id, 1)
		must(t, err)
		return len(lines) == 1 && strings.Contains(lines[0], "listening")
	})
	for _, none := range []int{0, -1} {
		if lines, err := c.Logs(t.Context(), id, none); err != nil || len(lines) != 0 {
			t.Errorf("%d lines asked, got %q (%v)", none, lines, err)
		}
	}
}
