package instancetest

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// published is a host port that leads into a container. As Docker's, it
// accepts connections from the container's start on and closes them at once
// until the server inside listens, which it does by taking published for its
// listener.
type published struct {
	net.Listener
	inside   atomic.Bool // the server listens
	conns    chan net.Conn
	closed   chan struct{}
	forwards sync.WaitGroup // one for each listener

	mu  sync.Mutex     // guards the following
	all []net.Listener // nil: closed
}

func publish(port int) (*published, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	p := &published{
		Listener: listener, conns: make(chan net.Conn),
		closed: make(chan struct{}),
	}
	return p, p.lead(listener)
}

// lead has what comes to listener reach the server inside too, until Close.
func (p *published) lead(listener net.Listener) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		return errors.Join(net.ErrClosed, listener.Close())
	default:
	}
	p.all = append(p.all, listener)
	p.forwards.Go(func() { p.forward(listener) })
	return nil
}

func (p *published) listenInside() (net.Listener, error) {
	p.inside.Store(true)
	return p, nil
}

func (p *published) forward(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		if !p.inside.Load() {
			_ = conn.Close()
			continue
		}
		select {
		case p.conns <- conn:
		case <-p.closed:
			_ = conn.Close()
		}
	}
}

// Accept waits for the next connection that reaches the server inside.
func (p *published) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// Close frees the host port; it is free when Close returns.
func (p *published) Close() error {
	p.mu.Lock()
	if p.all != nil {
		close(p.closed)
	}
	for _, listener := range p.all {
		_ = listener.Close()
	}
	p.all = nil
	p.mu.Unlock()
	p.forwards.Wait()
	return nil
}
