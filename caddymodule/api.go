package caddymodule

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// apiPath is where the API lives, on the admin endpoint as on a site.
const apiPath = "/api/instances"

// statusClientGone is what Caddy logs for requests whose client has left.
const statusClientGone = 499

// api answers one call.
type api struct {
	manager   *instance.Manager
	ports     instance.PortRange
	requestID string
	log       *zap.Logger
}

// reply is the answer to a call that succeeded.
type reply struct {
	status   int // zero: 200
	location string
	data     any
}

// action is what one method does on one route.
type action struct {
	parameters []string // what the query may hold; run gets nothing else
	run        runner
}

// runner runs a call; prefix is the one in the path.
type runner func(a *api, w http.ResponseWriter, r *http.Request, prefix string, query url.Values) (reply, error)

// routes are the actions by path; * stands for a prefix, and behind domains/ for
// a custom host. HEAD is GET without
// the body, which net/http sees to.
var routes = map[string]map[string]action{
	apiPath: {
		http.MethodGet:  {[]string{"status", "template", "label", "limit", "cursor"}, (*api).list},
		http.MethodPost: {[]string{"wait"}, (*api).create},
	},
	apiPath + "/*": {
		http.MethodGet:    {nil, (*api).get},
		http.MethodPatch:  {nil, (*api).update},
		http.MethodDelete: {nil, ending((*instance.Manager).Delete)},
	},
	apiPath + "/*/domains/*": {
		http.MethodPut:    {nil, changingHost((*instance.Manager).AddHost)},
		http.MethodDelete: {nil, changingHost((*instance.Manager).RemoveHost)},
	},
	apiPath + "/*/start":    {http.MethodPost: {[]string{"wait"}, starting((*instance.Manager).Start)}},
	apiPath + "/*/stop":     {http.MethodPost: {nil, ending((*instance.Manager).Stop)}},
	apiPath + "/*/pause":    {http.MethodPost: {nil, ending((*instance.Manager).Pause)}},
	apiPath + "/*/resume":   {http.MethodPost: {[]string{"wait"}, starting((*instance.Manager).Start)}},
	apiPath + "/*/touch":    {http.MethodPost: {nil, (*api).touch}},
	apiPath + "/*/restart":  {http.MethodPost: {[]string{"wait"}, starting((*instance.Manager).Restart)}},
	healthPath:              {http.MethodGet: {nil, (*api).health}},
	healthPath + "/confirm": {http.MethodPost: {nil, (*api).confirm}},
}

// serve answers r.
func (a *api) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Request-Id", a.requestID)
	answer, err := a.dispatch(w, r.WithContext(instance.WithRequestID(r.Context(), a.requestID)))
	// A body that came too slowly ends the request as well, but its client waits.
	if err != nil && r.Context().Err() != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		w.WriteHeader(statusClientGone) // for the access log: nobody reads it
		return
	}
	if err != nil {
		writeError(w, err, a.requestID, a.log)
		return
	}
	if answer.location != "" {
		w.Header().Set("Location", answer.location)
	}
	if answer.status == 0 {
		answer.status = http.StatusOK
	}
	writeJSON(w, answer.status, envelope{Message: "ok", Data: answer.data})
}

// dispatch finds the action for r and runs it.
func (a *api) dispatch(w http.ResponseWriter, r *http.Request) (reply, error) {
	route, prefix, err := parsePath(r.URL.EscapedPath())
	if err != nil {
		return reply{}, err
	}
	actions := routes[route]
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	act, ok := actions[method]
	if !ok {
		return reply{}, refuseMethod(w, actions)
	}
	query, err := parseQuery(r.URL.RawQuery, act.parameters)
	if err != nil {
		return reply{}, err
	}
	return act.run(a, w, r, prefix, query)
}

// parsePath splits an escaped path into its route and the prefix in it.
func parsePath(path string) (route, prefix string, err error) {
	if _, known := routes[path]; known && !strings.Contains(path, "*") {
		return path, "", nil
	}
	rest, ok := strings.CutPrefix(path, apiPath+"/")
	prefix, tail, more := strings.Cut(rest, "/")
	route = apiPath + "/*"
	if host, ok := strings.CutPrefix(tail, domainsPath); ok && host != "" && !strings.Contains(host, "/") {
		tail = domainsPath + "*"
	}
	if more {
		route += "/" + tail
	}
	if _, known := routes[route]; !ok || !known || prefix == "" {
		return "", "", instance.Errorf(noRoute, "no such route: the API is at %s and %s", apiPath, healthPath)
	}
	if prefix, err = url.PathUnescape(prefix); err != nil {
		prefix = "" // no instance has that name
	}
	return route, prefix, nil
}

func refuseMethod(w http.ResponseWriter, actions map[string]action) error {
	methods := slices.Sorted(maps.Keys(actions))
	if slices.Contains(methods, http.MethodGet) {
		methods = append(methods, http.MethodHead)
	}
	w.Header().Set("Allow", strings.Join(methods, ", "))
	return instance.Errorf(methodNotAllowed, "method not allowed: use %s", strings.Join(methods, ", ")).With("allow", methods)
}

// parseQuery reads the query and refuses what the action does not know: a
// filter with a typing error would otherwise list, and then delete, too much.
// Only label may come more than once.
func parseQuery(raw string, parameters []string) (url.Values, error) {
	query, err := url.ParseQuery(raw)
	if err != nil {
		return nil, request.BadField("query", "well-formed")
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		if !slices.Contains(parameters, name) {
			return nil, request.Unknown("parameter", request.Shorten(name), parameters)
		}
		if len(query[name]) > 1 && name != "label" {
			return nil, request.BadField(name, "given once")
		}
	}
	return query, nil
}

