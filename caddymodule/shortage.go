package caddymodule

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// shortage tells what this machine lacks for one more connection to an instance,
// if that is why there is none; else nil.
func shortage(err error) *instance.Error {
	var lacks string
	switch {
	case errors.Is(err, syscall.EADDRNOTAVAIL): // by default, there are 28 232 for each instance
		lacks = "no port left for its end of one more connection to the instance (net.ipv4.ip_local_port_range)"
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		lacks = "no file descriptor left for one more connection to the instance (ulimit -n)"
	default:
		return nil
	}
	return tooMuch(lacks, err)
}

// tooMuch is said while this machine lacks something that clients hold.
func tooMuch(lacks string, cause error) *instance.Error {
	return &instance.Error{
		Kind:       instance.Overloaded,
		Message:    "this server has " + lacks + ": close some, or try again later",
		RetryAfter: 5 * time.Second,
		Err:        cause,
	}
}

// refusal is our answer to r as a response. Given an error, reverse_proxy would
// try again, and again, which is not what a machine at its end needs.
func refusal(r *http.Request, err error, log *zap.Logger) *http.Response {
	w := &recorder{header: http.Header{}}
	refuse(w, r, err, log)
	return &http.Response{
		StatusCode: w.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: w.header, Body: io.NopCloser(&w.body), ContentLength: int64(w.body.Len()), Request: r,
	}
}

// recorder keeps what is written to it.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(p []byte) (int, error) { return w.body.Write(p) }

// seldom lets something be said once in a while, and no more often.
type seldom struct{ last atomic.Int64 }

func (s *seldom) mayDo(pause time.Duration) bool {
	last, now := s.last.Load(), time.Now().UnixNano()
	return now-last >= int64(pause) && s.last.CompareAndSwap(last, now)
}
