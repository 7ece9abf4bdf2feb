# Two commands do everything on a fresh machine that has Python 3.11 or newer, make and git:
#     make demo       make test
# Another interpreter: make test PYTHON=python3.13 (it gets an environment of its own).

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(subst /,-,$(patsubst /%,%,$(PYTHON))))
RUN := $(VENV)/bin/python
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
SOAK_SECONDS ?= 600

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test check unit prove bench bench-codec bench-asyncio bench-growth bench-picture profile twins fuzz soak fmt clean

help:  ## Show this list.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo "PYTHON=python3.13 chooses the interpreter, VENV=dir its environment, PYTEST_ARGS='-k name' what unit runs."

demo: $(VENV)/.examples  ## Start a server process, run a client process against it, show call by call what happened.
	@$(RUN) examples/codesearch/demo.py

test: check unit  ## Everything that must hold before a change lands: check, then unit.

check: $(VENV)/.dev  ## ruff (lint, format), mypy --strict, pyright.
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	@# The two checkers take a core each; each prints its verdict at its end.
	@# Without --pythonpath pyright resolves imports in the first python on the PATH.
	$(RUN) -m mypy & mypy=$$!; \
	$(RUN) -m pyright --pythonpath $(RUN); pyright=$$?; \
	wait $$mypy && exit $$pyright

# The tests start hundreds of interpreters; without bytecode each compiles the library again.
unit: export PYTHONDONTWRITEBYTECODE :=
unit: $(VENV)/.dev  ## pytest, with the coverage of the subprocesses that the tests start.
	@rm -f .coverage .coverage.*
	@# A worker takes whole files, for what the tests of a file share; tests/conftest.py has the slowest come first. One
	@# that a time-out ends is not replaced: its successors would run the test that hangs again and again. One
	@# worker more than cores that there are on a small machine: many tests wait for processes, sockets and time-outs.
	$(RUN) -m pytest --cov -n 3 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 $(PYTEST_ARGS)

prove: $(VENV)/.dev  ## Measure what is promised in milliseconds and megabytes, each figure beside its promise.
	@$(RUN) benchmarks/prove.py

bench: $(VENV)/.peers  ## Measure calls beside every peer, and show which of the budget is met.
	@$(RUN) benchmarks/bench.py

bench-codec: $(VENV)/.bench  ## Measure the codec beside other libraries, each figure beside its budget.
	@$(RUN) benchmarks/codec.py

bench-asyncio: $(VENV)/.bench  ## Measure calls between asyncio programs, beside gRPC's and a bare echo.
	@$(RUN) benchmarks/asyncio_calls.py

bench-growth: $(VENV)/.bench  ## Measure how the cost of calls grows with how much there is; GROWTH=file.json keeps it.
	@$(RUN) benchmarks/growth.py $(if $(GROWTH),--json $(GROWTH))

bench-picture: $(VENV)/.bench  ## Draw what was measured, BENCH=bench.json GROWTH=growth.json, into docs/performance.svg.
	@$(RUN) benchmarks/picture.py $(BENCH) $(GROWTH) docs/performance.svg

profile: $(VENV)/.made  ## Show where the time of a call goes, layer by layer: with threads, with asyncio, of an item.
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable .
	@for work in "" --asyncio --map --stream; do $(RUN) benchmarks/profile.py $$work && echo || exit 1; done

twins: $(VENV)/.made  ## Count the lines of code that the two connections share, with threads and on an event loop.
	@$(RUN) benchmarks/twins.py

fuzz: $(VENV)/.fuzz  ## Let a coverage-guided fuzzer at the codec and at the protocol, FUZZ_SECONDS=60, half for each.
	@$(RUN) benchmarks/fuzz_codec.py --seconds $$((($(FUZZ_SECONDS) + 1) / 2))
	@$(RUN) benchmarks/fuzz_protocol.py --seconds $$((($(FUZZ_SECONDS) + 1) / 2))

soak: $(VENV)/.bench  ## Let every shape of call run at once, SOAK_SECONDS=600 of them, and show whether anything grows.
	@$(RUN) benchmarks/soak.py --seconds $(SOAK_SECONDS)

fmt: $(VENV)/.dev  ## Format, and repair what ruff can repair.
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

clean:  ## Remove the environments and everything else that is made.
	rm -rf .venv .venv-* .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made anew when pyproject.toml changes, so that nothing of an older one lingers in it. The stamps
# lie inside it and go with it; each is written only after its step went well.
$(VENV)/.made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "typedrpc needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>/dev/null || echo 'no Python that runs')."; \
	    echo "Choose another: make $(or $(MAKECMDGOALS),demo) PYTHON=python3.12"; \
	    exit 1; } >&2
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.examples: $(VENV)/.made
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[examples]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.examples

$(VENV)/.bench: $(VENV)/.made
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

# A peer that will not install on this system or Python is left out, with a line that says so.
$(VENV)/.peers: $(VENV)/.bench
	@$(RUN) benchmarks/install_peers.py
	@touch $@

# atheris comes for some versions of CPython on Linux and macOS; nothing else needs it.
$(VENV)/.fuzz: $(VENV)/.dev
	@$(RUN) -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	@touch $@
