GO ?= go

# Tools, each at the version that this code was last checked with.
GOLANGCI_LINT = $(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   = $(GO) run golang.org/x/vuln/cmd/govulncheck@v1.9.0

.DEFAULT_GOAL := help
.PHONY: help demo demo-clean test test-unit soak bench fmt lint vuln build image clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## a live sandbox on this machine, with all set-up; Ctrl-C ends it
	@scripts/docker.sh
	@$(MAKE) --no-print-directory build image
	@scripts/demo.sh

demo-clean: ## remove all that make demo made, but an image that others use
	@scripts/demo.sh clean

test: ## all tests, with all set-up: Docker, browser, images; half an hour
	@scripts/test.sh

test-unit: ## the tests that need neither Docker nor minutes
	$(GO) test -race -short ./...

soak: ## the tests of chance ten times over: 1000 kills, 30 power cuts, 5 minutes a fuzz target
	SANDBOX_SOAK=1 scripts/test.sh -timeout 3h ./...
	scripts/fuzz.sh 5m

bench: ## the benchmarks: of the state on disk, and end to end; uses wrk and h2load if there
	@scripts/docker.sh
	@scripts/image.sh
	@scripts/compose.sh >/dev/null
	$(GO) test -run '^$$' -bench . -timeout 60m ./instance ./caddymodule/request ./caddymodule/wsframes ./test

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
