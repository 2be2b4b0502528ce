# Everything runs in .venv, which is made from the newest fitting Python and the versions in constraints.txt.
.DEFAULT_GOAL := help
.PHONY: help demo test check tiny bench bench-train bench-gpu bench-peers

PYTHONS := python3 python3.14 python3.13 python3.12 python3.11
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

help:
	@echo "make demo    align the embedded model with pipelines/quickstart.yaml and show what it gained"
	@echo "make test    run the whole test suite"
	@echo "make check   lint, format, types and import contracts"
	@echo "make tiny    train the embedded model again (about 25 minutes)"
	@echo "make bench   measure speed against peers; results go to bench/results (over an hour, alone on the machine)"
	@echo "make bench-gpu     an 8B model on a CUDA machine: memory, answers, judging, training (about an hour)"
	@echo "make bench-train   the same for training, against TRL, which gets an environment of its own (about three quarters of an hour)"

demo: .venv/installed
	$(BIN)/cai run pipelines/quickstart.yaml

# Two workers or up to four, each on one thread: more would wait for each other.
test: .venv/installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile

check: .venv/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

tiny: .venv/installed
	$(BIN)/python -m cai.models.tiny.make

bench: .venv/installed-dev
	@for name in chat generate critique judge memory remote; do \
	    echo "== $$name"; $(BIN)/python bench/$$name.py || exit 1; \
	done
	@for name in generate critique judge; do \
	    echo "== $$name, embedded model"; $(BIN)/python bench/$$name.py --model embedded || exit 1; \
	done

bench-train: .venv-peers/installed
	@for name in dpo sft reward kto grpo; do \
	    echo "== $$name"; \
	    .venv-peers/bin/python bench/$$name.py --choose && .venv-peers/bin/python bench/$$name.py || exit 1; \
	done

bench-gpu: .venv/installed-dev
	$(BIN)/python bench/gpu.py

bench-peers: .venv-peers/installed

.venv-peers/installed: bench/peers.txt constraints.txt .venv/made
	$(BIN)/python -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	    --editable . --requirement bench/peers.txt
	@touch $@

# Every failure ends in one sentence that says what is missing.
.venv/made:
	@for python in $(PYTHONS); do \
	    if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	    echo "cai needs Python 3.11 or newer, and none of these commands is that: $(PYTHONS)." >&2; exit 1; \
	fi; \
	if ! $$found -m venv .venv >.venv-error.txt 2>&1; then \
	    cat .venv-error.txt >&2; rm -f .venv-error.txt; \
	    echo "$$found could not make .venv: its venv module is missing (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; \
	fi; \
	rm -f .venv-error.txt; touch $@

.venv/installed: .venv/made pyproject.toml constraints.txt
	@echo "Installing cai into .venv (a few minutes the first time) ..."
	@$(INSTALL) --editable . || { \
	    echo "cai could not be installed: the lines above say why; the package registry must be reachable." >&2; exit 1; }
	@touch $@

.venv/installed-dev: .venv/installed
	@echo "Installing the tools for tests and checks ..."
	@$(INSTALL) --editable '.[dev]' || { \
	    echo "The tools could not be installed: the lines above say why; the package registry must be reachable." >&2; exit 1; }
	@touch $@
