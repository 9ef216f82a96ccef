GO ?= go

# Tools, each at the version that this code was last checked with.
GOLANGCI_LINT = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help
.PHONY: help demo demo-clean test test-unit test-long soak bench fmt lint vuln build image clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a live sandbox on this machine, with all set-up; Ctrl-C ends it
	@scripts/docker.sh
	@$(MAKE) --no-print-directory build image
	@scripts/demo.sh

demo-clean: ## remove all that make demo made
	@scripts/demo.sh clean

test: ## all tests, with all set-up: Docker, browser, demo image
	@scripts/test.sh

test-unit: ## the tests that need neither Docker nor minutes
	$(GO) test -race -short ./...

test-long: ## all tests, and those of crashes, Docker faults and load besides
	SANDBOX_LONG=1 scripts/test.sh -timeout 60m ./...

soak: ## the long forms: 1000 kills, 30 power cuts, 5 minutes per fuzz target
	SANDBOX_SOAK=1 SANDBOX_SOAK_KILLS=1000 scripts/test.sh -timeout 3h ./...
	@set -e; for file in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for target in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' $$file); do \
			echo "fuzzing $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime 5m $$(dirname $$file); \
		done; \
	done

bench: ## the benchmarks: of the state on disk, and end to end; uses wrk and h2load if there
	@scripts/docker.sh
	@scripts/image.sh
	@scripts/compose.sh >/dev/null
	$(GO) test -run '^$$' -bench . -timeout 60m ./instance ./caddymodule/request ./test

fmt: ## format the code
	$(GOLANGCI_LINT) fmt

lint: ## check format and code
	$(GO) vet ./...
	$(GOLANGCI_LINT) run

vuln: ## look for known vulnerabilities; needs https://vuln.go.dev
	@$(GOVULNCHECK) ./... || { echo "make vuln: not passed; if the database could not be reached, then nothing was checked" >&2; exit 1; }

build: ## bin/caddy, which is Caddy with the plugin
	@bash -c '. scripts/lib.sh && check_go && say "building bin/caddy (the first time this takes minutes)"'
	$(GO) build -o bin/caddy ./cmd/caddy

image: ## the demo image, caddy-sandbox/vite-demo
	@scripts/image.sh

clean: ## remove bin
	rm -rf bin
