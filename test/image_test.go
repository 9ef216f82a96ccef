package test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/image"
)

// buildServerImage makes an image of ./testserver alone: FROM scratch, so that
// no registry is needed.
func buildServerImage(tag string) error {
	binary := filepath.Join(runDir, "testserver")
	cmd := exec.Command("go", "build", "-o", binary, "./testserver")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building testserver: %w\n%s", err, out)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	files := new(bytes.Buffer)
	if err := writeTar(files, map[string][]byte{
		"Dockerfile": []byte("FROM scratch\nCOPY testserver /testserver\nENTRYPOINT [\"/testserver\"]\n"),
		"testserver": program,
	}); err != nil {
		return err
	}
	return buildImage(tag, files)
}

func writeTar(w io.Writer, files map[string][]byte) error {
	archive := tar.NewWriter(w)
	for name, content := range files {
		if err := archive.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return err
		}
		if _, err := archive.Write(content); err != nil {
			return err
		}
	}
	return archive.Close()
}

func buildImage(tag string, files io.Reader) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	res, err := engine.ImageBuild(ctx, files, build.ImageBuildOptions{Tags: []string{tag}, Remove: true, ForceRemove: true})
	if err != nil {
		return fmt.Errorf("building image %s: %w", tag, err)
	}
	defer res.Body.Close()
	// The engine reports a failed build inside a stream that itself succeeds.
	for lines := json.NewDecoder(res.Body); ; {
		var line struct{ Error string }
		if err := lines.Decode(&line); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("building image %s: %w", tag, err)
		}
		if line.Error != "" {
			return fmt.Errorf("building image %s: %s", tag, line.Error)
		}
	}
}

func removeImage(tag string) {
	_, _ = engine.ImageRemove(context.Background(), tag, image.RemoveOptions{Force: true, PruneChildren: true})
}
