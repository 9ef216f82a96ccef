package dockerops

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// registry is a registry with one image, of one small file. Docker takes any
// on 127.0.0.0/8 without TLS.
type registry struct {
	image string // name of the image, with the registry's address
	gate  chan struct{}

	mu        sync.Mutex
	blobs     map[string][]byte // by digest, the manifest too
	manifest  string            // digest of what the tag means now
	manifests int               // how often it was asked for
	waiting   chan struct{}     // told when a pull waits at the gate
}

const (
	manifestType = "application/vnd.docker.distribution.manifest.v2+json"
	configType   = "application/vnd.docker.container.image.v1+json"
	layerType    = "application/vnd.docker.image.rootfs.diff.tar"
)

// newRegistry begins with an image of its own and an open gate.
func newRegistry(t *testing.T) *registry {
	t.Helper()
	r := &registry{blobs: map[string][]byte{}, waiting: make(chan struct{}, 100), gate: make(chan struct{})}
	close(r.gate)
	r.push(t)
	server := httptest.NewServer(http.HandlerFunc(r.serve))
	t.Cleanup(server.Close)
	r.image = strings.TrimPrefix(server.URL, "http://") + "/team/app:1"
	return r
}

// shut has pulls wait for their layers until the gate is opened.
func (r *registry) shut(t *testing.T) (open func()) {
	t.Helper()
	gate := make(chan struct{})
	r.mu.Lock()
	r.gate = gate
	r.mu.Unlock()
	open = sync.OnceFunc(func() { close(gate) })
	t.Cleanup(open)
	return open
}

// push makes the tag mean a new image.
func (r *registry) push(t *testing.T) {
	t.Helper()
	archive, err := tarOf(map[string][]byte{"file": []byte(rand.Text())})
	must(t, err)
	layer := new(bytes.Buffer)
	_, err = layer.ReadFrom(archive)
	must(t, err)
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux",
		"config": map[string]any{"Cmd": []string{"/file"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{digest(layer.Bytes())}},
	})
	must(t, err)
	part := func(kind string, content []byte) map[string]any {
		return map[string]any{"mediaType": kind, "size": len(content), "digest": digest(content)}
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": manifestType,
		"config": part(configType, config), "layers": []any{part(layerType, layer.Bytes())},
	})
	must(t, err)
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, content := range [][]byte{layer.Bytes(), config, manifest} {
		r.blobs[digest(content)] = content
	}
	r.manifest = digest(manifest)
}

func digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }

func (r *registry) serve(w http.ResponseWriter, request *http.Request) {
	path, wanted := request.URL.Path, request.URL.Path[strings.LastIndex(request.URL.Path, "/")+1:]
	r.mu.Lock()
	isManifest := strings.Contains(path, "/manifests/")
	if isManifest && wanted == "1" {
		wanted = r.manifest
		r.manifests++
	}
	content, known := r.blobs[wanted]
	gate := r.gate
	r.mu.Unlock()
	switch {
	case path == "/v2/":
	case !known:
		w.WriteHeader(http.StatusNotFound)
	case isManifest:
		w.Header().Set("Content-Type", manifestType)
		w.Header().Set("Docker-Content-Digest", wanted)
		_, _ = w.Write(content)
	default:
		select {
		case <-gate:
		default:
			r.waiting <- struct{}{}
			<-gate
		}
		_, _ = w.Write(content)
	}
}

// asked counts the pulls so far.
func (r *registry) asked() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.manifests
}
