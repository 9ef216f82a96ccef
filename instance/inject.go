package instance

import (
	"context"
	_ "embed"
	"errors"
	"maps"
	"strconv"
	"strings"

	"go.uber.org/zap"
)

// Inject says what a container gets so that its dev server works here as it
// is, without a line of its configuration changed.
type Inject string

// The values; the zero value means InjectAll.
const (
	InjectAll  Inject = "all"  // InjectEnv, and the preload by NODE_OPTIONS
	InjectEnv  Inject = "env"  // variables that dev servers look for
	InjectNone Inject = "none" // PORT and SANDBOX_… alone
)

// Injects lists all of them.
var Injects = []Inject{InjectAll, InjectEnv, InjectNone}

// injected are the variables that a template's own and the caller's overrule.
func (t Template) injected(domain string) map[string]string {
	env := map[string]string{"PORT": strconv.Itoa(t.Port)}
	if t.Inject == InjectNone {
		return env
	}
	maps.Copy(env, map[string]string{
		"HOST": "0.0.0.0",
		// Vite (6.1 and up) then accepts the public host names. One entry, no
		// list: older versions take the whole value for one host.
		"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": "." + domain,
		// Create React App: its client takes the port of the page for its
		// socket, not that of the dev server.
		"WDS_SOCKET_PORT": "0",
		// webpack-dev-server listens where nobody told it another port; its
		// client then asks for its socket at that port of the page's host.
		"WEBPACK_DEV_SERVER_BASE_PORT": strconv.Itoa(t.Port),
		// No browser to open, no colours in a log (Vite and Next.js take any
		// FORCE_COLOR for a yes, 0 as well), nobody to ask.
		"BROWSER":                 "none",
		"NO_COLOR":                "1",
		"NEXT_TELEMETRY_DISABLED": "1",
	})
	return env
}

// identity are the variables by which what runs in a container knows where it
// is; nobody overrules them.
func (t Template) identity(prefix string, s *Settings, more []int) map[string]string {
	port := strconv.Itoa(t.Port)
	ports := port
	for _, p := range more {
		ports += "," + strconv.Itoa(p)
	}
	if t.AnyPort {
		ports = "any"
	}
	return map[string]string{
		"SANDBOX_ID":           prefix,
		"SANDBOX_PREFIX":       prefix,
		"SANDBOX_PORT":         port,
		"SANDBOX_PORTS":        ports,
		"SANDBOX_URL":          s.url(prefix),
		"SANDBOX_URL_TEMPLATE": s.url("{port}-" + prefix),
	}
}

// Imaging is a Runtime that can tell what an image brings, and which one a name
// means.
type Imaging interface {
	// ImageID returns the id of the image that a name means now.
	ImageID(ctx context.Context, image string) (string, error)

	// ImageEnv returns the environment variables of an image that is there.
	ImageEnv(ctx context.Context, image string) (map[string]string, error)
}

const nodeOptions = "NODE_OPTIONS"

// preloadSource makes Node's servers listen on all addresses of the container
// where the app asks for its loopback alone.
//
//go:embed preload.mjs
var preloadSource string

// preloadOption has every Node process run preloadSource first. A data URL
// needs no file: nothing is mounted, and docker-compose.yml works anywhere.
var preloadOption = "--import=data:text/javascript," + encodeOption(minify(preloadSource))

// minify drops comments and indentation: the value is shown by `docker
// inspect`, and goes into the environment of every process.
func minify(source string) string {
	var kept []string
	for line := range strings.Lines(source) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "//") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// encodeOption encodes for a URL all that could mean something to Node, which
// splits NODE_OPTIONS at blanks, to a shell, to Compose, or to those who take
// the options apart to pass them on, as Next.js does.
func encodeOption(source string) string {
	const plain = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.~()*!:;,/"
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(source) {
		if c := source[i]; strings.IndexByte(plain, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// addPreload adds the preload to rec's NODE_OPTIONS, which are the caller's,
// the template's or else the image's, if its template wants it and the image
// does not say that its Node is too old. It leaves the present map alone.
func (m *Manager) addPreload(ctx context.Context, rec *Record) error {
	if t := m.settings.Load().Templates[rec.Template]; t.Inject != InjectAll && t.Inject != "" {
		return nil
	}
	var image map[string]string
	if runtime, ok := m.runtime.(Imaging); ok {
		var err error
		if image, err = runtime.ImageEnv(ctx, rec.Image); err != nil {
			return err
		}
	}
	if !takesPreload(image["NODE_VERSION"]) {
		return nil
	}
	options, given := rec.Env[nodeOptions]
	if !given {
		options = image[nodeOptions]
	}
	env := maps.Clone(rec.Env)
	env[nodeOptions] = strings.TrimSpace(options + " " + preloadOption)
	rec.Env = env
	return nil
}

// takesPreload reports whether a Node of that version allows --import in
// NODE_OPTIONS: from 18.18 and 20 on. Older ones would not run at all. The
// official images tell their version; of others we find out: see isBadOption.
func takesPreload(version string) bool {
	major, rest, _ := strings.Cut(version, ".")
	minor, _, _ := strings.Cut(rest, ".")
	n, err := strconv.Atoi(major)
	if err != nil {
		return true
	}
	m, _ := strconv.Atoi(minor)
	return n >= 20 || n == 18 && m >= 18
}

// hasPreload reports whether the containers of rec get the preload.
func (r *Record) hasPreload() bool { return strings.HasSuffix(r.Env[nodeOptions], preloadOption) }

// dropPreload undoes addPreload as far as it can.
func (r *Record) dropPreload() {
	options := strings.TrimSpace(strings.TrimSuffix(r.Env[nodeOptions], preloadOption))
	env := maps.Clone(r.Env)
	delete(env, nodeOptions)
	if options != "" {
		env[nodeOptions] = options
	}
	r.Env = env
}

// isBadOption reports whether err is of a container that ended at once as Node
// does over an option that it does not know or allow.
func isBadOption(err error) bool {
	const invalidArgument = 9 // of Node's exit codes
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == Exited && e.Details["exit_code"] == invalidArgument
}

// buildWithoutPreload makes rec's container anew without the preload, which its
// Node seems not to know.
func (m *Manager) buildWithoutPreload(ctx context.Context, e *entry, op *operation, rec *Record, fixed bool) error {
	m.log().Warn("the container ended as Node does over an unknown option: making it anew without the preload; "+
		"a dev server in it that listens on localhost alone will not be reached",
		zap.String("prefix", rec.Prefix), zap.String("image", rec.Image))
	rec.dropPreload()
	rec.Generation++
	err := m.gate.do(ctx, func() error {
		if err := m.runtime.Remove(ctx, ContainerName(rec.Prefix)); err != nil {
			return err
		}
		return m.launch(ctx, rec, fixed)
	})
	if err != nil {
		return err
	}
	return m.complete(ctx, e, op, rec)
}
