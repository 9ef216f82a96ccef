package instance

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"strconv"
	"time"
)

const (
	// The first probe comes at once; the pauses between grow to probePause,
	// below what a waiting person notices.
	firstPause = 5 * time.Millisecond
	probePause = 100 * time.Millisecond
	// inspectPause is how soon the end of a container that never answered is
	// noticed.
	inspectPause = 250 * time.Millisecond
	// publishedProof is how long docker-proxy has to keep a connection to show
	// that the server listens behind it: else it drops it at once.
	publishedProof = 300 * time.Millisecond
	// logLines of a container that did not come up go into the error.
	logLines = 20
)

// awaitReady returns once the dev server in rec's container answered HTTP,
// with whatever status. Errors: Exited if the container ended, Timeout after
// the template's limit; both carry the last lines of its output. opened is
// called when the dev server takes connections, where that shows before.
func (m *Manager) awaitReady(ctx context.Context, rec *Record, opened func()) error {
	limit := m.readyLimit(rec.Template)
	probeCtx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	answered := make(chan struct{})
	probing := make(chan struct{})
	go func() {
		defer close(probing)
		if probe(probeCtx, rec, opened) {
			close(answered)
		}
	}()
	defer func() { stop(); <-probing }()

	check := time.NewTicker(inspectPause)
	defer check.Stop()
	for {
		select {
		case <-answered:
			return nil
		case <-check.C:
			c, err := m.runtime.Inspect(ctx, rec.ContainerID)
			switch {
			case err == nil && !c.Running:
				return m.exitError(ctx, c)
			case KindOf(err) == NotFound:
				return lostContainer(err)
			}
		case <-probeCtx.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return m.withLogs(ctx, rec.ContainerID, Errorf(Timeout,
				"the dev server did not answer HTTP on port %d within %s: it must listen on 0.0.0.0:$PORT",
				rec.ContainerPort, limit).With("waited_for", "dev server").With("after", limit.String()).With("reason", "never became ready"))
		}
	}
}

func (m *Manager) readyLimit(template string) time.Duration {
	if t, ok := m.settings.Load().Templates[template]; ok && t.Ready > 0 {
		return t.Ready
	}
	return DefaultReady
}

// probe asks until somebody answers; false once ctx has ended. A mere TCP
// connection proves nothing: docker-proxy accepts before the server listens.
func probe(ctx context.Context, rec *Record, opened func()) bool {
	endpoint := newEndpoint(rec)
	address, proof := endpoint.Published, publishedProof
	if endpoint.Direct.IsValid() {
		address, proof = endpoint.Direct, 0
	}
	// No limit for one answer: dev servers may compile before the first.
	client := http.Client{
		Transport: &http.Transport{
			DisableKeepAlives: true,
			DialContext:       (&net.Dialer{Timeout: time.Second}).DialContext,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	for pause := firstPause; ; pause = min(pause*3/2, probePause) {
		traced, stop := tracePort(ctx, proof, opened)
		answered := answers(traced, &client, address, rec.ContainerPort)
		stop()
		if answered {
			return true
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

// tracePort has opened called when the connection of a request made with the
// returned context has lasted for proof. stop is called at its end.
func tracePort(ctx context.Context, proof time.Duration, opened func()) (_ context.Context, stop func()) {
	var lasts *time.Timer
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { // in the goroutine of the request
			if proof == 0 {
				opened()
				return
			}
			lasts = time.AfterFunc(proof, opened)
		},
	})
	return traced, func() {
		if lasts != nil {
			lasts.Stop()
		}
	}
}

func answers(ctx context.Context, client *http.Client, address netip.AddrPort, containerPort int) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address.String()+"/", nil)
	if err != nil {
		return false
	}
	req.Host = "localhost:" + strconv.Itoa(containerPort) // a name that no dev server refuses
	res, err := client.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return true
}

// exitError tells how c ended.
func (m *Manager) exitError(ctx context.Context, c Container) error {
	reason := exitReason(c)
	err := Errorf(Exited, "the container ended during start: %s", reason).With("exit_code", c.ExitCode)
	return m.withLogs(ctx, c.ID, err.With("reason", reason))
}

// withLogs adds the container's last words to err.
func (m *Manager) withLogs(ctx context.Context, ref string, err *Error) *Error {
	lines, logErr := m.runtime.Logs(ctx, ref, logLines)
	if logErr != nil || lines == nil {
		lines = []string{} // never null
	}
	return err.With("log", lines)
}

// exitReason says in words how c ended.
func exitReason(c Container) string {
	switch {
	case c.OOMKilled:
		return fmt.Sprintf("exited %d: out of memory", c.ExitCode)
	case c.ExitCode == 137: // Docker may forget why, see instancetest
		return "exited 137: killed, perhaps out of memory"
	}
	return fmt.Sprintf("exited %d", c.ExitCode)
}
