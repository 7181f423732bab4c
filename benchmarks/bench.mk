# Included by the Makefile. `make bench ARGS="--rounds 10 --only openmaas,mosec"` passes options on.
PYTHON_BENCH ?= .venv/bin/python

.PHONY: bench bench-start bench-http-servers
bench:
	$(PYTHON_BENCH) benchmarks/run.py $(ARGS)

bench-start:
	$(PYTHON_BENCH) benchmarks/start_and_memory.py $(ARGS)

bench-http-servers:
	$(PYTHON_BENCH) benchmarks/http_servers.py $(ARGS)

.PHONY: bench-overload
bench-overload:
	$(PYTHON_BENCH) -m benchmarks.overload $(ARGS)

.PHONY: bench-generation
bench-generation:
	$(PYTHON_BENCH) -m benchmarks.generation $(ARGS)
