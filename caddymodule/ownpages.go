package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// pageNames are those of the pages that operators may replace.
var pageNames = []string{startingName, sleepingName, stoppedName, failedName, unknownName, errorName}

// maxPageFile bounds a file of theirs, in bytes.
const maxPageFile = 1 << 20

// ownPages are an operator's pages, in place of ours of the same names: files
// of one folder, `starting.html` and so on, templates as html/template has
// them, with a [Page] as their data. Nil has none.
type ownPages struct {
	pages map[string]*ownPage
}

type ownPage struct {
	file     string
	template *template.Template
	failed   sync.Once // has been told
}

// loadPages reads and checks the pages in dir; an empty one has none. Each is
// made once, of made-up data, since that alone finds all faults.
func loadPages(dir string) (*ownPages, error) {
	if dir == "" {
		return nil, nil
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	own := &ownPages{pages: map[string]*ownPage{}}
	for _, file := range files {
		name, isPage := strings.CutSuffix(file.Name(), ".html")
		if !isPage || file.IsDir() {
			continue
		}
		path := filepath.Join(dir, file.Name())
		if !slices.Contains(pageNames, name) {
			return nil, fmt.Errorf("%s is none of the pages, which are %s.html", path, strings.Join(pageNames, ".html, "))
		}
		if own.pages[name], err = loadPage(name, path); err != nil {
			return nil, err
		}
	}
	if len(own.pages) == 0 {
		return nil, fmt.Errorf("there is no page in %s: put %s.html there, or some of them", dir, strings.Join(pageNames, ".html, "))
	}
	return own, nil
}

func loadPage(name, path string) (*ownPage, error) {
	text, err := readBounded(path)
	if err != nil {
		return nil, err
	}
	parsed, err := template.New(filepath.Base(path)).Parse(text)
	if err == nil {
		err = parsed.Execute(io.Discard, samplePage(name))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &ownPage{file: path, template: parsed}, nil
}

func readBounded(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxPageFile+1))
	if err == nil && len(text) > maxPageFile {
		err = errors.New("it is larger than 1 MiB, which a page may have")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return string(text), nil
}

// samplePage has something in every field.
func samplePage(name string) Page {
	return Page{
		Name: name, Status: instance.Failed, Reason: "exited 1", Phase: instance.PhaseStarting,
		Title: "A title", Text: "A text.", Refresh: 2, Events: eventsPath, Start: startPath, Embedded: true, Unsent: true,
		Log:   slices.Repeat([]string{"a line"}, instance.ShownLines),
		Ports: []instance.OpenPort{{Port: 3000, URL: "https://3000-prefix.example.com"}}, Partial: true,
	}
}

// render makes the operator's page; ok is false where there is none, or it
// cannot be made, which the log then tells the first time.
func (o *ownPages) render(page Page, log *zap.Logger) (body []byte, ok bool) {
	if o == nil || o.pages[page.Name] == nil {
		return nil, false
	}
	own := o.pages[page.Name]
	var made bytes.Buffer
	if err := own.template.Execute(&made, page); err != nil {
		own.failed.Do(func() {
			log.Error("a page of yours cannot be made: the built-in one is shown in its place", zap.String("file", own.file), zap.Error(err))
		})
		return nil, false
	}
	return made.Bytes(), true
}
