package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// apiClient speaks to one place where the API is mounted.
type apiClient struct {
	base  string
	token string // empty: none is sent
	http  *http.Client
}

// answer is one answer of the API.
type answer struct {
	Status    int             `json:"-"`
	Header    http.Header     `json:"-"`
	Code      int             `json:"code"`
	Message   string          `json:"message"`
	Data      json.RawMessage `json:"data"`
	RequestID string          `json:"request_id"`
	raw       string
}

// instanceView is an instance as the API shows it. Unknown fields are errors
// (see decode), so it is also the list of fields that there may be.
type instanceView struct {
	Prefix        string            `json:"prefix"`
	Port          int               `json:"port"`
	Status        string            `json:"status"`
	Ready         bool              `json:"ready"`
	URL           string            `json:"url"`
	URLs          map[string]string `json:"urls"`
	Domains       []string          `json:"domains"`
	Template      string            `json:"template"`
	Image         string            `json:"image"`
	ContainerID   string            `json:"container_id"`
	ContainerPort int               `json:"container_port"`
	Labels        map[string]string `json:"labels"`
	Reason        string            `json:"reason"`
	Dev           string            `json:"dev"`
	HostHeader    string            `json:"host_header"`
	Generation    int               `json:"generation"`
	CreatedAt     time.Time         `json:"created_at"`
	StartedAt     *time.Time        `json:"started_at"`
	StoppedAt     *time.Time        `json:"stopped_at"`
	LastActiveAt  *time.Time        `json:"last_active_at"`

	IdleTimeout        string     `json:"idle_timeout"`
	OnIdle             string     `json:"on_idle"`
	TTL                string     `json:"ttl"`
	DeleteAfterStopped string     `json:"delete_after_stopped"`
	IdleAt             *time.Time `json:"idle_at"`
	ExpiresAt          *time.Time `json:"expires_at"`
	DeleteAt           *time.Time `json:"delete_at"`
}

