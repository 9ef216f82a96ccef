package visit

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

const safari = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15"

const chrome = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"

func TestOf(t *testing.T) {
	html := "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
	for _, row := range []struct {
		name, method, path string
		header             map[string]string
		want               Kind
	}{
		{"a browser opens a page", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Accept": html, "User-Agent": chrome}, Navigation},
		{"in a frame", "GET", "/a?b", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "User-Agent": chrome}, Navigation},
		{"a person follows a link", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-User": "?1", "User-Agent": chrome}, Navigation},
		{"a page of the same site shows it in a frame", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "same-site", "User-Agent": chrome}, Navigation},
		{"a page of another does", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site", "User-Agent": chrome}, Frame},
		{"in Safari", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site", "User-Agent": safari}, Frame},
		{"by another element", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object", "Sec-Fetch-Site": "cross-site", "User-Agent": chrome}, Frame},
		{"after a click", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-User": "?1", "User-Agent": chrome}, Frame},
		{"a page of another site leads here", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "cross-site", "User-Agent": chrome}, Navigation},
		{"an open page loads itself again", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "User-Agent": chrome}, Reload},
		{"in Firefox", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"}, Reload},
		{"a person may follow a link in Safari, which does not tell", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "User-Agent": safari}, Navigation},
		{"in Chrome on an iPhone", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "User-Agent": "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) CriOS/141.0.7390.96 Mobile/15E148 Safari/604.1"}, Navigation},
		{"an old browser", "GET", "/", map[string]string{"Accept": html, "User-Agent": chrome}, Navigation},
		{"a form is sent", "POST", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "User-Agent": chrome}, Call},
		{"a script", "GET", "/api", map[string]string{"Sec-Fetch-Mode": "cors", "Accept": html, "User-Agent": chrome}, Call},
		{"a module of the page", "GET", "/src/main.js", map[string]string{"Sec-Fetch-Mode": "cors", "User-Agent": chrome}, Call},
		{"curl", "GET", "/", map[string]string{"Accept": "*/*", "User-Agent": "curl/8.5.0"}, Call},
		{"nothing is said", "GET", "/", nil, Call},
		{"HMR", "GET", "/", map[string]string{"Upgrade": "websocket", "Sec-WebSocket-Protocol": "vite-hmr"}, WebSocket},
		{"over HTTP/2", "CONNECT", "/", nil, WebSocket},
		{"Vite 8 pings", "GET", "/", map[string]string{"Upgrade": "websocket", "Sec-Websocket-Protocol": "vite-ping"}, Ping},
		{"Vite 5 pings", "GET", "/", map[string]string{"Accept": "text/x-vite-ping", "User-Agent": chrome}, Ping},

		{"HEAD", "HEAD", "/", map[string]string{"Accept": html}, Machine},
		{"an icon", "GET", "/favicon.ico", map[string]string{"Sec-Fetch-Mode": "no-cors", "User-Agent": chrome}, Machine},
		{"an icon, navigated to", "GET", "/favicon.ico", map[string]string{"Sec-Fetch-Mode": "navigate"}, Machine},
		{"an icon of Apple's", "GET", "/apple-touch-icon-120x120-precomposed.png", nil, Machine},
		{"robots", "GET", "/robots.txt", map[string]string{"Accept": html}, Machine},
		{"well-known", "GET", "/.well-known/appspecific/com.chrome.devtools.json", map[string]string{"Sec-Fetch-Mode": "navigate"}, Machine},
		{"prefetch", "GET", "/", map[string]string{"Sec-Purpose": "prefetch;prerender", "Sec-Fetch-Mode": "navigate"}, Machine},
		{"prefetch, of old", "GET", "/", map[string]string{"Purpose": "prefetch", "Accept": html}, Machine},
		{"prefetch, Firefox", "GET", "/", map[string]string{"X-Moz": "prefetch", "Accept": html}, Machine},
	} {
		r := httptest.NewRequest(row.method, "https://abcdefgh.sandbox.example.com"+row.path, http.NoBody)
		for name, value := range row.header {
			r.Header[name] = []string{value}
		}
		if got := Of(r); got != row.want {
			t.Errorf("%s: it is a %s, want %s", row.name, got, row.want)
		}
	}
}
