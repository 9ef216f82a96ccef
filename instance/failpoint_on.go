//go:build failpoints

package instance

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
)

// failpoints are the places where SANDBOX_FAILPOINT=<name> ends the process,
// as kill -9 would; with @<n> after the name, when it is passed for the n-th
// time.
var failpoints = []string{
	"create.reserved", "create.intent", "create.created", "create.started", "create.recorded", "create.acked",
	"start.intent", "start.started", "start.recorded", "start.acked",
	"restart.intent", "restart.started", "restart.recorded", "restart.acked",
	"stop.intent", "stop.stopped", "stop.recorded", "stop.acked",
	"delete.intent", "delete.stopped", "delete.removed", "delete.tombstone", "delete.acked",
	"undo.removed", "undo.tombstone",
	"create.renamed",
	"fill.intent", "fill.started", "fill.recorded", "fill.acked",
	"discard.removed", "discard.tombstone", "discard.acked",
	"tmp..instances.json", "renamed..instances.json",
	"tmp.subdomain-proxy.json", "renamed.subdomain-proxy.json",
	"tmp.docker-compose.yml", "renamed.docker-compose.yml",
}

// armed is the failpoint that ends the process, and the passing of it that does.
var armed, nth = arm(os.Getenv("SANDBOX_FAILPOINT"))

var passings atomic.Int64

// arm reads SANDBOX_FAILPOINT; "list" prints the names and ends the process.
func arm(text string) (name string, nth int64) {
	if text == "list" {
		fmt.Println(strings.Join(failpoints, "\n"))
		os.Exit(0)
	}
	name, count, counted := strings.Cut(text, "@")
	if name != "" && !slices.Contains(failpoints, name) {
		panic("there is no failpoint " + name)
	}
	if !counted {
		return name, 1
	}
	nth, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		panic("SANDBOX_FAILPOINT: " + err.Error())
	}
	return name, nth
}

func failpoint(name string) {
	if name == armed && passings.Add(1) == nth {
		os.Exit(137)
	}
}
