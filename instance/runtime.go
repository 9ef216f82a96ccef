package instance

import (
	"context"
	"net/netip"
	"time"
)

// Runtime is what this package needs from a container engine. Package
// dockerops implements it; instancetest has one in memory and the contract
// suite that both must pass.
//
// Methods are safe for concurrent use and bound each engine call by a deadline
// of their own, so they return even if ctx has none and the engine hangs; Tail
// and Watch last.
// They are idempotent: starting a running container, stopping a stopped one
// and removing one that is gone are no errors. ref is a container id or a
// [ContainerName]; a container that is missing (except for Remove), or that is
// not this manager's, is reported as [NotFound] and never touched. Errors are
// *[Error] with the kinds NotFound, PortTaken, EngineFailed, EngineDown,
// Timeout (also when ctx ended) or ImageMissing. After a Timeout the outcome
// is unknown: inspect, don't guess.
type Runtime interface {
	// Create makes the container of spec, named ContainerName(spec.Prefix) but
	// otherwise that of spec.BornFor(),
	// and does not start it. It gets the image and the network ready first,
	// the image by spec.Pull. A container of that name which this manager
	// left behind is replaced; somebody else's is EngineFailed, by name.
	Create(ctx context.Context, spec Spec) (id string, err error)

	// Start returns once the engine accepted the start; it does not wait for
	// the dev server to listen. PortTaken if somebody else has the host port;
	// the container then stays behind, created.
	Start(ctx context.Context, ref string) error

	// Stop asks the container to end (SIGTERM), kills it after 5 s, and
	// returns when it has ended.
	Stop(ctx context.Context, ref string) error

	// Pause freezes a running container; one that is paused is left as it is.
	// Start, Stop and Remove work on a paused one.
	Pause(ctx context.Context, ref string) error

	// Remove kills and removes the container and its anonymous volumes.
	Remove(ctx context.Context, ref string) error

	// Rename gives the container of a spare the name ContainerName(prefix),
	// which makes it that instance's; one that has it already is left as it is.
	// A container that was made for an instance is NotFound, and EngineFailed
	// is a name that another container has.
	Rename(ctx context.Context, ref, prefix string) error

	Inspect(ctx context.Context, ref string) (Container, error)

	// List returns all containers of this manager, running or not, each as
	// Inspect does. One that the engine cannot describe is Undescribed, and
	// hides none of the others.
	List(ctx context.Context) ([]Container, error)

	// UpSince is when the engine was last started without containers that run;
	// zero if it does not tell. Its clock is that of the containers' times: what
	// ended with the engine has ended before.
	UpSince(ctx context.Context) (time.Time, error)

	// Logs returns the last lines of the container's output, oldest first.
	Logs(ctx context.Context, ref string, lines int) ([]string, error)

	// Tail calls tell for the last lines that the container has printed in its
	// present run, oldest first, and then for each line as it comes. It returns
	// nil when the run has ended; at once if none goes on. Of a line that is
	// longer than 4 KiB the rest may be missing.
	Tail(ctx context.Context, ref string, lines int, tell func(line string)) error

	// Watch calls notify for each change that the engine tells of, until ctx
	// ends. Events are hints: some get lost, some come twice. After each
	// (re)connection it calls notify with a zero Event, which means "look at
	// everything". notify must not block.
	Watch(ctx context.Context, notify func(Event))

	// Close releases what the runtime holds; containers run on.
	Close() error
}

// Pulling is a Runtime whose images may have to come from afar.
type Pulling interface {
	// Pull gets spec's image ready, by spec.Pull, as Create does. It may take
	// minutes, in which nobody else has to wait for the engine.
	Pull(ctx context.Context, spec Spec) error
}

// Describing is a Runtime that tells which engine it speaks to.
type Describing interface {
	// Describe asks the engine. Errors are those of a Runtime.
	Describe(ctx context.Context) (Engine, error)
}

// Engine is what an engine says of itself.
type Engine struct {
	Version string   // its own, such as 27.3.1
	API     string   // of its API, as it is spoken to now
	Advice  []string // what its operator should change; instances work without
}

// Projecting is a Runtime that generates a file from the records, as dockerops
// does with docker-compose.yml.
type Projecting interface {
	Projection() Projection
}

// Event tells that something happened to the container of Prefix, which may be
// a spare's key; with an empty Prefix, that anything may have happened.
type Event struct {
	Prefix string
}

// Container is what the engine says of one container.
type Container struct {
	ID string
	// Undescribed tells that the engine has it, but failed to say more: only
	// ID and Spec.Prefix are known, and nothing can be decided about it.
	Undescribed bool
	// Spec as it can be read back from the container: enough to adopt it when
	// the records are lost. Env includes what the image brought.
	Spec Spec
	// ImageID is the image that it was made from.
	ImageID    string
	Running    bool // paused ones too
	Paused     bool
	ExitCode   int  // meaningful once it has run and ended
	OOMKilled  bool // the kernel ended it for want of memory
	CreatedAt  time.Time
	StartedAt  time.Time // zero: never
	FinishedAt time.Time // zero: never
	// Address is the container's own address and port while it runs, where
	// this host reaches it; else it is invalid, and the published port is the
	// way in.
	Address netip.AddrPort
}

// ContainerName is the name of the container of prefix, or of the spare with
// that key. It depends on nothing else, so a container is found again when its id was never recorded.
func ContainerName(prefix string) string { return "sandbox-" + prefix }
