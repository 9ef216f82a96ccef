// Package devserver behaves like a dev server, well or badly as its
// environment says. Program testserver runs it as a process, package
// instancetest as a goroutine.
//
// TEST_MODE chooses the behaviour:
//
//	hello     serves HTTP (the default)
//	silent    listens and accepts, and never answers
//	exit      writes [ExitLines] to stderr and ends with TEST_EXIT_CODE, 3 unless given
//	oldnode   ends with code 9 if NODE_OPTIONS has --import, as Node before 18.18 does;
//	          else as hello
//	slow      listens only after TEST_DELAY (like 3s; the default), then as hello
//	vite      as hello, but refuses foreign hosts as Vite 5 does
//	webpack   as hello, but refuses foreign hosts and origins as webpack-dev-server 5 does
//	next      as hello, but refuses foreign origins as Next.js 16 does
//	stubborn  as hello, but does not end on SIGTERM
//	oom       takes memory until it is killed
//	raw       answers every request with its own bytes, as they came
//
// TEST_PORTS are further ports that it serves alike, with commas between them:
// 3000 is one on all addresses, 127.0.0.1:4000 one that only the container
// itself reaches.
//
// What it serves:
//
//	GET  /              200 on every path that is not below, with $SANDBOX_PREFIX in the text
//	GET  /env           the environment, a JSON object
//	GET  /pid           the process id
//	GET  /port          the port that the request came in at
//	GET  /process       a [Process] as JSON
//	GET  /headers       the request as it arrived: {"host":…,"uri":…,"headers":{…}}
//	GET  /bytes/{n}     n bytes
//	POST /echo          the body, streamed back while it comes
//	GET  /sse           an event every 100 ms, numbered from 1
//	GET  /ws            a WebSocket that echoes; it accepts the first subprotocol offered;
//	                    /_next/hmr and /_next/webpack-hmr as well; with ?deflate the
//	                    first extension too, though it only echoes what was compressed
//	GET  /chatter       a WebSocket that says ?text= each ?every=
//	GET  /push/{name}   events, each when it is asked for
//	POST /push/{name}   asks for one; the body is its text
//	POST /count         how many bytes the body had
//	POST /early/{code}  an answer that begins before the body is read, and ends
//	                    with how many bytes it had
//	POST /refuse        413, with the body left unread
//	GET  /hints         103 with a Link, then an answer
//	GET  /trailers      an answer with the trailers X-Announced and X-Late
//	GET  /reset         POST likewise: a connection that is cut; with ?times=N only the first N
//	GET  /stale         an answer, and a connection that is cut at the next request
//	GET  /cuts          how often the two before did so
//	GET  /status/{code} an answer of that status, 200 to 599, and of ?body=
//	GET  /seen          the requests before, refused ones too, as a list of [Seen]
//	GET  /redirect      302 to /there at the URL that the server believes it has, with a
//	                    cookie for its own host; /there is as /
//	GET  /slow?ms=N     an answer after N milliseconds
//	GET  /exit?code=N   ends the process with that code, after the answer
//
// The package knows nothing of containers. Start reading at server.go.
package devserver
