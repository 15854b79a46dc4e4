# Everything a developer does, one word each: `make help` lists them.
SHELL = /bin/sh
.DELETE_ON_ERROR:
.DEFAULT_GOAL = help
MAKEFLAGS += --no-print-directory

VENV = .venv
PYTHON_BIN = $(VENV)/bin/python
READY = $(VENV)/.ready
READY_TEST = $(VENV)/.ready-test
GUEST = $(VENV)/.ready-guest
BENCH = bench/.work/report
GUEST_SOURCES = $(wildcard banger_tools/guest/*.py banger_tools/guest/src/*)

# What the programs run: building, making apt: images, booting.
PACKAGES = python3 python3-venv e2fsprogs mmdebstrap uidmap fakeroot qemu-system-x86 qemu-utils \
	openssh-client ca-certificates zstd iproute2 nftables
# What the tests check the programs with.
TEST_PACKAGES = docker-registry skopeo umoci podman libarchive-tools tar rsync bzip2 busybox-static cpio strace jq faketime \
	attr acl libcap2-bin openssl procps mandoc man-db shellcheck bash bash-completion zsh fish xz-utils \
	git curl socat pipx gcc libc6-dev mount openssh-server systemd passwd kmod lz4 binutils file \
	qemu-user qemu-system-arm

# What the benchmarks set the programs beside, besides these.
BENCH_PACKAGES = docker-registry skopeo umoci tar gzip coreutils genext2fs xfsprogs mount busybox-static

PYTEST_ARGS ?=
BENCH_ARGS ?=
# How many tests run side by side: one a processor; 0 is one after the other, in one process.
TEST_JOBS ?= auto

help: ## list these words
	@echo 'usage: make WORD'
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  \1@\2/p' $(MAKEFILE_LIST) | awk -F@ '{printf "%-14s %s\n", $$1, $$2}'

setup: packages $(READY) $(GUEST) ## prepare .venv, so that bin/banger works
	@echo "setup: ready; try bin/banger doctor"

packages:
	@scripts/need-packages --optional 'building and booting images' $(PACKAGES)

$(READY): requirements.txt requirements-test.txt
	@echo 'setup: making $(VENV)'
	@python=$$(PYTHON='$(PYTHON)' scripts/find-python) && echo "setup: with $$python" && \
	  { [ -x $(PYTHON_BIN) ] || "$$python" -m venv $(VENV); }
	@echo 'setup: installing the Python packages of requirements.txt, and the C compiler of the guest program'
	@$(PYTHON_BIN) -m pip install --quiet --disable-pip-version-check -r requirements.txt \
	  "$$(grep '^ziglang' requirements-test.txt)"
	@touch $@

$(GUEST): $(GUEST_SOURCES) | $(READY)
	@echo 'setup: compiling the guest program'
	@PYTHONPATH=. $(PYTHON_BIN) -P -m banger_tools.guest.build
	@touch $@

$(READY_TEST): $(READY) requirements-test.txt
	@echo 'setup: installing the Python packages of requirements-test.txt'
	@$(PYTHON_BIN) -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	@# The programs run with the original docopt, too; it would take the place of docopt-ng in one folder.
	@$(PYTHON_BIN) -m pip install --quiet --disable-pip-version-check --upgrade --target $(VENV)/docopt-0.6.2 docopt==0.6.2
	@touch $@

test-packages:
	@scripts/need-packages --optional 'the tests' $(TEST_PACKAGES)

test: setup test-packages $(READY_TEST) ## set up and run every test that this machine can run
	$(PYTHON_BIN) -P -m pytest -n $(TEST_JOBS) $(PYTEST_ARGS)

coverage: setup test-packages $(READY_TEST) ## run every test, and show what none of them reached: a table, and .coverage/html
	@# Programs run as other users write there, too.
	@rm -rf .coverage && mkdir -m 1777 .coverage
	@status=0; $(PYTHON_BIN) -P -m coverage run -m pytest -n $(TEST_JOBS) $(PYTEST_ARGS) || status=$$?; \
	  $(PYTHON_BIN) -P -m coverage combine --quiet && $(PYTHON_BIN) -P -m coverage html --quiet && \
	  $(PYTHON_BIN) -P -m coverage report && exit $$status

smoke: setup test-packages $(READY_TEST) ## go through what a user does from day to day, each scenario with a real machine
	$(PYTHON_BIN) -P -m pytest tests/smoke -v --no-header --durations=0 --durations-min=10 $(PYTEST_ARGS)

smoke-list: $(READY_TEST) ## list these scenarios
	@$(PYTHON_BIN) -P -m pytest tests/smoke --collect-only -q $(PYTEST_ARGS) | \
	  sed -n '/::test_/{s/.*test_\([a-z]*\)[.]py::test_/\1: /; y/_/ /; p}'

FUZZ_SECONDS ?= 30

fuzz: setup test-packages $(READY_TEST) ## give every reader of foreign bytes wrong ones, each for FUZZ_SECONDS (30)
	PYTHONPATH=. $(PYTHON_BIN) -P -m tests.fuzz --seconds=$(FUZZ_SECONDS)

SOAK_MINUTES ?= 20

soak: setup test-packages $(READY_TEST) ## let images and machines come and go for SOAK_MINUTES (20), and look what is left
	PYTHONPATH=. $(PYTHON_BIN) -P -m tests.soak --minutes=$(SOAK_MINUTES)

lint: setup test-packages $(READY_TEST) ## run the linters only
	$(PYTHON_BIN) -P -m pytest tests/test_linters.py $(PYTEST_ARGS)

bench: setup ## our programs beside others, on a machine that does nothing else: an hour; results in bench/.work
	@scripts/need-packages --optional 'the benchmarks' $(BENCH_PACKAGES) guestfs-tools
	PYTHONPATH=. $(PYTHON_BIN) -P -m bench --markdown=$(BENCH).md --json=$(BENCH).json --plot=$(BENCH).svg $(BENCH_ARGS)

bench-quick: setup ## the same, smaller, in two minutes
	@scripts/need-packages --optional 'the benchmarks' $(BENCH_PACKAGES)
	PYTHONPATH=. $(PYTHON_BIN) -P -m bench --quick $(BENCH_ARGS)

demo: setup ## make a Debian image from packages and boot it
	@scripts/demo

docs: setup ## write man/ and completions/ anew from the programs
	@echo 'docs: writing man/ and completions/'
	@PYTHONPATH=. $(PYTHON_BIN) -P -m banger_tools.manuals .

clean: ## remove what was made here, the demo's folder too
	@echo 'clean: removing $(VENV), .demo, caches and the compiled guest program'
	@rm -rf $(VENV) .demo build dist banger_tools.egg-info banger_tools/guest/bin \
	  .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help setup packages test-packages test coverage smoke smoke-list fuzz soak lint bench bench-quick demo docs clean