// createRequest is the body of a create; what is unset is not sent.
type createRequest struct {
	Prefix   string            `json:"prefix,omitempty"`
	Template string            `json:"template,omitempty"`
	Port     int               `json:"port,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	Labels   map[string]string `json:"labels,omitempty"`
	Ports    []int             `json:"ports,omitempty"`

	IdleTimeout        string `json:"idle_timeout,omitempty"`
	OnIdle             string `json:"on_idle,omitempty"`
	TTL                string `json:"ttl,omitempty"`
	DeleteAfterStopped string `json:"delete_after_stopped,omitempty"`
}

// header is one header field of a request.
type header struct{ name, value string }

// try sends one request. body is sent as it is if it is a string, else as JSON;
// nil sends none.
func (c apiClient) try(method, path string, body any, headers ...header) (answer, error) {
	req, err := http.NewRequest(method, c.base+path, bodyReader(body))
	if err != nil {
		return answer{}, err
	}
	if c.token != "" {
		req.Header.Set("Authorization", "Bearer "+c.token)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		req.Header.Set(h.name, h.value)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{Status: res.StatusCode, Header: res.Header, raw: string(raw)}
	if len(raw) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			return a, fmt.Errorf("%s %s: %d with a body that is no JSON object: %s", method, path, a.Status, raw)
		}
	}
	return a, nil
}

func bodyReader(body any) io.Reader {
	switch b := body.(type) {
	case nil:
		return nil
	case string:
		return strings.NewReader(b)
	default:
		encoded, err := json.Marshal(b)
		if err != nil {
			panic(err) // a test sends what cannot be sent
		}
		return bytes.NewReader(encoded)
	}
}

// call is try where an answer must come.
func (c apiClient) call(t testing.TB, method, path string, body any, headers ...header) answer {
	t.Helper()
	a, err := c.try(method, path, body, headers...)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return a
}

// expect checks status and code.
func (a answer) expect(t testing.TB, status, code int) answer {
	t.Helper()
	if a.Status != status || a.Code != code {
		t.Fatalf("got %d, code %d, want %d, code %d: %s", a.Status, a.Code, status, code, a.raw)
	}
	return a
}

// says checks that the text for people holds each of parts.
func (a answer) says(t testing.TB, parts ...string) answer {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(a.Message, part) {
			t.Errorf("message %q does not say %q", a.Message, part)
		}
	}
	return a
}

// details are the data of a failure, for programs.
func (a answer) details(t testing.TB) map[string]any {
	t.Helper()
	var details map[string]any
	if err := json.Unmarshal(a.Data, &details); err != nil {
		t.Fatalf("data are no object: %s", a.raw)
	}
	return details
}

// decode reads the data of a success into v, strictly.
func (a answer) decode(t testing.TB, v any) {
	t.Helper()
	if a.Code != 0 || a.Message != "ok" {
		t.Errorf("a success has code 0 and message ok, got %s", a.raw)
	}
	data := json.NewDecoder(bytes.NewReader(a.Data))
	data.DisallowUnknownFields()
	if err := data.Decode(v); err != nil {
		t.Fatalf("decoding %s: %v", a.raw, err)
	}
}

func (a answer) instance(t testing.TB) instanceView {
	t.Helper()
	var i instanceView
	a.decode(t, &i)
	return i
}

// create makes an instance that is removed at the end of the test.
func (c apiClient) create(t testing.TB, req createRequest, headers ...header) instanceView {
	t.Helper()
	i := c.call(t, http.MethodPost, "/api/instances", req, headers...).expect(t, http.StatusCreated, 0).instance(t)
	c.removeAfter(t, i.Prefix)
	return i
}

func (c apiClient) removeAfter(t testing.TB, prefix string) {
	t.Cleanup(func() { _, _ = c.try(http.MethodDelete, "/api/instances/"+prefix, nil) })
}

func (c apiClient) get(t testing.TB, prefix string) instanceView {
	t.Helper()
	return c.call(t, http.MethodGet, "/api/instances/"+prefix, nil).expect(t, http.StatusOK, 0).instance(t)
}

// answers200 is for calls that need not be looked at closer.
func (c apiClient) answers200(path string) error {
	a, err := c.try(http.MethodGet, path, nil)
	if err == nil && a.Status != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %s", path, a.Status, a.raw)
	}
	return err
}

// act starts, stops or restarts an instance.
func (c apiClient) act(t testing.TB, prefix, action string) instanceView {
	t.Helper()
	return c.call(t, http.MethodPost, "/api/instances/"+prefix+"/"+action, nil).expect(t, http.StatusOK, 0).instance(t)
}

func (c apiClient) delete(t testing.TB, prefix string) instanceView {
	t.Helper()
	return c.call(t, http.MethodDelete, "/api/instances/"+prefix, nil).expect(t, http.StatusOK, 0).instance(t)
}

// listPage is one page of a list.
type listPage struct {
	Instances []instanceView `json:"instances"`
	Total     int            `json:"total"`
	Next      string         `json:"next"`
}

func (c apiClient) list(t testing.TB, query string) listPage {
	t.Helper()
	var p listPage
	c.call(t, http.MethodGet, "/api/instances"+query, nil).expect(t, http.StatusOK, 0).decode(t, &p)
	return p
}

// awaitStatus waits until the instance has this status and, if not empty, this
// reason.
func (c apiClient) awaitStatus(t testing.TB, limit time.Duration, prefix, status, reason string) instanceView {
	t.Helper()
	var seen instanceView
	eventually(t, limit, func() error {
		seen = c.get(t, prefix)
		if seen.Status != status || reason != "" && seen.Reason != reason {
			return fmt.Errorf("%s is %s (reason %q), want %s (%q)", prefix, seen.Status, seen.Reason, status, reason)
		}
		return nil
	})
	return seen
}
