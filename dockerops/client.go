package dockerops

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"regexp"
	"sync/atomic"
	"time"

	"github.com/docker/docker/api/types/versions"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// minAPIVersion is that of Docker Engine 20.10. Below it, this package is not
// tested.
const minAPIVersion = "1.41"

// Client runs the containers of one owner on one Docker Engine. It is safe for
// concurrent use, before the engine answers and after Close too. Make one with
// [New].
type Client struct {
	// Deadlines bound the calls. Change them before the first call only.
	Deadlines Deadlines

	host    string // endpoint of the engine
	owner   string // uuid; the value of the label sandbox.manager
	project string // names the Compose project and, with -0, the network
	frame   composeFrame

	engine   atomic.Pointer[client.Client] // nil until the engine has answered once
	health   health
	life     *lifetime
	pulls    flights[struct{}]
	networks flights[string]
	images   imageCache
	bridge   bridgeCache
	adopted  *adoptions
	asleep   asleep
}

var (
	_ instance.Runtime    = (*Client)(nil)
	_ instance.Projecting = (*Client)(nil)
	_ instance.Pulling    = (*Client)(nil)
	_ instance.Imaging    = (*Client)(nil)
	_ instance.Adopting   = (*Client)(nil)
	_ instance.Listening  = (*Client)(nil)
)

// Deadlines say how long the engine may take to answer. No call of a [Client]
// takes longer than the sum of those of its steps.
type Deadlines struct {
	Ping    time.Duration // is it there, and which API does it speak
	List    time.Duration // listing containers, and opening the event stream
	Inspect time.Duration // of a container, an image or a network
	Change  time.Duration // create, start, stop with its grace, remove, and the network
	Logs    time.Duration
	Pull    time.Duration // of an image, from first to last byte
}

// DefaultDeadlines are those of [New]. Inspecting takes milliseconds and
// starting half a second where all is well; a pull may be gigabytes.
var DefaultDeadlines = Deadlines{
	Ping:    5 * time.Second,
	List:    5 * time.Second,
	Inspect: 3 * time.Second,
	Change:  30 * time.Second,
	Logs:    5 * time.Second,
	Pull:    10 * time.Minute,
}

// Options of a [Client].
type Options struct {
	// Host is the engine's endpoint, such as unix:///var/run/docker.sock or
	// tcp://10.0.0.7:2376. Empty: that of DOCKER_HOST, else the default
	// socket. For TLS, DOCKER_CERT_PATH and DOCKER_TLS_VERIFY hold.
	Host string
	// Owner is the uuid of the state directory whose containers these are.
	Owner string
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// New returns a Client. It does no I/O: the engine need not be there.
func New(o Options) (*Client, error) {
	if !uuid.MatchString(o.Owner) {
		return nil, fmt.Errorf("owner %q is no lower-case uuid", o.Owner)
	}
	host := cmp.Or(o.Host, os.Getenv(client.EnvOverrideHost), client.DefaultDockerHost)
	if _, err := client.ParseHostURL(host); err != nil {
		return nil, fmt.Errorf("%q is no Docker endpoint, use unix:///path/to/socket or tcp://host:port: %w", host, err)
	}
	c := &Client{
		Deadlines: DefaultDeadlines,
		host:      host,
		owner:     o.Owner,
		project:   projectName(o.Owner),
		life:      newLifetime(),
		adopted:   newAdoptions(),
	}
	var err error
	if c.frame, err = c.newComposeFrame(); err != nil {
		return nil, err
	}
	return c, nil
}

// Close ends the work in the background: pings of an engine that is down, and
// pulls, which fail then. Containers run on.
func (c *Client) Close() error {
	c.life.close()
	if engine := c.engine.Load(); engine != nil {
		return engine.Close()
	}
	return nil
}

// call gives f the engine and limit to finish; doing says in errors what was
// tried ("starting container …"). While the engine counts as down, it fails at
// once.
func (c *Client) call(
	ctx context.Context, doing string, limit time.Duration, f func(context.Context, *client.Client) error,
) error {
	if err := c.health.check(c.host); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, &overdueError{doing, limit})
	defer cancel()
	engine, err := c.connect(ctx)
	if err == nil {
		err = f(ctx, engine)
	}
	if err != nil {
		return c.classify(ctx, doing, err)
	}
	return nil
}

// query is a call that changes nothing and takes milliseconds where all is
// well. If it is overdue, the engine counts as down until it answers a ping.
func (c *Client) query(
	ctx context.Context, doing string, limit time.Duration, f func(context.Context, *client.Client) error,
) error {
	err := c.call(ctx, doing, limit, f)
	if isOverdue(err) {
		c.suspect()
	}
	return err
}

// connect returns what speaks the engine's version of the API.
func (c *Client) connect(ctx context.Context) (*client.Client, error) {
	if engine := c.engine.Load(); engine != nil {
		return engine, nil
	}
	return c.negotiate(ctx)
}

// negotiate asks the engine for its API version and returns a client for it.
//
// The library would negotiate by itself, but once and for all, so that an
// upgrade of the engine to one that refuses the old version would lock us out
// until Caddy restarts; and it holds a lock while it waits for the answer,
// which makes calls wait for each other past their deadlines.
func (c *Client) negotiate(ctx context.Context) (*client.Client, error) {
	fresh, err := client.NewClientWithOpts(client.WithTLSClientConfigFromEnv(), client.WithHost(c.host))
	if err != nil {
		return nil, engineDown(err, "the connection to Docker at %s cannot be prepared: "+
			"check the files of DOCKER_CERT_PATH", c.host)
	}
	ping, err := fresh.Ping(ctx)
	if err != nil {
		_ = fresh.Close()
		return nil, err
	}
	fresh.NegotiateAPIVersionPing(ping)
	version := fresh.ClientVersion()
	if versions.LessThan(version, minAPIVersion) {
		_ = fresh.Close()
		return nil, instance.Errorf(instance.EngineFailed,
			"the Docker Engine at %s is too old (API %s): use 20.10 (API %s) or later", c.host, version, minAPIVersion)
	}
	if known := c.engine.Load(); known != nil && known.ClientVersion() == version {
		_ = fresh.Close()
		return known, nil
	}
	// Calls under way end on the old one, which drops its connections when
	// they have been idle for 30 s.
	c.engine.Store(fresh)
	return fresh, nil
}
