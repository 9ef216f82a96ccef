package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func TestAnInstanceIsDurableBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	needStrace(t)
	c := prepareCaddy(t, options{})
	trace := filepath.Join(c.dir, "trace")
	// -D keeps strace out of the way: the process that we start is Caddy.
	c.Wrap = []string{"strace", "-D", "-f", "--seccomp-bpf", "-y", "-s", "200", "-o", trace,
		"-e", "trace=fsync,fdatasync,rename,renameat,renameat2,write"}
	c.mustStart(t)
	c.admin.create(t, createRequest{Prefix: "durableone"})

	// The create writes twice: the intent, then the result, which counts.
	file := regexp.QuoteMeta(filepath.Join(c.StateDir, ".instances.json"))
	dir := regexp.QuoteMeta(c.StateDir)
	// Where another thread calls something meanwhile, strace breaks the line off.
	const ended = `>(\)| <unfinished)`
	steps := []string{
		`write\(\d+<` + file + `[^>]*>, .*`,
		`f(data)?sync\(\d+<` + file + `[^>]*` + ended,
		`rename\w*\(.*"` + file + `"`,
		`fsync\(\d+<` + dir + ended,
	}
	var calls string
	eventually(t, 10*time.Second, func() error {
		content, err := os.ReadFile(trace)
		if calls = string(content); err == nil && !strings.Contains(calls, "HTTP/1.1 201 Created") {
			err = fmt.Errorf("the trace lacks the answer")
		}
		return err
	})
	before, _, _ := strings.Cut(calls, "HTTP/1.1 201 Created")
	rest := before
	for round := range 2 {
		for _, step := range steps {
			at := regexp.MustCompile(step).FindStringIndex(rest)
			if at == nil {
				t.Fatalf("before the answer, write %d lacks %s:\n%s", round+1, step, linesWith(before, c.StateDir))
			}
			rest = rest[at[1]:]
		}
	}
}

func linesWith(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}
