// Package devserver behaves like a dev server, well or badly as its
// environment says. Program testserver runs it as a process, package
// instancetest as a goroutine.
//
// TEST_MODE chooses the behaviour:
//
//	hello     serves HTTP (the default)
//	silent    listens and accepts, and never answers
//	exit      writes [ExitLines] to stderr and ends with TEST_EXIT_CODE, 3 unless given
//	slow      listens only after TEST_DELAY (like 3s; the default), then as hello
//	stubborn  as hello, but does not end on SIGTERM
//	oom       takes memory until it is killed
//
// What it serves:
//
//	GET  /              200 on every path that is not below, with $SANDBOX_PREFIX in the text
//	GET  /env           the environment, a JSON object
//	GET  /pid           the process id
//	GET  /process       a [Process] as JSON
//	GET  /headers       the request as it arrived: {"host":…,"uri":…,"headers":{…}}
//	POST /echo          the body, streamed back while it comes
//	GET  /sse           an event every 100 ms, numbered from 1
//	GET  /push/{name}   events, each when it is asked for
//	POST /push/{name}   asks for one; the body is its text
//	POST /count         how many bytes the body had
//	GET  /zeros/{n}     n bytes
//	POST /early/{code}  an answer that begins before the body is read, and ends
//	                    with how many bytes it had
//	POST /refuse        413, with the body left unread
//	GET  /hints         103 with a Link, then an answer
//	GET  /trailers      an answer with the trailers X-Announced and X-Late
//	GET  /reset         POST likewise: a connection that is cut; with ?times=N only the first N
//	GET  /stale         an answer, and a connection that is cut at the next request
//	GET  /cuts          how often the two before did so
//	GET  /ws            a WebSocket that echoes; it accepts the first subprotocol offered
//	GET  /status/{code} an answer of that status, 200 to 599, and of ?body=
//	GET  /slow?ms=N     an answer after N milliseconds
//	GET  /exit?code=N   ends the process with that code, after the answer
//
// The package knows nothing of containers. Start reading at server.go.
package devserver
