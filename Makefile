# make help lists the targets. What they need and is missing is installed by `make deps`.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
# The last lines of `make ci` are those of go test.
MAKEFLAGS += --no-print-directory

CACHE     := $(CURDIR)/.cache
ENVOY_PIN := 1.40.0
LINT_PIN  := v2.15.0
PEER_PIN  := v1.4.1-0.20260122083618-3fb702589d36
PEER      := $(CACHE)/envoyproxy-ratelimit-$(PEER_PIN)/service_cmd
LINT      := $(CACHE)/golangci-lint-$(LINT_PIN)/golangci-lint
FUZZTIME  ?= 20s
BENCHTIME ?= 1s
SOAK      ?= 10m
PKGS      ?= ./...

# Where benchmarks and fuzz targets are: go test -bench and -fuzz would run packages without any.
# bench/peers is a module of its own.
find_tests  = $(shell grep -rlE --include='*_test.go' --exclude-dir=peers '^func $(1)' cmd internal migrations e2e bench 2>/dev/null)
BENCH_PKGS  = $(addprefix ./,$(sort $(dir $(call find_tests,Benchmark))))
FUZZ_FILES  = $(call find_tests,Fuzz)
# Files of the newest release that may not change any more.
LAST_RELEASE = $(shell git describe --tags --abbrev=0 2>/dev/null)

.PHONY: help run build test test/alloc test/race test/e2e bench bench/dropin bench/holds bench/load bench/peers bench/recorder bench/reload bench/throughput soak fuzz lint fmt generate verify ci deps clean

help: ## list the targets
	@grep -hE '^[a-z0-9/]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

run: build ## serve on the embedded default: limits in ./ratelimitd-limits.yaml
	exec ./ratelimitd serve

build: ## build ./ratelimitd
	CGO_ENABLED=0 go build -trimpath -o ratelimitd ./cmd/ratelimitd

test: deps test/alloc test/e2e test/race ## everything: allocations, e2e with real Envoy, all packages with the race detector

test/alloc: ## tests that count allocations, which the race detector would spoil
	go test -run Alloc $(PKGS)

test/e2e: deps ## real Envoy, Postgres and Prometheus around the built binary
	go test -tags e2e -count 1 -timeout 15m ./e2e/...

test/race: deps ## unit and integration tests of all packages, with the race detector
	go test -race -timeout 10m $(PKGS)

bench: ## every benchmark (BENCHTIME=1x: each once)
	go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) $(BENCH_PKGS)

bench/peers: ## a decision beside those of other limiters, on 1 and 2 CPUs
	cd bench/peers && go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) -cpu 1,2 ./...

bench/dropin: deps ## ratelimitd beside envoyproxy/ratelimit over the same descriptor file, alternating rounds
	go test -tags e2e -run '^$$' -bench . -benchtime 1x -timeout 0 ./bench/dropin $(if $(ROUND),-args -rounds 1 -round $(ROUND))

bench/holds: deps ## requests that wait: memory of the engine and of the binary, CPU
	go test -tags e2e -run '^$$' -bench . -benchtime 1x ./bench/holds

bench/load: deps ## a million limits: start from Postgres and from the state file, one change among them
	go test -tags e2e -run '^$$' -bench . -benchtime 1x ./bench/load

bench/reload: ## latency of decisions while a million limits reload, alternating rounds
	go run ./bench/reload

bench/recorder: deps ## CPU for each access-log entry; decisions while the recorder is saturated
	go test -tags e2e -run '^$$' -bench . -benchtime 1x -timeout 0 ./bench/recorder

bench/throughput: deps build ## ratelimitd beside a bare grpc-go server, same client, alternating rounds
	go run ./bench/throughput -binary ./ratelimitd

soak: deps ## the recorder at its bounds for SOAK (10m): memory stays flat, written + lost = received
	go test -tags e2e -run '^TestSoak$$' -count 1 -timeout 0 ./bench/recorder -args -soak $(SOAK)

fuzz: ## every fuzz target for FUZZTIME (20s)
	@for file in $(FUZZ_FILES); do \
	  for target in $$(sed -nE 's/^func (Fuzz[A-Za-z0-9_]*)\(.*/\1/p' $$file); do \
	    echo "$$file $$target"; \
	    .ci/fuzz ./$$(dirname $$file) $$target $(FUZZTIME); \
	  done; \
	done

lint: $(LINT) ## golangci-lint, all build tags
	$(LINT) run ./...
	cd deploy/verify && $(LINT) run --config $(CURDIR)/.golangci.yml ./...
	cd bench/peers && $(LINT) run --config $(CURDIR)/.golangci.yml ./...

fmt: $(LINT) ## gofumpt and goimports
	$(LINT) fmt ./...

generate: ## the settings table of README.md, the metrics table of docs/operations.md
	go generate ./...

verify: ## go.mod is tidy, generated text is up to date, released migrations are unchanged, files for Kubernetes are valid
	go mod tidy -diff
	cd deploy/verify && go mod tidy -diff && go test -count 1 ./...
	cd bench/peers && go mod tidy -diff
	go mod verify
	go vet -tags e2e ./...
	$(MAKE) generate
	git diff --exit-code -- README.md docs/operations.md
	$(if $(LAST_RELEASE),git diff --exit-code --diff-filter=a $(LAST_RELEASE) -- 'migrations/*.sql')

ci: deps lint verify ## what .ci/run runs
	$(MAKE) fuzz
	$(MAKE) bench BENCHTIME=1x
	$(MAKE) bench/peers BENCHTIME=1x
	$(MAKE) bench/dropin ROUND=1s
	$(MAKE) soak SOAK=30s
	$(MAKE) test

deps: $(PEER) ## install what is missing: C compiler (race detector), Postgres, Redis, Prometheus, h2load, Envoy, envoyproxy/ratelimit
	.ci/deps $(CACHE) $(ENVOY_PIN)

$(LINT):
	mkdir -p $(dir $@)
	GOBIN=$(dir $@) go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_PIN)

# With its counters in Redis, it gives the answers that those over descriptor files are compared with.
$(PEER):
	mkdir -p $(dir $@)
	GOBIN=$(dir $@) go install github.com/envoyproxy/ratelimit/src/service_cmd@$(PEER_PIN)

clean: ## remove what was built and installed here
	rm -rf ratelimitd $(CACHE)
