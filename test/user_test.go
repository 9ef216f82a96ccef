package test

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

// nobody is the id of the user and group that own nothing.
const nobody = 65534

// needRoot skips a test that mounts file systems or changes users.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: mounts a file system or runs Caddy as another user")
	}
}

// nobodyWithDocker is the user nobody in the group that may use Docker.
func nobodyWithDocker() *syscall.Credential {
	who := &syscall.Credential{Uid: nobody, Gid: nobody}
	var socket syscall.Stat_t
	if syscall.Stat(strings.TrimPrefix(engine.DaemonHost(), "unix://"), &socket) == nil {
		who.Groups = append(who.Groups, socket.Gid)
	}
	return who
}
