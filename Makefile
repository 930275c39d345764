# Everything sets itself up: .venv with what a target needs, the C kernel where a compiler is there.
# `make run ARGS='-i "One day" -t 0.8'` passes options on.

PYTHON ?= python3
ARGS ?=
N ?= 20000
JOBS ?= auto
VENV := .venv
PY := $(if $(filter Windows_NT,$(OS)),$(VENV)/Scripts/python,$(VENV)/bin/python)
# These build programs, which takes minutes: they have targets of their own.
PACKED := $(addprefix --ignore=tests/packing/,test_build.py test_launcher.py test_everywhere.py)
TEST := -m pytest -n $(JOBS) $(PACKED)

.DEFAULT_GOAL := help
.PHONY: run test check quick lint fuzz sanitize bench build zipapp portable target universal \
	test-build test-everywhere emulators smoke matrix rename sums publish kernel model picture \
	clean help

run: $(VENV)/numpy kernel  ## a story from the model in embed/
	@$(PY) run.py $(ARGS)

test: $(VENV)/test kernel  ## all tests but those of the packed files and the sanitizers: minutes
	$(PY) $(TEST) -m "not sanitizer" $(ARGS)

check: lint quick          ## what to run before a commit: lint and the quick tests, in 40 s

quick: export OPENBLAS_NUM_THREADS = 1
quick: $(VENV)/test kernel ## the tests that take less than a second each
	$(PY) $(TEST) -m "not slow and not sanitizer" $(ARGS)

lint: $(VENV)/test         ## ruff, format included; types; the workflows where actionlint is there
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@if command -v actionlint >/dev/null; then actionlint .github/workflows/*.yml; fi

fuzz: $(VENV)/test kernel  ## N damaged files of every kind: nothing but a ModelError may come of them
	$(PY) tests/fuzz.py $(N)

sanitize: $(VENV)/test     ## the C kernel under the address, undefined-behaviour and thread sanitizers
	$(PY) -m pytest tests/kernels tests/packing/test_launcher.py -m sanitizer -rs $(ARGS)

bench: $(VENV)/test kernel ## tokens/s of NumPy and C beside the machine's bandwidth, and of --vs CMD
	$(PY) tests/bench.py $(ARGS)

build: $(VENV)/build       ## dist/run: one file that carries the model in embed/ (ARGS="--model m.gguf")
	$(PY) build.py $(ARGS)

zipapp: $(VENV)/build      ## dist/run.pyz: one file for every Python with NumPy
	$(PY) build.py --zipapp $(ARGS)

portable: $(VENV)/build    ## dist/run for any Linux of the last years, whatever its glibc
	$(PY) build.py --portable $(ARGS)

target: $(VENV)/build      ## dist/run-SYSTEM: another system's executable, as in SYSTEM=windows-x86_64
	$(PY) build.py --target $(SYSTEM) $(ARGS)

universal: $(VENV)/build   ## dist/run.com: one file for Windows, Linux and every Python with NumPy
	$(PY) build.py --universal $(addprefix --payload ,$(PAYLOADS)) $(ARGS)

test-build: $(VENV)/build $(VENV)/test kernel  ## the executable: alone, on bare systems, killed, refilled
	$(PY) -m pytest tests/packing/test_build.py tests/packing/test_launcher.py -m "not sanitizer" $(ARGS)

test-everywhere: $(VENV)/build $(VENV)/test emulators kernel  ## other systems, under emulators
	$(PY) -m pytest tests/packing/test_everywhere.py $(ARGS)

emulators:                 ## what test-everywhere can use; it skips what is missing
	-apt-get install -y --no-install-recommends wine64 qemu-user-static dash zsh ksh fish busybox-static

smoke: $(VENV)/test        ## one built FILE tells a story, alone in an empty directory
	$(PY) tests/support/smoke.py $(FILE)

matrix: $(VENV)/numpy      ## (release) the systems with a native build, as JSON for the workflow
	@$(PY) -m run.packing.release

rename:                    ## (release) dist/run gets the name of its system
	mv $(FILE) dist/run-$(SYSTEM)$(suffix $(FILE))

sums:                      ## (release) dist/SHA256SUMS
	cd dist && sha256sum run-* run.com run.pyz > SHA256SUMS

publish:                   ## (release) attach dist/ to the release TAG
	gh release create "$(TAG)" --title "$(TAG)" --generate-notes dist/run-* dist/run.com dist/run.pyz dist/SHA256SUMS

kernel: $(VENV)/kernel     ## embed/kernels/kernels-*: the C kernel for this machine

picture: $(VENV)/numpy      ## tests/picture.svg: the README's terminal, from a real run
	$(PY) tests/picture.py

model: $(VENV)/train       ## train embed/model.bin and embed/tokenizer.bin anew: an hour on two cores
	$(PY) embed/recipe/train.py $(ARGS)

clean:                     ## back to a fresh clone
	rm -rf $(VENV) build dist *.egg-info embed/kernels/*.so embed/kernels/*.dylib embed/kernels/*.dll

help:                      ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1@/' | awk -F@ '{printf "make %-16s %s\n", $$1, $$2}'

# What a target needs, installed once; the files only say that it is there.
$(VENV)/numpy:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make: $(PYTHON) is older than 3.10: name a newer one with PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "make: Python lacks venv (Debian: apt install python3-venv)" >&2; exit 1; }
	@$(PY) -m pip install --quiet numpy
	@touch $@

$(VENV)/test $(VENV)/build $(VENV)/train: $(VENV)/numpy pyproject.toml
	@$(PY) -m pip install --quiet --upgrade pip
	@$(PY) -m pip install --quiet --group $(notdir $@)
	@touch $@

$(VENV)/kernel: $(wildcard embed/kernels/*.[ch]) embed/packing/compilers.py | $(VENV)/numpy
	@$(PY) -m run.packing.compilers >/dev/null || echo "The C kernel is not there: NumPy does its work." >&2
	@touch $@
