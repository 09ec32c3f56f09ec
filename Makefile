# The one vocabulary: people and CI call the same words.
PYTHON_ENV := .venv
BIN := target/release/pyrust-nn
PY := $(PYTHON_ENV)/bin/python

.DEFAULT_GOAL := help
.PHONY: help build setup dev test test-rust test-python lint docs bench-data bench-training generate lock clean

help:            ## Show these words
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s ':'

build:           ## Build the binary
	cargo build --release

setup: build     ## Build, and make the Python environment where there is none
	$(BIN) setup --python-env $(PYTHON_ENV)

dev: $(PYTHON_ENV)/.dev  ## Also what tests, checks and docs need, and the wheel installed

$(PYTHON_ENV)/.dev: requirements-dev.txt requirements.txt
	$(MAKE) setup
	$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements-dev.txt
	touch $@

test: dev lint test-rust test-python docs  ## Everything that must be green

test-rust:       ## Rust tests
	cargo test --quiet --doc
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --no-fail-fast; else cargo test --lib --bins --tests; fi

test-python: dev wheel  ## Tests through Python, the binary and a dependent crate
	$(PY) -m pytest

.PHONY: wheel
wheel: dev       ## Install this checkout as a package into the environment, as `pip install .` does
	CARGO_TARGET_DIR=target/wheel $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation .

lint: dev        ## Formats, lints and types
	cargo fmt --check
	cargo clippy --all-targets --quiet -- -D warnings
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: dev        ## Build the pages
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench-data: build dev  ## Data preparation against TRL, some 6 minutes (needs ../shared)
	$(PY) benchmarks/data.py

generate:        ## Write what is made from the definition of the parameters
	PYRUST_NN_GENERATE=1 cargo test --quiet --lib generated

bench-training: wheel  ## Training beside TRL's: speed, memory, losses; needs ../shared and a quiet machine
	$(PY) benchmarks/training.py

lock: dev        ## Lock pyproject.toml's packages with their hashes
	echo uv | $(PY) -m uv pip compile pyproject.toml - --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements.txt
	$(PY) -m uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --constraint requirements.txt -o requirements-dev.txt

clean:           ## Remove what was built (not the environment, not the sessions)
	cargo clean
	rm -rf site dist
