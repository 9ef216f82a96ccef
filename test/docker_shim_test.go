package test

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// dockerShim is a socket in front of the Docker Engine that can fall silent:
// it then accepts and reads, and never answers.
type dockerShim struct {
	silent atomic.Bool
	socket net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

// startShim opens a shim at path. It forwards until it is told to be silent.
func startShim(t testing.TB, path string) *dockerShim {
	t.Helper()
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := &dockerShim{socket: socket}
	t.Cleanup(func() {
		socket.Close()
		s.cut()
	})
	go s.serve()
	return s
}

func (s *dockerShim) serve() {
	for {
		conn, err := s.socket.Accept()
		if err != nil {
			return
		}
		s.keep(conn)
		if s.silent.Load() {
			go func() { _, _ = io.Copy(io.Discard, conn) }()
		} else {
			go s.forward(conn)
		}
	}
}

func (s *dockerShim) forward(conn net.Conn) {
	network, address, _ := strings.Cut(engine.DaemonHost(), "://")
	docker, err := net.Dial(network, address)
	if err != nil {
		conn.Close()
		return
	}
	s.keep(docker)
	go func() {
		_, _ = io.Copy(docker, conn)
		docker.Close()
	}()
	_, _ = io.Copy(conn, docker)
	conn.Close()
}

func (s *dockerShim) keep(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, conn)
}

// fallSilent answers nothing from now on, on old connections neither.
func (s *dockerShim) fallSilent() {
	s.silent.Store(true)
	s.cut()
}

// speak forwards again.
func (s *dockerShim) speak() {
	s.silent.Store(false)
	s.cut()
}

func (s *dockerShim) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
	s.conns = nil
}

// socketPath is a place for a socket. It is short: the kernel allows about 100
// bytes, which a folder named after the test may exceed.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sbx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "docker.sock")
}
