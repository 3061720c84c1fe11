# The two commands of a newcomer: `make demo` and `make test`. Everything happens in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
VERSION := $(shell sed -n 's/__version__ = "\(.*\)"/\1/p' service/__init__.py)

.PHONY: help demo demo-stop test check format clean env image test-deploy dashboards

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(BIN)/farfield: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "farfield needs Python 3.11 or later; this is %s. Try: make PYTHON=python3.12 demo" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/dev: $(BIN)/farfield
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(BIN)/farfield  ## fit on real images, publish, serve, score over HTTP; leaves the service running
	@$(BIN)/farfield demo

demo-stop: $(BIN)/farfield  ## stop the service that the demo left running
	@$(BIN)/farfield demo --stop

test: $(VENV)/dev  ## run all tests; they start by themselves what they need
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

check: $(VENV)/dev  ## format, lint and type checks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/dev  ## mend format and lint where that can be done by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

env: .env  ## passwords for docker compose, made by chance, in .env

.env:
	@umask 077; $(PYTHON) -c 'import secrets; [print(f"{name}_PASSWORD={secrets.token_hex(24)}") for name in ("REDIS", "GRAFANA")]' > $@.new
	@mv $@.new $@

image:  ## the container image, farfield:VERSION; BUILD="--build-arg GPU=1" adds to the command
	docker build --tag farfield:$(VERSION) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) $(BUILD) .

$(VENV)/deploy: $(VENV)/dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[deploy]'
	@touch $@

test-deploy: $(VENV)/deploy image  ## image, compose, chart: needs a Docker Engine, helm and podman
	$(BIN)/python -m pytest tests/deploy/check_*.py

dashboards: $(VENV)/dev  ## write deploy/grafana/dashboards from the code beside it
	$(BIN)/python -B -m deploy.grafana

clean:  ## remove what the other commands made, but no data
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist
