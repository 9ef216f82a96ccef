package devserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Exit codes, as a shell gives them for the signals.
const (
	Killed     = 137 // SIGKILL
	Terminated = 143 // SIGTERM
)

// ExitLines are what mode exit writes to stderr.
var ExitLines = []string{
	"testserver: error: cannot load the configuration",
	"testserver: giving up, as TEST_MODE=exit asks",
}

// Server is one run of the stand-in. It serves once.
type Server struct {
	Env     map[string]string
	Process Process
	// Listen opens the port; it is called when the server is ready for
	// connections, which in some modes is late or never.
	Listen func() (net.Listener, error)
	// ListenOn opens one more port, at an address such as 0.0.0.0:3000. Needed
	// with TEST_PORTS alone.
	ListenOn func(address string) (net.Listener, error)
	Stdout   io.Writer
	Stderr   io.Writer

	exit chan int // from GET /exit
	seen requestLog
}

// Process is what the server says of itself at /process.
type Process struct {
	PID  int      `json:"pid"`
	UID  int      `json:"uid"`
	Dir  string   `json:"dir"`
	Args []string `json:"args"` // without the program's name
}

// Port is the port to listen on: $PORT, or 5174.
func Port(env map[string]string) string { return cmp.Or(env["PORT"], "5174") }

// Run serves until the server ends and returns its exit code. Closing term
// asks it to end, as SIGTERM does; the end of ctx kills it, as SIGKILL does.
// All connections are closed when it returns.
func (s *Server) Run(ctx context.Context, term <-chan struct{}) (code int) {
	s.exit = make(chan int, 1)
	serve := s.serveHTTP(Port(s.Env))
	switch mode := cmp.Or(s.Env["TEST_MODE"], "hello"); mode {
	case "hello", "vite", "webpack", "next":
	case "silent":
		serve = serveNothing
	case "raw":
		serve = s.serveRaw
	case "exit":
		return s.giveUp()
	case "oldnode":
		if strings.Contains(s.Env["NODE_OPTIONS"], "--import") {
			_, _ = fmt.Fprintln(s.Stderr, "node: --import is not allowed in NODE_OPTIONS")
			return 9
		}
	case "slow":
		delay, err := time.ParseDuration(cmp.Or(s.Env["TEST_DELAY"], "3s"))
		if err != nil {
			return s.fail(fmt.Errorf("reading TEST_DELAY: %w", err))
		}
		if code, ended := s.wait(ctx, term, time.After(delay)); ended {
			return code
		}
	case "stubborn":
		term = nil
	case "oom":
		takeAllMemory()
	default:
		return s.fail(fmt.Errorf("unknown TEST_MODE %q", mode))
	}

	stopMore, err := s.serveMore() // first, for who sees the main port open takes it for ready
	defer stopMore()
	if err != nil {
		return s.fail(err)
	}
	listener, err := s.Listen()
	if err != nil {
		return s.fail(fmt.Errorf("listening: %w", err))
	}
	_, _ = fmt.Fprintf(s.Stdout, "testserver: listening on %s\n", listener.Addr())
	stop := serve(listener)
	defer stop()
	code, _ = s.wait(ctx, term, nil)
	return code
}

// serveMore serves the further ports of TEST_PORTS.
func (s *Server) serveMore() (stop func(), err error) {
	var stops []func()
	stop = func() {
		for _, each := range stops {
			each()
		}
	}
	for address := range strings.SplitSeq(s.Env["TEST_PORTS"], ",") {
		if address == "" {
			continue
		}
		if !strings.Contains(address, ":") {
			address = "0.0.0.0:" + address
		}
		listener, err := s.ListenOn(address)
		if err != nil {
			return stop, fmt.Errorf("listening on %s of TEST_PORTS: %w", address, err)
		}
		_, port, _ := net.SplitHostPort(address)
		stops = append(stops, s.serveHTTP(port)(listener))
	}
	return stop, nil
}

// wait returns when the server is to end, or with ended false on wake.
func (s *Server) wait(ctx context.Context, term <-chan struct{}, wake <-chan time.Time) (code int, ended bool) {
	select {
	case <-ctx.Done():
		return Killed, true
	case <-term:
		return Terminated, true
	case code := <-s.exit:
		return code, true
	case <-wake:
		return 0, false
	}
}

func (s *Server) giveUp() int {
	code, err := strconv.Atoi(cmp.Or(s.Env["TEST_EXIT_CODE"], "3"))
	if err != nil {
		return s.fail(fmt.Errorf("reading TEST_EXIT_CODE: %w", err))
	}
	for _, line := range ExitLines {
		_, _ = fmt.Fprintln(s.Stderr, line)
	}
	return code
}

func (s *Server) fail(err error) int {
	_, _ = fmt.Fprintln(s.Stderr, "testserver:", err)
	return 2
}

// serveHTTP makes what serves HTTP on a listener, which is the container's port.
func (s *Server) serveHTTP(port string) func(net.Listener) (stop func()) {
	return func(listener net.Listener) (stop func()) {
		return s.serveOn(listener, s.seen.record(refusing(s.Env["TEST_MODE"], s.handler(port))))
	}
}

func (s *Server) serveOn(listener net.Listener, handler http.Handler) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	server := &http.Server{
		Handler:     handler,
		BaseContext: func(net.Listener) context.Context { return ctx },
		// No time limit for whole requests: some are streams.
		ReadHeaderTimeout: 10 * time.Second,
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			s.endWith(s.fail(fmt.Errorf("serving: %w", err)))
		}
	}()
	return func() {
		// Connections first: a handler that ended before its connection would
		// give a cut stream the end of a whole one.
		_ = server.Close()
		cancel() // for handlers that wait, and WebSockets, which the server has forgotten
		<-served
	}
}

// endWith makes Run return code; the first call counts.
func (s *Server) endWith(code int) {
	select {
	case s.exit <- code:
	default:
	}
}

func serveNothing(listener net.Listener) (stop func()) {
	served := make(chan struct{})
	go func() {
		defer close(served)
		var open []net.Conn // until the end of all
		for {
			conn, err := listener.Accept()
			if err != nil {
				break
			}
			open = append(open, conn)
		}
		for _, conn := range open {
			_ = conn.Close()
		}
	}()
	return func() {
		_ = listener.Close()
		<-served
	}
}

func takeAllMemory() {
	var taken [][]byte
	for {
		block := make([]byte, 1<<20)
		for i := range block {
			block[i] = 1 // only touched pages count
		}
		taken = append(taken, block)
		if len(taken)%64 == 0 {
			fmt.Printf("testserver: took %d MiB\n", len(taken))
		}
	}
}
