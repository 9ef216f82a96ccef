package caddymodule

import (
	"errors"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

func TestCertificatesOnlyForInstances(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	s.create(t, "sleeping")
	s.call(t, http.MethodPost, "/api/instances/sleeping/stop", "").expect(t, http.StatusOK, 0)
	s.call(t, http.MethodPost, "/api/instances?wait=none", `{"prefix":"upcoming","env":{"TEST_MODE":"slow","TEST_DELAY":"1s"}}`).expect(t, http.StatusAccepted, 0)
	s.create(t, "vanished")
	s.call(t, http.MethodDelete, "/api/instances/vanished", "").expect(t, http.StatusOK, 0)

	permission := &TLSPermission{app: inForce.top()}
	for name, allowed := range map[string]bool{
		hostOf("keepsake"): true, "KeepSake." + testDomain: true, hostOf("sleeping"): true, hostOf("upcoming"): true,
		hostOf("vanished"): false, hostOf("whoknows"): false, testDomain: false, "*." + testDomain: false,
		"git." + hostOf("keepsake"): false, "keepsake.example.com": false, "": false,
	} {
		err := permission.CertificateAllowed(t.Context(), name)
		if allowed && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if !allowed && !errors.Is(err, caddytls.ErrPermissionDenied) {
			t.Errorf("%s: %v, want ErrPermissionDenied", name, err)
		}
	}
}
