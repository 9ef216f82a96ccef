package instance

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Kind says what went wrong, in words of the domain. Package caddymodule has
// the one table from kinds to codes and HTTP statuses.
type Kind string

// The kinds of [Error]; internal is the zero value.
const (
	Internal     Kind = ""
	BadPrefix    Kind = "bad prefix"
	PrefixTaken  Kind = "prefix taken"
	PortTaken    Kind = "port taken"
	NotFound     Kind = "not found"
	Busy         Kind = "busy"
	BadRequest   Kind = "bad request"
	BadHost      Kind = "bad host"
	HostTaken    Kind = "host taken"
	NoSuchPort   Kind = "no such port"
	PortClosed   Kind = "port closed"
	NoTemplate   Kind = "no template"
	NoFreePort   Kind = "no free port"
	EngineFailed Kind = "engine failed"
	EngineDown   Kind = "engine down"
	Timeout      Kind = "timeout"
	ImageMissing Kind = "image missing"
	NotRunning   Kind = "not running"
	NotOpen      Kind = "not open"
	Overloaded   Kind = "overloaded"
	RateLimited  Kind = "rate limited"
	Exited       Kind = "exited"
	StateFailed  Kind = "state failed"
	DiskFull     Kind = "disk full"
)

// Error is the one error type of this package and of its runtimes.
type Error struct {
	Kind Kind
	// Message is for the caller: what is wrong and what to do.
	Message string
	// Details are for programs; their keys are part of the API.
	Details map[string]any
	// RetryAfter is when trying again makes sense; zero says nothing.
	RetryAfter time.Duration
	// Err is the cause, for the log.
	Err error
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Message
	}
	if cause := e.Err.Error(); !strings.Contains(e.Message, cause) {
		return e.Message + ": " + cause
	}
	return e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of kind; the text follows fmt.Errorf, %w included.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), Err: errors.Unwrap(err)}
}

// With adds one detail and returns e.
func (e *Error) With(key string, value any) *Error {
	if e.Details == nil {
		e.Details = map[string]any{}
	}
	e.Details[key] = value
	return e
}

// KindOf returns the kind of the first *Error in err's chain, else Internal.
func KindOf(err error) Kind {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return Internal
}
