package dockerops

import (
	"maps"
	"math"
	"path"
	"slices"
	"strconv"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/mount"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/go-connections/nat"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// What no template changes. docker-compose.yml says the same (compose.go).
const (
	// stopGrace is the time from SIGTERM to SIGKILL, in seconds.
	stopGrace = 5
	// cpuShares is a quarter of the default: under contention, what else runs
	// on the host comes first.
	cpuShares = 256
	// oomScoreAdj has the kernel end a sandbox before Caddy or Docker when the
	// host runs out of memory.
	oomScoreAdj = 500
	// maxOpenFiles is plenty for a dev server, which watches with inotify, and
	// far from what could starve the host.
	maxOpenFiles = 8192

	hostIP    = "127.0.0.1"
	logDriver = "local"
)

// logOptions cap what a container can write to the host's disk: with Docker's
// default, a flood of output fills 185 MB in 8 s. Non-blocking: a container
// whose output is not taken loses lines and does not stand still.
var logOptions = map[string]string{
	"max-size":        "5m",
	"max-file":        "2",
	"mode":            "non-blocking",
	"max-buffer-size": "1m",
}

// blueprint is a container as the engine's API wants it.
type blueprint struct {
	Config     *container.Config
	HostConfig *container.HostConfig
	Networking *network.NetworkingConfig
}

// blueprint is the whole of what spec's container may be and do. It is built
// from nothing, never from what a caller sent: a field that is not here has
// the engine's default, and no caller can reach it. img is that of spec.Image,
// hash the one that Compose makes of the service.
func (c *Client) blueprint(spec instance.Spec, img image, hash string) blueprint {
	port := nat.Port(strconv.Itoa(spec.ContainerPort) + "/tcp")
	return blueprint{
		Config: &container.Config{
			Image:        spec.Image,
			Cmd:          spec.Command, // nil: the image's own
			Env:          environment(spec.Env),
			WorkingDir:   spec.WorkDir,
			User:         spec.User,
			Labels:       c.containerLabels(spec, img, hash),
			ExposedPorts: nat.PortSet{port: {}},
			StopTimeout:  new(stopGrace),
		},
		HostConfig: &container.HostConfig{
			NetworkMode:   container.NetworkMode(c.networkName()),
			PortBindings:  nat.PortMap{port: {{HostIP: hostIP, HostPort: strconv.Itoa(spec.Port)}}},
			Init:          new(true), // PID 1 that passes signals on and reaps
			RestartPolicy: container.RestartPolicy{Name: container.RestartPolicyDisabled},
			CapDrop:       []string{"ALL"},
			SecurityOpt:   []string{"no-new-privileges:true"},
			OomScoreAdj:   oomScoreAdj,
			Mounts:        mounts(spec),
			LogConfig:     container.LogConfig{Type: logDriver, Config: maps.Clone(logOptions)},
			Resources: container.Resources{
				Memory:     spec.Memory,
				MemorySwap: spec.Memory, // memory and swap together: no swap
				NanoCPUs:   nanoCPUs(spec.CPUs),
				CPUShares:  cpuShares,
				PidsLimit:  new(spec.Pids),
				Ulimits: []*container.Ulimit{
					{Name: "core", Soft: 0, Hard: 0},
					{Name: "nofile", Soft: maxOpenFiles, Hard: maxOpenFiles},
				},
			},
		},
		Networking: &network.NetworkingConfig{
			EndpointsConfig: map[string]*network.EndpointSettings{c.networkName(): {}},
		},
	}
}

// mounts are the folder that late variables come in, which the container can
// read and nothing more.
func mounts(spec instance.Spec) []mount.Mount {
	if spec.LateEnv == "" {
		return nil
	}
	return []mount.Mount{{Type: mount.TypeBind, Source: spec.LateDir, Target: path.Dir(spec.LateEnv), ReadOnly: true}}
}

// containerLabels are sandboxLabels and those that make the container one of
// Compose's, as if `docker compose up` had made it from docker-compose.yml.
func (c *Client) containerLabels(spec instance.Spec, img image, hash string) map[string]string {
	labels := sandboxLabels(spec, c.owner)
	maps.Copy(labels, map[string]string{
		composeProject:    c.project,
		composeService:    spec.BornFor(),
		composeOneoff:     "False",
		composeNumber:     "1",
		composeConfigHash: hash,
		composeImage:      img.id,
	})
	return labels
}

// environment is env as NAME=value, in order.
func environment(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list
}

func nanoCPUs(cpus float64) int64 { return int64(math.Round(cpus * 1e9)) }

// cpusOf undoes nanoCPUs, to a millionth of a CPU: Compose counts with 32 bits.
func cpusOf(nano int64) float64 { return math.Round(float64(nano)/1e3) / 1e6 }
