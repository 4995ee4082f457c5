# `make demo` and `make test` set up what they need in .venv; nothing else is touched.

PYTHON ?= python3
GPUS   := $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)
RANKS  ?= $(if $(filter 0,$(GPUS)),2,$(GPUS))
LOCK   := requirements/$(if $(filter 0,$(GPUS)),cpu,gpu).lock
BIN    := .venv/bin
READY  := .venv/ready

# Without this DeepSpeed looks for an accelerator in every process and warns that there is none.
ifeq ($(LOCK),requirements/cpu.lock)
export DS_ACCELERATOR := cpu
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-system lint format lock clean

demo: $(READY)  ## train, score, export and report on the bundled sample
	rm -rf runs/demo
	deepspeed --quiet --num_accelerators $(RANKS) launch/train.py --config configs/demo.yaml

test: $(READY)  ## the test suite
	python -m pytest -m "not system"

test-system: $(READY)  ## heavier tests: the demo, and the published figures where MGH_DATA_DIR names the data
	python -m pytest -m system

lint: $(READY)  ## ruff and mypy
	ruff check
	ruff format --check
	mypy

format: $(READY)
	ruff check --fix
	ruff format

lock:  ## resolve pyproject.toml into requirements/*.lock (needs uv)
	uv pip compile pyproject.toml --extra dev --python-version 3.11 --quiet --no-header --no-annotate \
		-o requirements/gpu.lock
	grep -vE '^(nvidia-|cuda-)' requirements/gpu.lock > requirements/cpu.lock

clean:
	rm -rf .venv runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)
