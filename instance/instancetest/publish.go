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

	frozen chan struct{} // closed when the container goes on; nil: it is not paused
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
		case <-p.goesOn():
		case <-p.closed:
		}
		select {
		case p.conns <- conn:
		case <-p.closed:
			_ = conn.Close()
		}
	}
}

// freeze keeps new connections waiting, as the backlog of a paused container
// does. Those that are open go on: nobody here is able to stop them.
func (p *published) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		p.frozen = make(chan struct{})
	}
}

func (p *published) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen != nil {
		close(p.frozen)
		p.frozen = nil
	}
}

// goesOn is closed as soon as the container is not paused.
func (p *published) goesOn() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.frozen == nil {
		return alwaysClosed
	}
	return p.frozen
}

var alwaysClosed = func() chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

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
