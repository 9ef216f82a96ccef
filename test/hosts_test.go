package test

import (
	"slices"
	"strings"
	"testing"
)

// The two instances of these tests, in mode raw: they answer with the bytes
// that they received.
const (
	alpha     = "hostalpha"
	bravo     = "hostbravo"
	alphaHost = alpha + "." + domain
	bravoHost = bravo + "." + domain
)

// everyHost has every host that is sent reach the handler, not only those that
// Caddy's matcher takes for one below the domain.
const everyHost = `
http:// {
	sandbox_proxy
}
https:// {
	tls internal {
		on_demand
	}
	sandbox_proxy
}
`

// hostileRow is what a stranger sends, and what must come of it.
type hostileRow struct {
	name string
	send string
	want string // summary of the answers
	// closes says that the connection ends with the answers; else one more
	// request follows on it, and is answered by alpha.
	closes bool
	has    []string // in what the (last) instance received
	hasNot []string
}

// request is a GET with this Host.
func rawGet(host string) string { return "GET /path HTTP/1.1\r\nHost: " + host + "\r\n\r\n" }

// post is a POST to alpha with these header lines.
func post(lines, body string) string {
	return "POST /path HTTP/1.1\r\nHost: " + alphaHost + "\r\n" + lines + "\r\n" + body
}

