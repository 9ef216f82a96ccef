package test

import (
	"net/http"
	"testing"
)

func TestTwoStateDirectoriesShareOneEngine(t *testing.T) {
	t.Parallel()
	one, two := startCaddy(t, options{}), startCaddy(t, options{})
	ofOne := one.api.create(t, createRequest{Prefix: "managerone"})
	ofTwo := two.api.create(t, createRequest{Prefix: "managertwo"})

	// A container belongs to who made it, whatever others ask for.
	two.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "managerone"}).
		expect(t, http.StatusBadGateway, 1101).says(t, containerName("managerone"))
	for _, path := range []string{"managerone", "managerone/stop"} {
		method := map[bool]string{true: http.MethodDelete, false: http.MethodPost}[path == "managerone"]
		two.api.call(t, method, "/api/instances/"+path, nil).expect(t, http.StatusNotFound, 1004)
	}
	two.api.delete(t, "managertwo")
	two.kill(t)
	two.mustStart(t)

	sameInstance(t, one.api.get(t, "managerone"), ofOne)
	one.visitor.mustGet(t, ofOne.URL)
	if ids := one.containers(t); len(ids) != 1 || ids[0].ID != ofOne.ContainerID {
		t.Errorf("containers of the first: %v", ids)
	}
	if left := two.containers(t); len(left) != 0 {
		t.Errorf("containers of the second: %v, want none, %s was deleted", left, ofTwo.ContainerID)
	}
}
