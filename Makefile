# Each target makes .venv if it is not there and installs what the target needs, once for each
# state of pyproject.toml.
#
#   make demo         index 400,000 word vectors, close, reopen, query
#   make test         every check; the same that CI runs
#   make soak         every test, the long ones too, with ten times as many random examples
#   make bench-smoke  the benchmark on a small set, to see that it runs (needs a C++ compiler)
#   make clean        remove .venv and everything else made here

BIN := .venv/bin
PYTHONS := python3.13 python3.12 python3.11 python3
.DEFAULT_GOAL := help
.PHONY: help demo test soak bench-smoke clean

help:
	@sed -n 's/^#   //p' Makefile

demo: .venv/demo.stamp
	$(BIN)/vecstore demo

test: .venv/test.stamp
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadscope

soak: .venv/test.stamp
	$(BIN)/python -m pytest -m "" --hypothesis-profile=soak --numprocesses=2 --dist=loadscope

bench-smoke: .venv/bench.stamp
	$(BIN)/python -m bench run --dataset synthetic-20000x32 --adapter vecstore,hnswlib \
	    --queries 200 --repeats 3 --out build/bench-smoke --work build/bench-work

clean:
	rm -rf .venv build dist .coverage .hypothesis .*_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/%.stamp: pyproject.toml | $(BIN)/pip
	@echo "Installing vecstore with [$*] into .venv ..."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	@touch $@

# The first of PYTHONS that runs, is new enough and can make an environment with pip in it.
$(BIN)/pip:
	@for python in $(PYTHONS); do \
	    "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	    if "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	        echo "Making .venv with $$("$$python" --version)"; \
	        exec "$$python" -m venv .venv; \
	    fi; \
	    found="$$python"; \
	done; \
	if [ -n "$$found" ]; then \
	    echo "$$found cannot make a virtual environment: its module venv is missing." >&2; \
	    echo "On Debian or Ubuntu: apt-get install $$found-venv" >&2; \
	else \
	    echo "vecstore needs Python 3.11 or later; none of these is: $(PYTHONS)" >&2; \
	    echo "On Debian or Ubuntu: apt-get install python3 python3-venv" >&2; \
	fi; \
	exit 1
