package test

import (
	"context"
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestALivePrefixGetsACertificateOnDemand(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "tlsalive"})
	host := "tlsalive." + domain
	if files := c.certificateFiles(t, host); len(files) != 0 {
		t.Fatalf("there is a certificate before anybody asked: %v", files)
	}
	conn, err := c.visitor.handshake(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; len(names) != 1 || names[0] != host {
		t.Errorf("the certificate is for %v, want %s alone", names, host)
	}
	if len(c.certificateFiles(t, host)) == 0 {
		t.Error("no certificate was stored")
	}
}

func TestAStoppedInstanceKeepsItsRightToACertificate(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "tlsstopped"})
	c.api.act(t, "tlsstopped", "stop")
	if page := c.visitor.get(t, made.URL); page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("%d, want 503 over TLS", page.StatusCode)
	}
}

func TestUnknownNamesGetNoCertificate(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "tlsdeleted"})
	c.api.delete(t, "tlsdeleted")
	for _, host := range []string{
		"tlsunknown." + domain,
		"tlsdeleted." + domain,
		"two.labels." + domain,
		"short." + domain,
		domain,
		"elsewhere.localhost",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := c.visitor.handshake(ctx, host)
		cancel()
		if err == nil {
			t.Errorf("%s: the handshake succeeded", host)
			conn.Close()
		}
		if files := c.certificateFiles(t, host); len(files) != 0 {
			t.Errorf("%s: certificate files %v", host, files)
		}
	}
}

// certificateFiles lists what Caddy's storage holds under the name of host.
func (c *caddyServer) certificateFiles(t testing.TB, host string) []string {
	t.Helper()
	var found []string
	err := filepath.WalkDir(c.dataDir(), func(path string, entry fs.DirEntry, err error) error {
		// Caddy's own cleaning may remove files while we walk.
		if err == nil && !entry.IsDir() && strings.HasPrefix(entry.Name(), host+".") {
			found = append(found, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
