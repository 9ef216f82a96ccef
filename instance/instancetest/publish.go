package instancetest

import (
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
	inside    atomic.Bool // the server listens
	conns     chan net.Conn
	closed    chan struct{}
	forwarded chan struct{} // closed when the forwarding has ended
	closeOnce sync.Once

	mu     sync.Mutex
	frozen chan struct{} // closed when the container goes on; nil: it is not paused
}

func publish(port int) (*published, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return nil, err
	}
	p := &published{
		Listener: listener, conns: make(chan net.Conn),
		closed: make(chan struct{}), forwarded: make(chan struct{}),
	}
	go p.forward()
	return p, nil
}

func (p *published) listenInside() (net.Listener, error) {
	p.inside.Store(true)
	return p, nil
}

func (p *published) forward() {
	defer close(p.forwarded)
	for {
		conn, err := p.Listener.Accept()
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
	p.closeOnce.Do(func() {
		close(p.closed)
		_ = p.Listener.Close()
	})
	<-p.forwarded
	return nil
}
