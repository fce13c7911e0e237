# make install   .venv with everything in it      make check     format, lint, types and the site
# make demo      the whole pipeline, small        make test      check and the quick tests
# make clean     remove what these made           make test-all  check and every test
# make docs      generated pages and the site     (build/site/index.html)
# make test-portable        tests that could depend on the processor, as several processors compute
# make test-device          tests of what a device runs: the wheel without torch, on DEVICE_PYTHON
# make test-tflite-runtime  tests of tflite-runtime, with numpy 1
# make fuzz      every untrusted format and the C library, a minute each (FUZZ_SECONDS=60)
# make mutants   mutations of what checks untrusted input, and which of them no test notices
# make lock      requirements-device.lock: what a device runs, without torch, with the hash of every file
# JOBS=4         how many tests run at once (2)
# make tools     what some tests of the firmware need beside it (Debian or Ubuntu, as root): else they are skipped
VENV ?= .venv
PYTHON ?= python3
DEVICE_PYTHON ?= $(PYTHON)
BIN := $(VENV)/bin
FUZZ_SECONDS ?= 60
JOBS ?= 2
# several tests at once, each on one core
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(JOBS) --dist worksteal

.PHONY: install demo test test-all test-portable test-device test-tflite-runtime fuzz mutants check docs format lock tools clean

VERSION := -c 'import sys; print("Python %d.%d" % sys.version_info[:2])'
install: $(VENV)/.installed
	@[ "$(origin PYTHON)" = file ] || [ "$$($(BIN)/python $(VERSION))" = "$$($(PYTHON) $(VERSION))" ] || \
		{ echo "$(VENV) has $$($(BIN)/python $(VERSION)): make clean first, or name another folder, VENV=..." >&2; exit 2; }

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "tinyscene needs Python 3.11 or later: make PYTHON=python3.11 ..." >&2; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install
	@BIN=$(BIN) sh benchmarks/demo.sh

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: install
	$(BIN)/python -m docs.generator
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test: check
	$(PYTEST) -m 'not slow'

test-all: check
	$(PYTEST)

test-portable: install
	$(BIN)/python -m tests.processors

# a bundle made with torch, read where there is none; no PYTHONPATH, so that the wheel is what is imported
DEVICE := $(VENV)-device
test-device: install
	rm -rf $(DEVICE)
	$(DEVICE_PYTHON) -m venv $(DEVICE)
	$(DEVICE)/bin/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(DEVICE)/dist .
	env -u PYTHONPATH $(DEVICE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		"$$(ls $(DEVICE)/dist/tinyscene-*.whl)[listen]" hypothesis pytest pytest-xdist
	$(BIN)/python -m tests.small_bundle $(DEVICE)/small > /dev/null
	env -u PYTHONPATH $(DEVICE)/bin/python -P -c 'import sys, tinyscene; sys.exit("site-packages" not in tinyscene.__file__)'
	env -u PYTHONPATH TINYSCENE_TEST_BUNDLE=$(DEVICE)/small/bundle \
		$(DEVICE)/bin/pytest --numprocesses $(JOBS) --import-mode=append -m 'not slow' tests/deploy

# tflite-runtime needs numpy 1 and Python 3.11, so it has an environment of its own
test-tflite-runtime:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "tflite-runtime needs Python 3.11: make PYTHON=python3.11 ..." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)-numpy1
	sed '/^numpy==/d' constraints.txt > $(VENV)-numpy1/constraints.txt
	$(VENV)-numpy1/bin/pip install --quiet --disable-pip-version-check --constraint $(VENV)-numpy1/constraints.txt \
		--editable '.[train,onnx,firmware,web,verify,tflite-runtime]' hypothesis pytest
	$(VENV)-numpy1/bin/pytest -m 'not slow' -k tflite tests/deploy/test_runtimes.py tests/deploy/test_runners.py tests/deploy/test_verify.py

fuzz: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS)

mutants: install
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[mutants]'
	$(BIN)/python -m tests.mutants

lock:
	$(PYTHON) -m venv $(VENV)-lock
	$(VENV)-lock/bin/pip install --quiet --disable-pip-version-check pip-tools
	$(VENV)-lock/bin/pip-compile --quiet --generate-hashes --constraint constraints.txt --strip-extras --no-emit-index-url \
		--no-emit-find-links --no-header --annotation-style line --output-file requirements-device.lock pyproject.toml

tools:
	apt-get update --quiet
	apt-get install --yes --quiet --no-install-recommends gcc g++ cmake ninja-build gcc-arm-none-eabi gcc-riscv64-unknown-elf \
		gcc-xtensa-lx106 qemu-system-arm qemu-system-misc qemu-user-static arduino-builder nodejs esbuild \
		node-typescript cppcheck clang clang-tidy libclang-rt-dev chromium libportaudio2 tmux

clean:
	rm -rf $(VENV) $(VENV)-device $(VENV)-lock $(VENV)-numpy1 build demo .hypothesis .pytest_cache .ruff_cache *.egg-info
