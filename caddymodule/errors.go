package caddymodule

import (
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// The kinds of errors that are the API's own: the domain knows none of them.
const (
	methodNotAllowed instance.Kind = "method not allowed"
	bodyTooLarge     instance.Kind = "body too large"
	noRoute          instance.Kind = "no route"
	brokenOff        instance.Kind = "broken off"
	unauthorized     instance.Kind = "unauthorized"
	foreignOrigin    instance.Kind = "foreign origin"
)

// failure is how the API tells of one kind of error. Codes are for ever: a
// program that was written against one must go on working.
type failure struct {
	code   int
	status int
}

// failures is the one table from kinds to codes and HTTP statuses.
var failures = map[instance.Kind]failure{
	instance.Internal:     {1000, http.StatusInternalServerError},
	instance.BadPrefix:    {1001, http.StatusBadRequest},
	instance.PrefixTaken:  {1002, http.StatusBadRequest},
	instance.PortTaken:    {1003, http.StatusBadRequest},
	instance.NotFound:     {1004, http.StatusNotFound},
	instance.Busy:         {1005, http.StatusConflict},
	instance.BadRequest:   {1006, http.StatusBadRequest},
	instance.NoTemplate:   {1007, http.StatusBadRequest},
	instance.NoFreePort:   {1008, http.StatusServiceUnavailable},
	methodNotAllowed:      {1009, http.StatusMethodNotAllowed},
	bodyTooLarge:          {1010, http.StatusRequestEntityTooLarge},
	noRoute:               {1011, http.StatusNotFound},
	instance.BadHost:      {1012, http.StatusBadRequest},
	instance.HostTaken:    {1013, http.StatusConflict},
	instance.NoSuchPort:   {1014, http.StatusNotFound},
	instance.EngineFailed: {1101, http.StatusBadGateway},
	instance.EngineDown:   {1102, http.StatusServiceUnavailable},
	instance.Timeout:      {1103, http.StatusGatewayTimeout},
	instance.ImageMissing: {1104, http.StatusUnprocessableEntity},
	instance.NotRunning:   {1105, http.StatusServiceUnavailable},
	instance.Overloaded:   {1106, http.StatusServiceUnavailable},
	instance.Exited:       {1107, http.StatusBadGateway},
	instance.NotOpen:      {1108, http.StatusServiceUnavailable},
	brokenOff:             {1109, http.StatusBadGateway},
	instance.PortClosed:   {1110, http.StatusServiceUnavailable},
	instance.StateFailed:  {1201, http.StatusInternalServerError},
	instance.DiskFull:     {1201, http.StatusInsufficientStorage},
	unauthorized:          {1301, http.StatusUnauthorized},
	mayNotStart:           {1302, http.StatusForbidden},
	instance.RateLimited:  {1303, http.StatusTooManyRequests},
	foreignOrigin:         {1304, http.StatusForbidden},
}

// errNotServing is the answer while no configuration with the sandbox app is
// in force: the admin endpoint is up before the apps, and without them.
func errNotServing() *instance.Error {
	return &instance.Error{
		Kind:       instance.NotOpen,
		Message:    "the sandbox app is not running: it starts right after the admin endpoint, if the configuration has it",
		RetryAfter: time.Second,
	}
}

// envelope is the form of every answer.
type envelope struct {
	Code      int    `json:"code"`
	Message   string `json:"message"`
	Data      any    `json:"data"`
	RequestID string `json:"request_id,omitempty"`
}

// writeJSON writes an answer. That the client has gone is no concern of ours.
func writeJSON(w http.ResponseWriter, status int, e envelope) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // nobody takes this for HTML, and people read it
	_ = encoder.Encode(e)
}

// writeError turns err into an answer. What it is not meant for the caller to
// know goes to log, beside the id of the request.
func writeError(w http.ResponseWriter, err error, requestID string, log *zap.Logger) {
	e, ok := errors.AsType[*instance.Error](err)
	if !ok || e.Kind == instance.Internal {
		log.Error("internal error", zap.String("request_id", requestID), zap.Error(err))
		e = &instance.Error{Message: "internal error: the server's log has the cause, under this request_id"}
	}
	details := e.Details
	if details == nil {
		details = map[string]any{}
	}
	setRetryAfter(w, e)
	f := failures[e.Kind]
	writeJSON(w, f.status, envelope{Code: f.code, Message: e.Message, Data: details, RequestID: requestID})
}

// setRetryAfter says in whole seconds when to try again, never too early.
func setRetryAfter(w http.ResponseWriter, e *instance.Error) {
	if e.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(e.RetryAfter.Seconds()))))
	}
}
