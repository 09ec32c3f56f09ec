# The one vocabulary: people and CI call the same words.
PYTHON_ENV := .venv
# Cargo's profile. Tests take one that is built in less time and checks for overflows; Rust tests, binary and package share its dependencies.
PROFILE := release
BIN = target/$(PROFILE)/pyrust-nn
PY := $(PYTHON_ENV)/bin/python

.DEFAULT_GOAL := help
# The peers' own environments, 8 GB, made on first use; outside of the checkout.
ENVIRONMENTS := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/pyrust-nn-benchmarks
BENCHES := bench-data bench-export bench-training bench-trl-settings bench-whole-way bench-startup bench-scaling bench-board
.PHONY: bench-quality pictures scale help build setup dev test test-rust test-python lint docs bench $(BENCHES) examples generate lock clean

help:            ## Show these words
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/:/' | column -t -s ':'

build:           ## Build the binary
	cargo build --profile $(PROFILE)

setup: build     ## Build, and make the Python environment where there is none
	$(BIN) setup --python-env $(PYTHON_ENV)

dev: $(PYTHON_ENV)/.dev  ## Also what tests, checks and docs need, and the wheel installed

$(PYTHON_ENV)/.dev: requirements-dev.txt requirements.txt
	$(MAKE) setup PROFILE=$(PROFILE)
	$(PY) -m uv pip install --quiet --python $(PY) --require-hashes -r requirements-dev.txt
	touch $@

test test-rust test-python lint examples generate: PROFILE := quick
test: dev lint test-rust test-python docs  ## Everything that must be green

test-rust:       ## Rust tests
	cargo test --profile $(PROFILE) --quiet --doc
	@if cargo nextest --version >/dev/null 2>&1; then cargo nextest run --cargo-profile $(PROFILE) --no-fail-fast; \
		else cargo test --profile $(PROFILE) --lib --bins --tests; fi

test-python: build dev wheel  ## Tests through Python, the binary and a dependent crate
	PYRUST_NN_BINARY=$(CURDIR)/$(BIN) $(PY) -m pytest --numprocesses 2 --dist loadfile

.PHONY: test-faults
test-faults: build dev wheel  ## Every change of the file system fails once, some two hours
	$(PY) tests/faults/sweep.py --results benchmarks/results/faults.json

.PHONY: wheel
wheel: dev       ## Install this checkout as a package into the environment, as `pip install .` does
	@# In a folder of its own, because maturin links without libpython; it starts with the dependencies that are already built.
	@if [ -d target/$(PROFILE) ] && [ ! -d target/wheel/$(PROFILE) ]; then mkdir -p target/wheel && cp -a target/$(PROFILE) target/wheel/; fi
	CARGO_TARGET_DIR=target/wheel $(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation \
		--config-settings=build-args="--profile $(PROFILE)" .

lint: dev        ## Formats, lints and types
	cargo fmt --check
	cargo clippy --profile $(PROFILE) --all-targets --quiet -- -D warnings
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

pictures: build dev  ## Make the pictures of a report and of the board in docs (needs Chromium)
	$(PY) docs/pictures.py $(BIN)

scale: build dev  ## Make the tables of docs/scale.md, which depend on what check estimates
	$(PY) docs/scale.py $(BIN)

docs: dev        ## Build the pages
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

bench-data: build dev  ## Data preparation against TRL, some 6 minutes (needs ../shared)
	$(PY) benchmarks/data.py

bench: $(BENCHES)  ## All of them, one behind the other, an hour

examples: build dev  ## Write the numbers that the documentation's examples show
	PYRUST_NN_GENERATE=1 PYRUST_NN_BINARY=$(CURDIR)/$(BIN) $(PY) -m pytest tests/python/test_examples.py

generate:        ## Write what is made from the definition of the parameters
	PYRUST_NN_GENERATE=1 cargo test --profile $(PROFILE) --quiet --lib --test architecture generated

bench-export: build dev  ## Encoding of GGUF's block formats beside ggml_quantize_chunk, a few minutes
	$(PY) benchmarks/export.py

bench-quality: wheel  ## What each type of GGUF file costs in quality, with and without importance matrix (needs a real model)
	$(PY) benchmarks/quality.py

bench-training: wheel  ## Training beside TRL's and LLaMA-Factory's (speed, memory, losses), needs ../shared and a quiet machine
	$(PY) benchmarks/training.py --environments $(ENVIRONMENTS)

bench-trl-settings: wheel  ## Which of TRL's settings trains fastest with the same loss
	$(PY) benchmarks/training.py --settings

bench-whole-way: build dev  ## From conversations to an answer, beside LLaMA-Factory and llama.cpp
	$(PY) benchmarks/whole_way.py --environments $(ENVIRONMENTS)

bench-startup: build dev  ## From the command to the first training step, beside the imports alone
	$(PY) benchmarks/startup.py

bench-board: build dev  ## What the report and the board cost: 1,000 sessions, 100,000 logged steps, 50 open pages, five minutes
	$(PY) benchmarks/board.py

bench-scaling: wheel  ## Seconds a token of the training loop at 1,000 to 100,000 samples
	$(PY) benchmarks/scaling.py

lock: dev        ## Lock pyproject.toml's packages with their hashes
	echo uv | $(PY) -m uv pip compile pyproject.toml - --extra llama --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -o requirements.txt
	$(PY) -m uv pip compile pyproject.toml --extra llama --group dev --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet --constraint requirements.txt -o requirements-dev.txt

clean:           ## Remove what was built (not the environment, not the sessions)
	cargo clean
	rm -rf site dist
