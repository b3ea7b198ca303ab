# These commands do all the set-up: `make results`, `make results-full`, `make test` and `make test-all`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

PYTEST := $(BIN)/python -m pytest --benchmark-disable --numprocesses=auto --maxprocesses=8 --dist=worksteal

.PHONY: results results-full test test-all bench baseline lint warm browser site clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all]'
	touch $(VENV)/.measures $@

# What `make results` needs: neither the compilers of GPUs nor what tests and docs are made with.
$(VENV)/.measures: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

BENCH := env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m bench

# The main job: the geometry of all sources, the claims, and the page of all results.
results: $(VENV)/.measures
	$(BENCH) geometry claims report

# Every study. `make results-full ALL=1` attempts optional sources too.
results-full: $(VENV)/.installed
	$(BENCH) $(if $(ALL),--all)

test: $(VENV)/.installed
	$(MAKE) --jobs=2 --output-sync=target lint warm browser
	$(PYTEST) -m "not slow and not serial"

# The tests that `make test` leaves out: slow ones, of what rarely breaks, and those that bear nothing beside them.
test-all: $(VENV)/.installed warm browser
	$(PYTEST) -m slow
	$(BIN)/python -m pytest --benchmark-disable -m serial

# Kernels are compiled once, before workers start that would all compile them.
warm: $(VENV)/.installed
	$(BIN)/python -m geomkit warm

# Pages are opened in a browser by their tests. CI installs Debian's; elsewhere those tests say that there is none.
browser:
	@if test -n "$(CI)" && ! command -v chromium > /dev/null; then \
		apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install --yes --no-install-recommends chromium fonts-dejavu-core; \
	fi

bench: $(VENV)/.installed
	mkdir -p results/quick
	env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python -m pytest bench --benchmark-only \
		--benchmark-json=results/quick/benchmark.json
	mv results/quick/benchmark.json results/benchmark.json
	test -f results/benchmark.baseline.json || cp results/benchmark.json results/benchmark.baseline.json
	$(BIN)/python -m bench compare results/benchmark.baseline.json results/benchmark.json

# Later runs of `make bench` are compared with the last one.
baseline:
	cp results/benchmark.json results/benchmark.baseline.json

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

site: $(VENV)/.installed
	$(BIN)/python -m mkdocs build

clean:
	rm -rf site $(VENV) .mypy_cache .ruff_cache .pytest_cache
