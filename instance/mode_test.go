package instance_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var (
	asVite = instance.Mode{Dev: instance.DevVite, HostHeader: instance.HostLocalhost}
	asNext = instance.Mode{Dev: instance.DevNext, HostHeader: instance.HostPreserve}
)

// lease takes one that the test gives back.
func (b *bench) lease(prefix string) *instance.Lease {
	b.Helper()
	l, err := b.manager.Acquire(prefix, 0)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(l.Release)
	return l
}

// onDisk is the mode in the state file.
func (b *bench) onDisk(prefix string) instance.Mode {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
	if err != nil {
		b.Fatal(err)
	}
	var state struct {
		Instances map[string]instance.Record `json:"instances"`
	}
	if err := json.Unmarshal(data, &state); err != nil {
		b.Fatal(err)
	}
	return state.Instances[prefix].Mode
}

func (b *bench) mode(prefix string) instance.Mode {
	b.Helper()
	in, err := b.manager.Get(prefix)
	if err != nil {
		b.Fatal(err)
	}
	return instance.Mode{Dev: in.Dev, HostHeader: in.HostHeader}
}

func TestModeIsTheTemplatesOrWhatARefusalHasShown(t *testing.T) {
	nothing := instance.Mode{}
	for _, row := range []struct{ template, shown, want instance.Mode }{
		{nothing, nothing, instance.Mode{Dev: "auto", HostHeader: "preserve"}},
		{instance.Mode{Dev: "auto", HostHeader: "auto"}, nothing, instance.Mode{Dev: "auto", HostHeader: "preserve"}},
		{nothing, asVite, asVite},
		{nothing, asNext, asNext},
		{instance.Mode{Dev: "vite"}, nothing, asVite},
		{instance.Mode{Dev: "vite"}, asNext, asVite},
		{instance.Mode{Dev: "next"}, nothing, asNext},
		{instance.Mode{Dev: "next"}, asVite, asNext},
		{instance.Mode{Dev: "webpack"}, nothing, instance.Mode{Dev: "webpack", HostHeader: "localhost"}},
		{instance.Mode{Dev: "none"}, nothing, instance.Mode{Dev: "none", HostHeader: "preserve"}},
		{instance.Mode{Dev: "none"}, asVite, instance.Mode{Dev: "none", HostHeader: "preserve"}},
		{instance.Mode{Dev: "none", HostHeader: "localhost"}, nothing, instance.Mode{Dev: "none", HostHeader: "localhost"}},
		{instance.Mode{Dev: "vite", HostHeader: "preserve"}, asVite, instance.Mode{Dev: "vite", HostHeader: "preserve"}},
		{instance.Mode{HostHeader: "preserve"}, asVite, instance.Mode{Dev: "vite", HostHeader: "preserve"}},
		{instance.Mode{HostHeader: "localhost"}, asNext, instance.Mode{Dev: "next", HostHeader: "localhost"}},
	} {
		if got := row.template.With(row.shown); got != row.want {
			t.Errorf("%v, shown %v: got %v, want %v", row.template, row.shown, got, row.want)
		}
	}
}

func TestWhatARefusalShowsHoldsAtOnceAndAfterARestart(t *testing.T) {
	b := newBench(t, 2)
	b.create("learning")
	l := b.lease("learning")
	l.Learn(asVite)
	if l.Mode() != asVite || b.mode("learning") != asVite {
		t.Errorf("the lease has %v, the instance %v", l.Mode(), b.mode("learning"))
	}
	b.eventually("it is durable", func() bool { return b.onDisk("learning") == asVite })
	b.reopen()
	if got := b.lease("learning").Mode(); got != asVite {
		t.Errorf("after a restart: %v", got)
	}
}

