# Each target is complete: it sets up what it needs first, and is quick the second time.
# Arguments are passed on: make test ARGS="-k naming", make lab ARGS="--no-browser --port 9999"

ARGS ?=

.PHONY: help setup setup-test lab demo test bench lint notebooks binder-trial clean
.DEFAULT_GOAL := help

help: ## What there is to make
	@sed -n 's/^\([a-z-]*\):.*## /make \1\t/p' Makefile | expand -t 20

setup: ## The system packages and .venv that the others need
	@scripts/setup lab

setup-test:
	@scripts/setup test

lab: setup ## JupyterLab, with the first notebook open
	@scripts/lab $(ARGS)

demo: setup ## An atomic snapshot of a throw-away VM, in the terminal
	@.venv/bin/snapkit demo $(ARGS)

test: setup-test ## Style, types, every test and every notebook
	@scripts/test $(ARGS)

bench: setup-test ## The benchmarks: their ratios, and a failure for each missed target
	@.venv/bin/pytest -m benchmark --capture=no tests/benchmarks $(ARGS)

lint: setup-test ## Style and types only
	@scripts/lint

notebooks: setup-test ## Run the notebooks anew and store their outputs
	@.venv/bin/python scripts/notebooks.py $(ARGS)

binder-trial: ## What Binder does, in a throw-away account (as root)
	@scripts/try-binder $(ARGS)

clean: ## Remove .venv and all that the tools keep
	rm -rf .venv build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf
