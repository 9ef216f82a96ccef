package test

import (
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"
)

// askPort asks the port that an instance is published on, past every proxy.
func askPort(port int, path string) (body string, err error) {
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("port %d answers %s", port, res.Status)
	}
	return string(content), err
}

// awaitPort waits until the server of prefix answers at its published port.
func awaitPort(t testing.TB, port int, prefix string) {
	t.Helper()
	eventually(t, 10*time.Second, func() error {
		body, err := askPort(port, "/")
		if want := "hello from " + prefix + "\n"; err == nil && body != want {
			err = fmt.Errorf("port %d says %q, want %q", port, body, want)
		}
		return err
	})
}
