package main

import (
	"context"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

func main() {
	term, _ := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT) // until the process ends
	env := environment(os.Environ())
	dir, _ := os.Getwd()
	server := devserver.Server{
		Env:      env,
		Process:  devserver.Process{PID: os.Getpid(), UID: os.Getuid(), Dir: dir, Args: os.Args[1:]},
		Listen:   func() (net.Listener, error) { return net.Listen("tcp", "0.0.0.0:"+devserver.Port(env)) },
		ListenOn: func(address string) (net.Listener, error) { return net.Listen("tcp", address) },
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
	}
	os.Exit(server.Run(context.Background(), term.Done()))
}

func environment(assignments []string) map[string]string {
	env := make(map[string]string, len(assignments))
	for _, assignment := range assignments {
		name, value, _ := strings.Cut(assignment, "=")
		env[name] = value
	}
	return env
}
