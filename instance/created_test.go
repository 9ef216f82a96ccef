package instance_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestOnlyNewInstancesAreToldAsCreated(t *testing.T) {
	b := newBench(t, 3)
	var mu sync.Mutex
	var told []string
	s := b.settings()
	s.Created = func(prefix string) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, prefix)
		if !b.manager.Known(prefix, 0) {
			t.Errorf("%s is told before it is known", prefix)
		}
	}
	b.manager.Use(s)

	b.create("firstone")
	for _, act := range []func() error{
		func() error { _, err := b.manager.Stop(t.Context(), "firstone"); return err },
		func() error { _, err := b.manager.Start(t.Context(), "firstone", instance.WaitReady); return err },
		func() error { _, err := b.manager.Restart(t.Context(), "firstone", instance.WaitReady); return err },
	} {
		if err := act(); err != nil {
			t.Fatal(err)
		}
	}
	missing := "missing"
	prefix := "thirdone"
	if _, err := b.manager.Create(t.Context(), instance.CreateRequest{Prefix: &prefix, Template: &missing}); err == nil {
		t.Error("an image that is missing made an instance")
	}
	b.create("secondone")
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"firstone", "secondone"}; !slices.Equal(told, want) {
		t.Errorf("told of %v, want %v", told, want)
	}
}
