# Two commands do all the set-up on a fresh Debian or Ubuntu: make run, make test.
# Go from .cache/go is used where scripts/setup.sh had to fetch it.
SHELL := /bin/sh
export PATH := $(CURDIR)/.cache/go/bin:$(PATH):/usr/sbin:/sbin
export CGO_ENABLED := 0
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo development)
LDFLAGS := -s -w -X main.version=$(VERSION)
# What needs virtual machines runs one package at a time, apart from the rest.
VM_PACKAGES := ./cmd/init/... ./e2e/... ./internal/imagebuilder/export/... ./internal/provider/kvm/...

.DEFAULT_GOAL := help
# Set-up comes before the build also under make -j.
.NOTPARALLEL:
.PHONY: help setup build kernel run down clean test test-unit test-vm lint verify bench plans exam simulate chaos e2e soak cycles powercut outage fuzz

help: ## show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

setup: ## install what is needed (says what, asks before sudo)
	@scripts/setup.sh

build: ## build bin/provisioner, bin/cloudctl and the guests' bin/init
	@mkdir -p bin
	go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/provisioner ./cmd/cloudctl
	go build -trimpath -buildvcs=false -ldflags '-s -w' -o bin/init ./cmd/init

kernel: ## build a small kernel for guests from the distribution's source (about 10 minutes, then cached)
	@scripts/make-kernel.sh .cache/small-kernel

run: setup build ## set up, build, start, and give an example tenant a virtual machine
	@scripts/run.sh up

down: ## stop everything that make run started
	@scripts/run.sh down

clean: ## stop everything and remove it (asks first)
	@scripts/run.sh clean

test: ## all tests, those with real virtual machines included
	@scripts/setup.sh --test
	@$(MAKE) --no-print-directory build test-unit test-vm

test-unit: # all but those with virtual machines
	go test -timeout 25m $$(go list ./... | grep -v -e /cmd/init -e /e2e -e /internal/imagebuilder/export -e /internal/provider/kvm)

test-vm: # one package after another, because each boot takes a whole core
	go test -timeout 30m -p 1 $(VM_PACKAGES)

lint: ## gofmt, go vet, staticcheck, shellcheck
	@out=$$(gofmt -l $$(git ls-files '*.go')); test -z "$$out" || { echo "not formatted:"; echo "$$out"; exit 1; }
	go vet ./...
	go tool staticcheck ./...
	@if command -v shellcheck >/dev/null; then shellcheck scripts/*.sh .ci/run; else echo "shellcheck is not installed: shell scripts were not checked"; fi

verify: lint test ## everything that CI does, and the race detector besides
	CGO_ENABLED=1 go test -race -timeout 30m $$(go list ./... | grep -v -e /cmd/init -e /e2e -e /internal/imagebuilder/export -e /internal/provider/kvm -e /internal/simulate)

bench: setup build ## measure: prints name, value, unit
	go run ./bench

plans: ## test the plan of every hot statement at 1,000,000 installations (minutes, and 6 GiB in memory)
	DORMOUSE_PLAN_ROWS=1000000 go test -count=1 -timeout 60m -v -run '^TestQueryPlans$$' ./internal/store

exam: ## examine the judge of rollouts (CORPUS=FILE: on releases of your own)
	go run ./exam $(if $(CORPUS),-corpus '$(CORPUS)')

e2e: setup build ## only the end-to-end tests
	go test -count=1 -timeout 30m -p 1 -v ./e2e/...

soak: setup build ## 50 kills of the provisioner over ten virtual machines
	DORMOUSE_SOAK_KILLS=50 go test -count=1 -timeout 120m -v -run TestSoak ./e2e/soak

powercut: setup build ## end QEMU, provisioner, Postgres or all power 200 times while a guest sleeps and wakes (ROUNDS=n)
	DORMOUSE_POWERCUT_ROUNDS=$(or $(ROUNDS),200) go test -count=1 -timeout 120m -v ./e2e/powercut

outage: setup build ## take Postgres away for 5 minutes and restart the provisioner meanwhile
	DORMOUSE_OUTAGE=5m go test -count=1 -timeout 30m -v ./e2e/outage

cycles: setup build ## 1,000 sleeps of a virtual machine whose users write to it without a pause (CYCLES=n)
	DORMOUSE_CYCLES=$(CYCLES) DORMOUSE_MQTT_CYCLES=100 go test -count=1 -timeout 180m -v ./e2e/cycles
CYCLES ?= 1000

FUZZTIME ?= 1m
fuzz: ## fuzz everything that reads what strangers wrote, FUZZTIME=1m (or 500x) each
	@scripts/fuzz.sh $(FUZZTIME)

SEEDS ?= 20
FIRST ?= 1
SHARDS ?= $(shell nproc)
TRACE ?= false
simulate: ## play SEEDS=n seeds of several provisioners under one scheduler, crashes and all
	go test -count=1 -timeout 0 -v -run '^TestSeeds$$' ./internal/simulate -args -seeds $(SEEDS) -first $(FIRST) -shards $(SHARDS) -trace=$(TRACE)

RUNS ?= 20
chaos: ## play RUNS=n runs of real processes under SIGKILL, SIGSTOP and crashes of Postgres (FIRST=seed)
	go test -count=1 -timeout 0 -v -run '^TestRuns$$' ./internal/chaos -args -runs $(RUNS) -first $(FIRST) -length 30s
