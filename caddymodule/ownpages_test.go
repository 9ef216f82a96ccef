package caddymodule

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// pagesDir makes a folder of pages.
func pagesDir(t *testing.T, pages map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range pages {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestOperatorsHaveTheirOwnPages(t *testing.T) {
	dir := pagesDir(t, map[string]string{
		"starting.html": `<h1>Brewing {{.Status}} {{.Phase}} {{.Refresh}}</h1><a href="{{.Events}}">`,
		"failed.html":   `<h1>Broken: {{.Reason}}</h1>{{range .Log}}<i>{{.}}</i>{{end}}<form action="{{.Start}}" method=post>`,
		"unknown.html":  `<h1>Nothing but us</h1>`,
		"readme.txt":    `no page`,
	})
	s := startServer(t, config{sandbox: "defaults {\n pages " + dir + "\n page_logs anyone\n }"})
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	s.fails(t, "fellover")
	s.create(t, "halted12")
	if _, err := inForce.top().manager().Stop(t.Context(), "halted12"); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		prefix string
		status int
		want   []string
	}{
		{"slowpoke", 503, []string{"<h1>Brewing creating starting 2</h1>", `href="` + eventsPath + `"`}},
		{"fellover", 503, []string{"<h1>Broken: exited 3</h1>", "<i>testserver: giving up", `action="` + startPath + `"`}},
		{"whoknows", 404, []string{"<h1>Nothing but us</h1>"}},
		{"halted12", 503, []string{"Its owner has stopped this sandbox", "<style>"}}, // ours
	} {
		res := s.get(t, hostOf(row.prefix), "/", asBrowser)
		body := read(t, res)
		ours := strings.Contains(body, "<style>")
		if policy := res.Header.Get("Content-Security-Policy"); strings.HasPrefix(policy, "default-src") != ours {
			t.Errorf("%s: policy %q", row.prefix, policy)
		}
		if res.StatusCode != row.status || res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", row.prefix, res.StatusCode, res.Header)
		}
		for _, want := range row.want {
			if !strings.Contains(body, want) {
				t.Errorf("%s: no %s in %s", row.prefix, want, body)
			}
		}
	}
}

func TestPagesThatDoNotWorkAreRefused(t *testing.T) {
	for name, row := range map[string]struct {
		pages map[string]string
		want  string
	}{
		"no template":               {map[string]string{"failed.html": "<p>\n<p>\n{{if}}\n"}, "failed.html:3"},
		"an unknown field":          {map[string]string{"failed.html": "<p>\n{{.Nothing}}"}, "failed.html:2"},
		"a place for no text":       {map[string]string{"failed.html": "<p>\n<a href='{{.Text}}"}, "failed.html"},
		"a name that is none":       {map[string]string{"faild.html": ""}, "faild.html is none of the pages"},
		"no page":                   {map[string]string{"readme.txt": ""}, "there is no page in"},
		"more than a page may have": {map[string]string{"error.html": strings.Repeat("x", maxPageFile+1)}, "larger than 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := pagesDir(t, row.pages)
			err := newServer(t).load(t, config{templates: webTemplate("pages " + dir)})
			if err == nil || !strings.Contains(err.Error(), row.want) || !strings.Contains(err.Error(), `template "web": pages: `) || !strings.Contains(err.Error(), dir) {
				t.Errorf("got %v, want %q in it", err, row.want)
			}
		})
	}
	missing := filepath.Join(t.TempDir(), "missing")
	if err := newServer(t).load(t, config{templates: webTemplate("pages " + missing)}); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a folder that is missing: %v", err)
	}
}

func TestAPageThatCannotBeMadeIsOursAndToldOnce(t *testing.T) {
	dir := pagesDir(t, map[string]string{"starting.html": `<h1>{{index .Log 3}}</h1>`})
	s := startServer(t, config{templates: webTemplate("pages " + dir)})
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	for range 3 {
		s.page(t, hostOf("slowpoke"), "/", asBrowser, http.StatusServiceUnavailable)
	}
	if n := strings.Count(s.log(t), "a page of yours cannot be made"); n != 1 {
		t.Errorf("told %d times, want once", n)
	}
	if !strings.Contains(s.log(t), fmt.Sprintf("%s/starting.html", dir)) {
		t.Error("the log does not name the file")
	}
}
