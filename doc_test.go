package caddysandbox

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// With two doc comments in one package the readers of one never see the other;
// with none they have nowhere to start.
func TestEveryPackageHasExactlyOneDocComment(t *testing.T) {
	packages, err := goFiles(".")
	if err != nil {
		t.Fatal(err)
	}
	if len(packages) < 2 {
		t.Fatalf("found only %d packages below the module's root", len(packages))
	}
	for dir, files := range packages {
		documented, err := withDocComment(files)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case len(documented) != 1:
			t.Errorf("package in %s has %d doc comments %v; want one, in doc.go", dir, len(documented), documented)
		case len(files) > 1 && filepath.Base(documented[0]) != "doc.go":
			t.Errorf("package in %s has its doc comment in %s; want it in doc.go", dir, documented[0])
		}
	}
}

// goFiles lists the Go files below root by folder, tests left out.
func goFiles(root string) (map[string][]string, error) {
	byFolder := map[string][]string{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch name := entry.Name(); {
		case entry.IsDir():
			if name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".") && path != root {
				return filepath.SkipDir
			}
		case strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go"):
			byFolder[filepath.Dir(path)] = append(byFolder[filepath.Dir(path)], path)
		}
		return nil
	})
	return byFolder, err
}

// withDocComment returns those of files whose package clause has a comment.
func withDocComment(files []string) ([]string, error) {
	var documented []string
	for _, path := range files {
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.PackageClauseOnly|parser.ParseComments)
		if err != nil {
			return nil, err
		}
		if file.Doc.Text() != "" {
			documented = append(documented, path)
		}
	}
	slices.Sort(documented)
	return documented, nil
}
