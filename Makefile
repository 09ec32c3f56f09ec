# The one vocabulary: people and CI call the same words.
PYTHON_ENV := .venv
BIN := target/release/pyrust-nn
PY := $(PYTHON_ENV)/bin/python
# Cargo's profile of the package; tests take one that is built in less time.
WHEEL_PROFILE := release

.DEFAULT_GOAL := help
# The peers' own environments, 8 GB, made on first use; outside of the checkout.
ENVIRONMENTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pyrust-nn-benchmarks
BENCHES := bench-data bench-export bench-training bench-trl-settings bench-whole-way bench-startup bench-scaling
.PHONY: help build setup dev test test-rust test-python lint docs bench $(BENCHES) examples generate lock clean

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

test-python: WHEEL_PROFILE := quick
test-python: build dev wheel  ## Tests through Python, the binary and a dependent crate
	$(PY) -m pytest --numprocesses 2 --dist loadfile

.PHONY: wheel
wheel: dev       ## Install this checkout as a package into the environment, as `pip install .` does
	CARGO_TARGET_DIR=target/wheel $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings=build-args="--profile $(WHEEL_PROFILE)" .

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

bench: $(BENCHES)  ## All of them, one behind the other, an hour

examples: build dev  ## Write the numbers that the documentation's examples show
	PYRUST_NN_GENERATE=1 $(PY) -m pytest tests/python/test_examples.py

generate:        ## Write what is made from the definition of the parameters
	PYRUST_NN_GENERATE=1 cargo test --quiet --lib generated

bench-export: build dev  ## Encoding of GGUF's block formats beside ggml_quantize_chunk, a few minutes
	$(PY) benchmarks/export.py

bench-training: wheel  ## Training beside TRL's and LLaMA-Factory's (speed, memory, losses), needs ../shared and a quiet machine
	$(PY) benchmarks/training.py --environments $(ENVIRONMENTS)

bench-trl-settings: wheel  ## Which of TRL's settings trains fastest with the same loss
	$(PY) benchmarks/training.py --settings

bench-whole-way: build dev  ## From conversations to an answer, beside LLaMA-Factory and llama.cpp
	$(PY) benchmarks/whole_way.py --environments $(ENVIRONMENTS)

bench-startup: build dev  ## From the command to the first training step, beside the imports alone
	$(PY) benchmarks/startup.py

bench-scaling: wheel  ## Seconds a token of the training loop at 1,000 to 100,000 samples
	$(PY) benchmarks/scaling.py

lock: dev        ## Lock pyproject.toml's packages with their hashes
	echo uv | $(PY) -m uv pip compile pyproject.toml - --extra llama --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements.txt
	$(PY) -m uv pip compile pyproject.toml --extra llama --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --constraint requirements.txt -o requirements-dev.txt

clean:           ## Remove what was built (not the environment, not the sessions)
	cargo clean
	rm -rf site dist