// createBody is the body of a create.
type createBody struct {
	Prefix   *string            `json:"prefix"`
	Template *string            `json:"template"`
	Port     *int               `json:"port"`
	Env      map[string]*string `json:"env"`
	Labels   map[string]*string `json:"labels"`
	Ports    []int              `json:"ports"`
	lifetimeBody
}

// noBody is the body of calls that take no fields.
type noBody struct{}

func (a *api) create(w http.ResponseWriter, r *http.Request, _ string, query url.Values) (reply, error) {
	wait, err := parseWait(query)
	if err != nil {
		return reply{}, err
	}
	key, err := parseIdempotencyKey(r.Header)
	if err != nil {
		return reply{}, err
	}
	var body createBody
	if err := decodeBody(w, r, &body); err != nil {
		return reply{}, err
	}
	env, err := withoutNulls("env", body.Env)
	if err != nil {
		return reply{}, err
	}
	labels, err := withoutNulls("labels", body.Labels)
	if err != nil {
		return reply{}, err
	}
	ends, err := body.change()
	if err != nil {
		return reply{}, err
	}
	create := instance.CreateRequest{
		Prefix: body.Prefix, Template: body.Template, Port: body.Port,
		Env: env, Labels: labels, Ports: body.Ports, Wait: wait, IdempotencyKey: key,
	}
	ends(&create.Lifetime)
	made, err := a.manager.Create(r.Context(), create)
	if err != nil {
		return reply{}, err
	}
	answer := reply{status: http.StatusCreated, location: apiPath + "/" + made.Prefix, data: made}
	if wait == instance.WaitNone {
		answer.status = http.StatusAccepted
	}
	return answer, nil
}

func (a *api) list(_ http.ResponseWriter, _ *http.Request, _ string, query url.Values) (reply, error) {
	q, err := parseListQuery(query)
	if err != nil {
		return reply{}, err
	}
	page, err := a.manager.List(q)
	return reply{data: page}, err
}

func (a *api) get(_ http.ResponseWriter, _ *http.Request, prefix string, _ url.Values) (reply, error) {
	got, err := a.manager.Get(prefix)
	return reply{data: got}, err
}

// starting is a call that brings an instance up.
func starting(operate func(*instance.Manager, context.Context, string, instance.Wait) (instance.Instance, error)) runner {
	return func(a *api, w http.ResponseWriter, r *http.Request, prefix string, query url.Values) (reply, error) {
		wait, err := parseWait(query)
		if err != nil {
			return reply{}, err
		}
		if err := decodeBody(w, r, &noBody{}); err != nil {
			return reply{}, err
		}
		started, err := operate(a.manager, r.Context(), prefix, wait)
		return reply{data: started}, err
	}
}

// ending is a call that brings an instance down.
func ending(operate func(*instance.Manager, context.Context, string) (instance.Instance, error)) runner {
	return func(a *api, w http.ResponseWriter, r *http.Request, prefix string, _ url.Values) (reply, error) {
		if err := decodeBody(w, r, &noBody{}); err != nil {
			return reply{}, err
		}
		ended, err := operate(a.manager, r.Context(), prefix)
		return reply{data: ended}, err
	}
}

func parseWait(query url.Values) (instance.Wait, error) {
	if !query.Has("wait") {
		return instance.WaitReady, nil
	}
	wait := instance.Wait(query.Get("wait"))
	allowed := []instance.Wait{instance.WaitReady, instance.WaitStarted, instance.WaitNone}
	if !slices.Contains(allowed, wait) {
		return "", request.BadField("wait", "ready", "started", "none")
	}
	return wait, nil
}

// parseIdempotencyKey bounds a key, which is stored with the instance.
func parseIdempotencyKey(header http.Header) (string, error) {
	const longest = 255
	keys, ok := header["Idempotency-Key"]
	if !ok {
		return "", nil
	}
	if len(keys) != 1 || keys[0] == "" || len(keys[0]) > longest {
		return "", request.BadField("Idempotency-Key", "given once", "1 to 255 bytes long")
	}
	return keys[0], nil
}

func parseListQuery(query url.Values) (instance.Query, error) {
	q := instance.Query{
		Status:   instance.Status(query.Get("status")),
		Template: query.Get("template"),
		After:    query.Get("cursor"),
	}
	if query.Has("status") && !slices.Contains(instance.Statuses, q.Status) {
		var allowed []string
		for _, status := range instance.Statuses {
			allowed = append(allowed, string(status))
		}
		return q, request.BadField("status", allowed...)
	}
	if query.Has("limit") {
		limit, err := strconv.Atoi(query.Get("limit"))
		if err != nil || limit < 1 || limit > 1000 {
			return q, request.BadField("limit", "a whole number from 1 to 1000")
		}
		q.Limit = limit
	}
	if query.Has("cursor") && !instance.ValidPrefix(q.After) {
		return q, request.BadField("cursor", "the next of a page before")
	}
	for _, label := range query["label"] {
		key, value, ok := strings.Cut(label, "=")
		if !ok || key == "" {
			return q, request.BadField("label", "<key>=<value>")
		}
		if q.Labels == nil {
			q.Labels = map[string]string{}
		}
		q.Labels[key] = value
	}
	return q, nil
}
