package visit

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// Each request is asked what it is for, also those that are served at once.
func BenchmarkOf(b *testing.B) {
	r := httptest.NewRequest(http.MethodGet, "https://abcdefgh.sandbox.example.com/src/main.js", http.NoBody)
	r.Header = http.Header{
		"User-Agent": {chrome}, "Accept": {"*/*"}, "Sec-Fetch-Mode": {"cors"}, "Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Dest": {"script"},
	}
	b.ReportAllocs()
	for b.Loop() {
		if Of(r) != Call {
			b.Fatal("it is a call")
		}
	}
}
