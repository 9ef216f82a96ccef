package visit

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

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
		{"an app builder's frame", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "cross-site", "User-Agent": chrome}, Navigation},
		{"an open page loads itself again", "GET", "/", map[string]string{"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "User-Agent": chrome}, Reload},
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
		{"Slack", "GET", "/", map[string]string{"User-Agent": "Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "Accept": html}, Machine},
		{"WhatsApp", "GET", "/", map[string]string{"User-Agent": "WhatsApp/2.23.20.0", "Accept": html}, Machine},
		{"Facebook", "GET", "/", map[string]string{"User-Agent": "facebookexternalhit/1.1", "Accept": html}, Machine},
		{"Google", "GET", "/", map[string]string{"User-Agent": "Mozilla/5.0 (compatible; Googlebot/2.1)", "Accept": html}, Machine},
		{"a monitor", "GET", "/", map[string]string{"User-Agent": "Mozilla/5.0 (compatible; UptimeRobot/2.0)", "Accept": html}, Machine},
		{"an agent's browser", "GET", "/", map[string]string{"User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/140.0.0.0 Safari/537.36", "Accept": html}, Navigation},
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
