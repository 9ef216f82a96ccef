package caddymodule

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamsLeaveSpareDescriptors(t *testing.T) {
	for name, test := range map[string]struct {
		limit, open int
		want        int // streams that may begin
	}{
		"a tenth":            {10_000, 8_000, 500},
		"at least 64":        {256, 100, 46},
		"half of very few":   {80, 20, 10},
		"none is left":       {256, 250, 0},
		"more than a tenth":  {10_000, 9_999, 0},
		"nobody knows which": {0, 5, 1000}, // or more
	} {
		t.Run(name, func(t *testing.T) {
			d := descriptors{
				limit: func() (int, bool) { return test.limit, test.limit > 0 },
				count: func() (int, bool) { return test.open, true },
			}
			n := 0
			for n < 1000 && d.takeForStream() {
				n++
			}
			if n != test.want {
				t.Errorf("%d streams may begin, want %d", n, test.want)
			}
		})
	}
}

func TestStreamsThatEndedMakeRoomWithinASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open, counts := 191, 0
		d := descriptors{
			limit: func() (int, bool) { return 256, true },
			count: func() (int, bool) { counts++; return open, true },
		}
		if d.takeForStream() {
			t.Error("192 of 256 would be exceeded")
		}
		open = 100
		for range 100 {
			if d.takeForStream() {
				t.Fatal("the count is not a second old")
			}
		}
		time.Sleep(countPause) // of the bubble's clock
		if !d.takeForStream() || counts != 2 {
			t.Errorf("no stream may begin after a second, or there were %d counts, want 2", counts)
		}
	})
}

func TestDescriptorsOfThisProcess(t *testing.T) {
	before, ok := countDescriptors()
	if !ok {
		t.Skip("needs /proc, which Linux alone has")
	}
	const more = 20
	for range more {
		file, err := os.Open(os.DevNull)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { file.Close() })
	}
	if after, _ := countDescriptors(); after < before+more/2 || after > before+2*more { // others open and close theirs
		t.Errorf("%d descriptors, %d before %d more were opened", after, before, more)
	}
	if limit, ok := descriptorLimit(); !ok || limit < before {
		t.Errorf("the limit is %d, %v; %d are open", limit, ok, before)
	}
}

func TestWhatBeginsAStream(t *testing.T) {
	for name, test := range map[string]struct {
		request http.Request
		want    bool
	}{
		"a page":                  {http.Request{Method: http.MethodGet, Header: http.Header{"Accept": {"text/html"}}}, false},
		"a WebSocket":             {http.Request{Method: http.MethodGet, Header: http.Header{"Upgrade": {"websocket"}}}, true},
		"a WebSocket of HTTP/2":   {http.Request{Method: http.MethodConnect, Header: http.Header{":protocol": {"websocket"}}}, true},
		"a stream of events":      {http.Request{Method: http.MethodGet, Header: http.Header{"Accept": {"text/event-stream"}}}, true},
		"one that accepts it too": {http.Request{Method: http.MethodGet, Header: http.Header{"Accept": {"*/*, text/event-stream"}}}, false},
	} {
		if got := beginsStream(&test.request); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestAConnectionThatNoDescriptorIsLeftFor(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "noroom01")
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	answers := bufio.NewReader(conn)
	ask := func(host, accept string) *http.Response {
		t.Helper()
		if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nAccept: %s\r\n\r\n", host, accept); err != nil {
			t.Fatal(err)
		}
		res, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	readAnswer(t, ask(hostOf("unknown1"), "*/*")).expect(t, http.StatusNotFound, 1004)

	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 3 // what is open stays so
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	res := ask(hostOf("noroom01"), "*/*")
	answer := readAnswer(t, res)
	page := ask(hostOf("noroom01"), "text/html")
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	a := answer.expect(t, http.StatusServiceUnavailable, 1106)
	if a.Header.Get("Retry-After") == "" || !strings.Contains(a.Message, "no file descriptor left") {
		t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), a.raw)
	}
	if page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a browser got %d", page.StatusCode)
	}
	checkPage(t, page, hostOf("noroom01"))
	if res := ask(hostOf("noroom01"), "*/*"); res.StatusCode != http.StatusOK {
		t.Errorf("with descriptors again: %d", res.StatusCode)
	}
}