// An agent puts another dev server in the place of the first, in the same
// container; one that only plays with us is not written down for ever.
func TestADevServerChangesItsMindNowAndThen(t *testing.T) {
	b := newBench(t, 2)
	b.create("learning")
	l := b.lease("learning")
	for turn := range 20 {
		shown := []instance.Mode{asVite, asNext}[turn%2]
		l.Learn(shown)
		if got := b.mode("learning"); turn < 8 && got != shown || turn >= 8 && got != asNext {
			t.Errorf("after turn %d it is %v", turn, got)
		}
	}
	if _, err := b.manager.Restart(t.Context(), "learning", ""); err != nil {
		t.Fatal(err)
	}
	if got := b.mode("learning"); got != asNext {
		t.Errorf("the restart forgot it: %v", got)
	}
	b.lease("learning").Learn(asVite)
	if got := b.mode("learning"); got != asVite {
		t.Errorf("after the restart it is still %v", got)
	}
	b.eventually("it is durable", func() bool { return b.onDisk("learning") == asVite })
}

func TestATemplateHoldsForInstancesThatExist(t *testing.T) {
	b := newBench(t, 2)
	b.create("existing")
	b.lease("existing").Learn(asVite)
	b.with(func(t *instance.Template) { t.Mode = instance.Mode{Dev: instance.DevNone} })
	want := instance.Mode{Dev: "none", HostHeader: "preserve"}
	if got := b.lease("existing").Mode(); got != want || b.mode("existing") != want {
		t.Errorf("the lease has %v, the instance %v", got, b.mode("existing"))
	}
}

// What a refusal shows is written while operations write, too: neither gets
// lost, and nobody is told that the instance is busy because of it.
func TestLearningAmidOperations(t *testing.T) {
	b := newBench(t, 2)
	b.create("learning")
	modes := []instance.Mode{asVite, asNext}
	for i := range 20 {
		want := modes[i%2]
		l := b.lease("learning")
		var both sync.WaitGroup
		both.Go(func() { l.Learn(want) })
		both.Go(func() {
			if _, err := b.manager.Stop(context.Background(), "learning"); err != nil {
				t.Errorf("stopping: %v", err)
			}
		})
		both.Wait()
		learned := b.mode("learning")
		in, err := b.manager.Start(t.Context(), "learning", "")
		if err != nil || in.Status != instance.Running {
			t.Fatalf("starting: %v, %v", in.Status, err)
		}
		b.eventually("memory and disk agree", func() bool {
			onDisk := b.onDisk("learning")
			return b.mode("learning") == learned && (onDisk == learned || onDisk == instance.Mode{} && learned.Dev == "auto")
		})
	}
}

func TestLearningOfADeletedInstanceDoesNotBringItBack(t *testing.T) {
	b := newBench(t, 2)
	b.create("deleted1")
	l := b.lease("deleted1")
	if _, err := b.manager.Delete(t.Context(), "deleted1"); err != nil {
		t.Fatal(err)
	}
	l.Learn(asVite)
	b.nothingLeft("deleted1")
	b.reopen()
	b.nothingLeft("deleted1")
}

// Behind other ports than the dev server's may be anything: what is said and
// learned of that is not theirs, nor the other way round.
func TestEachPortIsLearnedOfByItself(t *testing.T) {
	b := newBench(t, 2)
	b.with(func(t *instance.Template) { t.Dev, t.AnyPort = instance.DevNext, true })
	b.create("manyports")
	at := func(port int) *instance.Lease {
		l, err := b.manager.Acquire("manyports", port)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Release)
		return l
	}
	at(4000).Learn(asVite)
	for port, want := range map[int]instance.Mode{
		0: asNext, 3000: asNext, 4000: asVite, 5000: {Dev: instance.DevAuto, HostHeader: instance.HostPreserve},
	} {
		if got := at(port).Mode(); got != want {
			t.Errorf("port %d: %v, want %v", port, got, want)
		}
	}
	if got := b.mode("manyports"); got != asNext {
		t.Errorf("the instance shows %v", got)
	}
	for port := 10000; port < 11000; port++ {
		at(port).Learn(asVite)
	}
	learned := 0
	for port := 10000; port < 11000; port++ {
		if at(port).Mode() == asVite {
			learned++
		}
	}
	if learned > instance.MaxContainerPorts {
		t.Errorf("%d ports are remembered, want at most %d", learned, instance.MaxContainerPorts)
	}
}
