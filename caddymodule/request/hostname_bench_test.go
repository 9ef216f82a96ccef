package request

import "testing"

func BenchmarkHost(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := Host("k3v9x2m4q8w1z7ab.sandbox.example.com:8443", "sandbox.example.com"); !ok {
			b.Fatal("it is a host of an instance")
		}
	}
}
