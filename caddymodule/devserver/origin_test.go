package devserver

import (
	"net/http"
	"testing"
)

func TestForeign(t *testing.T) {
	o := NewOrigins("https://{prefix}.{domain}:8443/", "sandbox.example.com", []string{"https://app.example.com", "http://localhost:3000"})
	const host = "abcdefgh.sandbox.example.com"
	for _, row := range []struct {
		name         string
		scheme, host string // of the request
		origin       string
		own          bool
	}{
		{"its own", "https", host, "https://" + host, true},
		{"its own, host in capitals", "https", "ABCDEFGH.Sandbox.example.com", "https://" + host, true},
		{"its own, with its port", "https", host + ":8443", "https://" + host + ":8443", true},
		{"its own, the default port", "https", host + ":443", "https://" + host, true},
		{"its own, by http", "http", host + ":80", "http://" + host, true},
		{"its own, with a dot", "https", host + ".", "https://" + host + ".", true},
		{"public, behind a proxy that ends TLS", "http", host, "https://" + host + ":8443", true},
		{"public, of one of its ports", "http", host, "https://3000-" + host + ":8443", true},
		{"one of its ports", "https", host, "https://3000-" + host, true},
		{"from one of its ports", "https", "3000-" + host, "https://" + host, true},
		{"from one of its ports to another", "https", "3000-" + host, "https://4000-" + host, true},
		{"a host of its own", "https", "shop.example.org", "https://shop.example.org", true},
		{"the builder", "https", host, "https://app.example.com", true},
		{"the builder on this machine", "https", host, "http://localhost:3000", true},
		{"sent by a program, with a path", "https", host, "https://" + host + "/ws", true},

		{"another scheme", "https", host, "http://" + host, false},
		{"another scheme of the public one", "http", host, "ws://" + host + ":8443", false},
		{"another port", "https", host, "https://" + host + ":9443", false},
		{"another instance", "https", host, "https://bbbbbbbb.sandbox.example.com", false},
		{"a port of another", "https", host, "https://3000-bbbbbbbb.sandbox.example.com", false},
		{"no port before the prefix", "https", host, "https://a-" + host, false},
		{"an empty port", "https", host, "https://-" + host, false},
		{"two ports", "https", host, "https://1-2-" + host, false},
		{"another domain", "https", host, "https://abcdefgh.example.com", false},
		{"below it", "https", host, "https://evil." + host, false},
		{"it below another", "https", host, "https://" + host + ".evil.example", false},
		{"the domain", "https", host, "https://sandbox.example.com", false},
		{"beginning like it", "https", host, "https://" + host + "evil", false},
		{"its name as a user", "https", host, "https://" + host + "@evil.example", false},
		{"beginning like the builder", "https", host, "https://app.example.com.evil.example", false},
		{"the builder by http", "https", host, "http://app.example.com", false},
		{"the builder's other port", "https", host, "https://app.example.com:444", false},
		{"hidden", "https", host, "null", false},
		{"empty", "https", host, "", false},
		{"a file", "https", host, "file://", false},
		{"an extension", "https", host, "chrome-extension://abcdefgh", false},
		{"no scheme", "https", host, host, false},
	} {
		t.Run(row.name, func(t *testing.T) {
			r := request("/", "Origin", row.origin)
			r.Host = row.host
			if got := o.Foreign(r, row.scheme, "abcdefgh"); (got == "") != row.own {
				t.Errorf("foreign is %q", got)
			}
		})
	}
}

func TestForeignNeedsAnOrigin(t *testing.T) {
	o := NewOrigins("https://{prefix}.{domain}", "sandbox.example.com", nil)
	if got := o.Foreign(request("/", "Sec-Fetch-Site", "cross-site"), "https", "abcdefgh"); got != "" {
		t.Errorf("without an Origin foreign is %q", got)
	}
	if got := o.Foreign(request("/", "Origin", "null", "Sec-Fetch-Site", "same-origin"), "https", "abcdefgh"); got != "" {
		t.Errorf("its own page, which hides where it is, is foreign: %q", got)
	}
	r := request("/", "Origin", origin)
	r.Header["Origin"] = append(r.Header["Origin"], "https://evil.example")
	if got := o.Foreign(r, "https", "abcdefgh"); got == "" {
		t.Error("a second Origin was overlooked")
	}
}

func TestOriginsBeforeTheURLIsKnown(t *testing.T) {
	o := NewOrigins("", "sandbox.example.com", nil)
	for from, own := range map[string]bool{origin: true, "https://evil.example": false, "": false, "://": false} {
		if got := o.Foreign(request("/", "Origin", from), "https", "abcdefgh"); (got == "") != own {
			t.Errorf("from %q foreign is %q", from, got)
		}
	}
}

func TestVouches(t *testing.T) {
	o := NewOrigins("https://{prefix}.{domain}", "sandbox.example.com", []string{"https://app.example.com"})
	script := map[string]string{"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Referer": "https://app.example.com/page"}
	for _, row := range []struct {
		name, path, header, value string
		want                      bool
	}{
		{"the builder's script", "/_next/a.js", "", "", true},
		{"its own, from another site", "/_next/a.js", "Referer", origin + "/", true},
		{"a stranger's", "/_next/a.js", "Referer", "https://evil.example/", false},
		{"nobody's", "/_next/a.js", "Referer", "", false},
		{"the same site", "/_next/a.js", "Sec-Fetch-Site", "same-origin", false},
		{"a fetch", "/_next/a.js", "Sec-Fetch-Mode", "cors", false},
		{"another path", "/a.js", "", "", false},
	} {
		r := request(row.path)
		for name, value := range script {
			r.Header.Set(name, value)
		}
		if row.header != "" {
			r.Header.Set(row.header, row.value)
		}
		if got := o.Vouches(r, "https", "abcdefgh"); got != row.want {
			t.Errorf("%s: %v, want %v", row.name, got, row.want)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	for text, want := range map[string]string{
		"https://app.example.com":       "https://app.example.com",
		"https://App.Example.COM:443/":  "https://app.example.com",
		"HTTP://localhost:80":           "http://localhost",
		"http://localhost:3000":         "http://localhost:3000",
		"https://[::1]:8443":            "https://[::1]:8443",
		"app.example.com":               "",
		"https://":                      "",
		"https://*.example.com":         "",
		"https://app.example.com/page":  "",
		"https://app.example.com?a":     "",
		"https://user@app.example.com":  "",
		"https://app.example.com#a":     "",
		"wss://app.example.com":         "",
		"null":                          "",
		"*":                             "",
		"":                              "",
		"https://app.example.com:https": "",
	} {
		if got, err := ParseOrigin(text); got != want || (err != nil) != (want == "") {
			t.Errorf("%q: got %q, %v, want %q", text, got, err, want)
		}
	}
}

func TestAnOriginIsCheckedWithoutAllocations(t *testing.T) {
	o := NewOrigins("https://{prefix}.{domain}", "sandbox.example.com", []string{"https://app.example.com"})
	for _, r := range []*http.Request{request("/"), request("/", "Origin", origin), request("/", "Origin", "https://app.example.com")} {
		if n := testing.AllocsPerRun(100, func() {
			if o.Foreign(r, "https", "abcdefgh") != "" || o.Vouches(r, "https", "abcdefgh") {
				t.Error("wrong answer")
			}
		}); n > 0 {
			t.Errorf("%v: %v allocations, want none", r.Header, n)
		}
	}
}