// toInstances are spellings of hosts that instances have.
var toInstances = []hostileRow{
	{name: "as it is", send: rawGet(alphaHost), want: "200 hostalpha", has: []string{"GET /path HTTP/1.1\r\n", "Host: " + alphaHost + "\r\n"}},
	{name: "the other one", send: rawGet(bravoHost), want: "200 hostbravo"},
	{name: "upper case", send: rawGet("HOSTALPHA.Sandbox.LocalHost"), want: "200 hostalpha"},
	{name: "header in lower case", send: "GET / HTTP/1.1\r\nhost:" + alphaHost + "\r\n\r\n", want: "200 hostalpha"},
	{name: "space around it", send: rawGet("\t " + alphaHost + " \t"), want: "200 hostalpha", has: []string{"Host: " + alphaHost + "\r\n"}},
	{name: "a port", send: rawGet(alphaHost + ":8443"), want: "200 hostalpha"},
	{name: "the highest port", send: rawGet(alphaHost + ":65535"), want: "200 hostalpha"},
	{name: "lines that end in LF alone", send: "GET / HTTP/1.1\nHost: " + alphaHost + "\n\n", want: "200 hostalpha", has: []string{"GET / HTTP/1.1\r\nHost: "}},
	{name: "HTTP/1.0", send: "GET / HTTP/1.0\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostalpha", closes: true},
	{name: "absolute form", send: "GET http://" + alphaHost + "/path HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostalpha", has: []string{"GET /path HTTP/1.1\r\n"}},
	// Of the two hosts, the one in the URL is the request's (RFC 9112, 3.2.2):
	// r.Host in Go. What counts is that nobody goes by the other one.
	{name: "absolute form, Host another instance's", send: "GET http://" + bravoHost + "/path HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostbravo", has: []string{"GET /path HTTP/1.1\r\n", "Host: " + bravoHost + "\r\n"}, hasNot: []string{alphaHost}},
	{name: "absolute form, Host unknown", send: "GET http://" + bravoHost + "/ HTTP/1.1\r\nHost: unknown.example.com\r\n\r\n", want: "200 hostbravo", hasNot: []string{"unknown"}},
	{name: "absolute form of https, with a port", send: "GET https://" + bravoHost + ":444/ HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostbravo", hasNot: []string{alphaHost}},
	{name: "a path that looks like a host", send: "GET //" + bravoHost + "/ HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostalpha"},
	{name: "X-Forwarded-Host of another", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nX-Forwarded-Host: " + bravoHost + "\r\n\r\n", want: "200 hostalpha"},
}

// toNobody are hosts that no instance has, in forms that pass Go's own checks.
var toNobody = []hostileRow{
	{name: "unknown", send: rawGet("unknownhost." + domain), want: "404"},
	{name: "port too high", send: rawGet(alphaHost + ":99999999"), want: "404"},
	{name: "port one too high", send: rawGet(alphaHost + ":65536"), want: "404"},
	{name: "empty port", send: rawGet(alphaHost + ":"), want: "404"},
	{name: "port in words", send: rawGet(alphaHost + ":http"), want: "404"},
	{name: "port with a sign", send: rawGet(alphaHost + ":+80"), want: "404"},
	{name: "two ports", send: rawGet(alphaHost + ":80:80"), want: "404"},
	{name: "empty label", send: rawGet("." + domain), want: "404"},
	{name: "empty label between", send: rawGet(alpha + ".." + domain), want: "404"},
	{name: "empty label before", send: rawGet("." + alphaHost), want: "404"},
	{name: "star", send: rawGet("*." + domain), want: "404"},
	{name: "underscore", send: rawGet("host_alpha." + domain), want: "404"},
	{name: "dash", send: rawGet("-hostalpha." + domain), want: "404"},
	{name: "punycode", send: rawGet("xn--hostlpha-4ya." + domain), want: "404"},
	{name: "percent", send: rawGet("host%61lpha." + domain), want: "404"},
	{name: "encoded dot", send: rawGet(alpha + "%2e" + domain), want: "404"},
	{name: "two labels", send: rawGet("www." + alphaHost), want: "404"},
	{name: "64-byte label", send: rawGet(strings.Repeat("a", 64) + "." + domain), want: "404"},
	{name: "300-byte label", send: rawGet(strings.Repeat("a", 300) + "." + domain), want: "404"},
	{name: "20 000-byte label", send: rawGet(strings.Repeat("a", 20_000) + "." + domain), want: "404"},
	{name: "20 000 bytes, then a true host", send: rawGet(strings.Repeat("a.", 10_000) + alphaHost), want: "404"},
	{name: "10 000 dots", send: rawGet(alpha + strings.Repeat(".", 10_000) + domain), want: "404"},
	{name: "the domain", send: rawGet(domain), want: "404"},
	{name: "the prefix alone", send: rawGet(alpha), want: "404"},
	{name: "another domain", send: rawGet(alpha + ".example.com"), want: "404"},
	{name: "the domain as a part", send: rawGet(alphaHost + ".example.com"), want: "404"},
	{name: "the domain without its dot", send: rawGet(alpha + domain), want: "404"},
	{name: "two hosts in one", send: rawGet(alphaHost + "," + bravoHost), want: "404"},
	{name: "IPv4", send: rawGet("127.0.0.1"), want: "404"},
	{name: "IPv6", send: rawGet("[::1]"), want: "404"},
	{name: "IPv6 and a port", send: rawGet("[::1]:443"), want: "404"},
	{name: "a host in brackets", send: rawGet("[" + alphaHost + "]"), want: "404"},
	{name: "HTTP/1.0 without a host", send: "GET / HTTP/1.0\r\n\r\n", want: "404", closes: true},
	{name: "absolute form of nobody, Host an instance's", send: "GET http://unknownhost." + domain + "/ HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "404"},
	{name: "only a forwarded host", send: "GET / HTTP/1.1\r\nHost: unknownhost." + domain + "\r\nX-Forwarded-Host: " + alphaHost + "\r\n\r\n", want: "404"},
}

// refused are requests that Caddy, or Go below it, takes for none. The rows
// are here so that we learn when that changes.
var refused = []hostileRow{
	{name: "no Host", send: "GET / HTTP/1.1\r\n\r\n", want: "400", closes: true},
	{name: "empty Host", send: rawGet(""), want: "400"},
	{name: "two Hosts", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nHost: " + bravoHost + "\r\n\r\n", want: "400", closes: true},
	{name: "the same Host twice", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nHost: " + alphaHost + "\r\n\r\n", want: "400", closes: true},
	{name: "Host, folded", send: "GET / HTTP/1.1\r\nHost: hostalpha\r\n ." + domain + "\r\n\r\n", want: "400", closes: true},
	{name: "space before the colon", send: "GET / HTTP/1.1\r\nHost : " + alphaHost + "\r\n\r\n", want: "400", closes: true},
	{name: "IDN in UTF-8", send: rawGet("höstalpha." + domain), want: "400", closes: true},
	{name: "the Kelvin sign", send: rawGet("hostalp\u212aa." + domain), want: "400", closes: true},
	{name: "user", send: rawGet("user@" + alphaHost), want: "400", closes: true},
	{name: "slash", send: rawGet(alphaHost + "/x"), want: "400", closes: true},
	{name: "backslash", send: rawGet(bravo + "\\." + domain), want: "400", closes: true},
	{name: "space", send: rawGet("host alpha." + domain), want: "400", closes: true},
	{name: "NUL", send: rawGet("hostalpha\x00." + domain), want: "400", closes: true},
	{name: "CR", send: rawGet("hostalpha\r." + domain), want: "400", closes: true},
	{name: "a user in the URL", send: "GET http://user@" + alphaHost + "/ HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200 hostalpha"},
	{name: "HTTP/9.9", send: "GET / HTTP/9.9\r\nHost: " + alphaHost + "\r\n\r\n", want: "505", closes: true},
	{name: "OPTIONS *", send: "OPTIONS * HTTP/1.1\r\nHost: " + alphaHost + "\r\n\r\n", want: "200"},
}

// framing is about where a request ends: who disagrees with the upstream about
// that lets one visitor speak in another's name.
var framing = []hostileRow{
	{name: "a body by its length", send: post("Content-Length: 5\r\n", "hello"), want: "200 hostalpha", has: []string{"Content-Length: 5\r\n", "\r\n\r\nhello"}},
	{name: "a body in chunks", send: post("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), want: "200 hostalpha", has: []string{"Transfer-Encoding: chunked\r\n", "\r\n\r\n5\r\nhello\r\n0\r\n\r\n"}, hasNot: []string{"Content-Length"}},
	{name: "a GET with a body", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nContent-Length: 26\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n", want: "200 hostalpha", has: []string{"Content-Length: 26\r\n", "\r\n\r\nGET /smuggled"}},
	{name: "length and chunks", send: post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"), want: "200 hostalpha", has: []string{"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"}, hasNot: []string{"Content-Length"}},
	{name: "chunks and length, a request behind", send: post("Transfer-Encoding: chunked\r\nContent-Length: 200\r\n", "0\r\n\r\n"+rawGet(bravoHost)), want: "200 hostalpha, 200 hostbravo", hasNot: []string{"POST", alphaHost}},
	{name: "lengths that differ", send: post("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!"), want: "400", closes: true},
	{name: "the same length twice", send: post("Content-Length: 5\r\nContent-Length: 5\r\n", "hello"), want: "200 hostalpha", has: []string{"\r\n\r\nhello"}},
	{name: "two lengths in one line", send: post("Content-Length: 5, 5\r\n", "hello"), want: "400", closes: true},
	{name: "length with a sign", send: post("Content-Length: +5\r\n", "hello"), want: "400", closes: true},
	{name: "negative length", send: post("Content-Length: -1\r\n", "hello"), want: "400", closes: true},
	{name: "length in hex", send: post("Content-Length: 0x5\r\n", "hello"), want: "400", closes: true},
	{name: "length and nothing", send: post("Content-Length:\r\n", ""), want: "400", closes: true},
	{name: "length of more than there is", send: post("Content-Length: 99999999999999999999\r\n", "hello"), want: "400", closes: true},
	{name: "space before the colon", send: post("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"), want: "400", closes: true},
	{name: "encoding that is none", send: post("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"), want: "501", closes: true},
	{name: "identity", send: post("Transfer-Encoding: identity\r\n", "0\r\n\r\n"), want: "501", closes: true},
	{name: "chunked twice", send: post("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"), want: "501", closes: true},
	{name: "two encodings", send: post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"), want: "501", closes: true},
	{name: "vertical tab", send: post("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"), want: "400", closes: true},
	{name: "chunks in HTTP/1.0", send: "POST / HTTP/1.0\r\nHost: " + alphaHost + "\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", want: "200 hostalpha", closes: true, hasNot: []string{"Transfer-Encoding", "hello"}},
	{name: "NUL in a header", send: post("X-Nul: a\x00b\r\n", ""), want: "400", closes: true},
	{name: "CR in a header", send: post("X-Cr: a\rb\r\n", ""), want: "400", closes: true},
	{name: "a header without a colon", send: post("nonsense\r\n", ""), want: "400", closes: true},
	{name: "Connection names Host", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nConnection: Host, X-Mine\r\nX-Mine: 1\r\n\r\n", want: "200 hostalpha", has: []string{"Host: " + alphaHost}, hasNot: []string{"X-Mine"}},
	{name: "two requests in one go", send: rawGet(alphaHost) + rawGet(bravoHost), want: "200 hostalpha, 200 hostbravo", hasNot: []string{alphaHost}},
	{name: "20 KB of headers", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nX-Long: " + strings.Repeat("x", 20_000) + "\r\n\r\n", want: "200 hostalpha", has: []string{strings.Repeat("x", 20_000)}},
	{name: "1.2 MB of headers", send: "GET / HTTP/1.1\r\nHost: " + alphaHost + "\r\nX-Long: " + strings.Repeat("x", 1_200_000) + "\r\n\r\n", want: "431", closes: true},
}

// One Caddy serves all of these tests: containers have the names of their
// instances, and one engine has each name once.
func TestHostsAsStrangersTypeThem(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Sites: plainSite + everyHost})
	for _, prefix := range []string{alpha, bravo} {
		c.admin.create(t, createRequest{Prefix: prefix, Env: map[string]string{"TEST_MODE": "raw"}})
	}
	// A dot at its end does not make it another name, so it is the same
	// instance: where the sites let it come this far, see below.
	withDots := []hostileRow{
		{name: "a dot at the end", send: rawGet(alphaHost + "."), want: "200 hostalpha"},
		{name: "a dot at the end, and a port", send: rawGet(alphaHost + ".:443"), want: "200 hostalpha"},
		{name: "two dots at the end", send: rawGet(alphaHost + ".."), want: "404"},
		{name: "dots alone", send: rawGet("..."), want: "400"},
	}
	rows := slices.Concat(toInstances, withDots, toNobody, refused, framing)
	t.Run("plain", func(t *testing.T) { c.replayAll(t, "", rows) })
	t.Run("TLS", func(t *testing.T) { c.replayAll(t, alphaHost, rows) })
	t.Run("TLS, handshake for another instance", func(t *testing.T) { c.replayAll(t, bravoHost, rows) })
	t.Run("HTTP/2", c.testAuthorities)
	t.Run("handshake", c.testNamesInHandshakes)

	// Now as in Caddyfile.example: hosts that do not match its sites reach no
	// instance, and of those that do, the handler refuses the rest.
	c.Sites = plainSite
	c.reload(t, c.caddyfile())
	t.Run("beside the site", c.testHostsBesideTheSite)
	c.stillWell(t)
}

func (c *caddyServer) replayAll(t *testing.T, sni string, rows []hostileRow) {
	for _, row := range rows {
		c.replay(t, sni, row)
	}
}

// replay sends the row, and looks whether others are still served.
func (c *caddyServer) replay(t *testing.T, sni string, row hostileRow) {
	t.Helper()
	want, send := row.want, row.send
	if !row.closes {
		send += "GET /next HTTP/1.1\r\nHost: " + alphaHost + "\r\nConnection: close\r\n\r\n"
		want += ", 200 hostalpha"
	}
	answers := c.dialWire(t, sni).exchange(t, send)
	if got := summary(answers); got != want {
		t.Errorf("%s: answers %q, want %q", row.name, got, want)
		return
	}
	last := len(strings.Split(row.want, ", ")) - 1
	for _, part := range row.has {
		if !strings.Contains(answers[last].body, part) {
			t.Errorf("%s: the instance did not receive %.100q but\n%.2000s", row.name, part, answers[last].body)
		}
	}
	for _, part := range row.hasNot {
		if strings.Contains(answers[last].body, part) {
			t.Errorf("%s: the instance received %.100q in\n%.2000s", row.name, part, answers[last].body)
		}
	}
	if got := summary(c.dialWire(t, "").exchange(t, lastRequest(alphaHost))); got != "200 hostalpha" {
		t.Fatalf("%s: afterwards another visitor got %q", row.name, got)
	}
}

// lastRequest is a GET after which the connection ends.
func lastRequest(host string) string {
	return "GET / HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
}

// stillWell checks that nothing of all that made Caddy panic or end.
func (c *caddyServer) stillWell(t testing.TB) {
	t.Helper()
	select {
	case <-c.exited:
		t.Errorf("Caddy ended: %v", c.exitErr)
	default:
	}
	if log := c.logTail(0); strings.Contains(log, "panic") {
		t.Errorf("a panic is in the log:\n%s", log)
	}
}

func (c *caddyServer) testHostsBesideTheSite(t *testing.T) {
	for _, host := range []string{
		alphaHost + ".", domain, "127.0.0.1", "[::1]", "www." + alphaHost, alpha + ".example.com", strings.Repeat("a", 20_000),
	} {
		for _, a := range c.dialWire(t, alphaHost).exchange(t, lastRequest(host)) {
			if a.servedBy() != "" || a.body != "" {
				t.Errorf("%.40q: %d from %q: %s", host, a.StatusCode, a.servedBy(), a.body)
			}
		}
	}
	for _, host := range []string{"*." + domain, "." + domain, strings.Repeat("a", 20_000) + "." + domain, alphaHost + ":99999999"} {
		if got := summary(c.dialWire(t, alphaHost).exchange(t, lastRequest(host))); got != "404" {
			t.Errorf("%.40q: %s, want 404", host, got)
		}
	}
	for host, want := range map[string]string{alphaHost: "200 hostalpha", strings.ToUpper(bravoHost) + ":1": "200 hostbravo"} {
		if got := summary(c.dialWire(t, alphaHost).exchange(t, lastRequest(host))); got != want {
			t.Errorf("%.40q: %s, want %s", host, got, want)
		}
	}
}

// The name in the handshake decides about the certificate, and about nothing
// else (that Host alone leads to an instance is in the rows).
func (c *caddyServer) testNamesInHandshakes(t *testing.T) {
	for sni, want := range map[string]bool{
		alphaHost:                              true,
		strings.ToUpper(alphaHost):             true,
		"":                                     false,
		"unknownhost." + domain:                false,
		"*." + domain:                          false,
		"." + domain:                           false,
		"host_alpha." + domain:                 false,
		"www." + alphaHost:                     false,
		alphaHost + ":443":                     false,
		domain:                                 false,
		alphaHost + ".example.com":             false,
		"xn--hostlpha-4ya." + domain:           false,
		"h\xf6stalpha." + domain:               false,
		"hostalp\u212aa." + domain:             false,
		"hostalpha\x00." + domain:              false,
		strings.Repeat("a", 64) + "." + domain: false,
		strings.Repeat("a", 20_000) + "." + domain:  false,
		strings.Repeat("../", 80) + "etc." + domain: false,
		strings.Repeat("a.", 120) + alphaHost:       false,
	} {
		if got := c.shakesHands(t, sni); got != want {
			t.Errorf("%.40q: handshake completed: %v, want %v", sni, got, want)
		}
	}
}

// A row of HTTP/2: its pseudo-headers are fields as well, and can be missing
// or there twice.
type authorityRow struct {
	name   string
	fields []header
	want   string
	hasNot []string
}

func authorityHeader(host string) []header { return []header{{":authority", host}} }

var authorities = []authorityRow{
	{name: "as it is", fields: authorityHeader(alphaHost), want: "200 hostalpha"},
	{name: "another instance's than the handshake's", fields: authorityHeader(bravoHost), want: "200 hostbravo"},
	{name: "upper case", fields: authorityHeader(strings.ToUpper(alphaHost)), want: "200 hostalpha"},
	{name: "a port", fields: authorityHeader(alphaHost + ":8443"), want: "200 hostalpha"},
	{name: "a dot at the end", fields: authorityHeader(alphaHost + "."), want: "200 hostalpha"},
	{name: "a bad port", fields: authorityHeader(alphaHost + ":99999999"), want: "404"},
	{name: "Host in its place", fields: []header{{"host", bravoHost}}, want: "200 hostbravo"},
	{name: "another one than Host", fields: []header{{":authority", bravoHost}, {"host", alphaHost}}, want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "unknown, Host an instance's", fields: []header{{":authority", "unknownhost." + domain}, {"host", alphaHost}}, want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "empty label", fields: authorityHeader("." + domain), want: "404"},
	{name: "star", fields: authorityHeader("*." + domain), want: "404"},
	{name: "5 000-byte label", fields: authorityHeader(strings.Repeat("a", 5000) + "." + domain), want: "404"},
	{name: "20 000-byte label", fields: authorityHeader(strings.Repeat("a", 20_000) + "." + domain), want: "GOAWAY COMPRESSION_ERROR"},
	{name: "IPv6", fields: authorityHeader("[::1]"), want: "404"},
	{name: "none", want: "404"},
	{name: "twice", fields: []header{{":authority", alphaHost}, {":authority", bravoHost}}, want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "after another field", fields: []header{{"x-one", "1"}, {":authority", alphaHost}}, want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "UTF-8", fields: authorityHeader("h\u00f6stalpha." + domain), want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "a user", fields: authorityHeader("user@" + alphaHost), want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "a slash", fields: authorityHeader(alphaHost + "/x"), want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "a space", fields: authorityHeader(" " + alphaHost), want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "lines", fields: authorityHeader(alphaHost + "\r\nX-Smuggled: 1"), want: "RST_STREAM PROTOCOL_ERROR"},
	{name: "an upgrade of HTTP/1", fields: []header{{":authority", alphaHost}, {"connection", "upgrade"}}, want: "400"},
	{name: "an encoding of HTTP/1", fields: []header{{":authority", alphaHost}, {"transfer-encoding", "chunked"}}, want: "400"},
	{name: "a length without a body", fields: []header{{":authority", alphaHost}, {"content-length", "5"}}, want: "200 hostalpha", hasNot: []string{"Content-Length"}},
}

func (c *caddyServer) testAuthorities(t *testing.T) {
	for _, row := range authorities {
		answer := c.askHTTP2(t, alphaHost, row.fields)
		if got := answer.summary(); got != row.want {
			t.Errorf("%s: %s, want %s", row.name, got, row.want)
		}
		for _, part := range row.hasNot {
			if strings.Contains(answer.body, part) {
				t.Errorf("%s: the instance received %q in\n%s", row.name, part, answer.body)
			}
		}
		if got := c.askHTTP2(t, alphaHost, authorityHeader(alphaHost)).summary(); got != "200 hostalpha" {
			t.Fatalf("%s: afterwards another visitor got %s", row.name, got)
		}
	}
}
