# Two commands: `make quickstart` and `make test`. Both make the environment themselves, once.
# EXTRA=gpu installs vLLM's CUDA build in place of the CPU one.
PYTHON ?= python3
EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready-$(EXTRA)
UV_VERSION := 0.13.8

# pip may know a folder with a CPU build of torch; uv does not read pip's settings, so hand it over.
# Without one, uv takes torch from PyTorch's own CPU packages.
FIND_LINKS := $(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null)
TORCH := $(if $(FIND_LINKS),$(foreach place,$(FIND_LINKS),--find-links $(place)),--torch-backend $(if $(filter gpu,$(EXTRA)),auto,cpu))

# Where it is set, every process of a run compiles all of posttrain again: seconds for each.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test setup lint bench chaos clean-env
quickstart: setup
	@echo "[2/2] posttrain run quickstart" && $(BIN)/posttrain run quickstart

# A file of tests at a time; the long ones, tests/integration, come first. Three processes, of a thread each, keep two
# cores busy: runs often wait, for one another's deaths not least. Lint, a minute on one core, goes on beside them.
TEST_PROCESSES ?= 3
test: setup
	@$(MAKE) -s lint >$(VENV)/lint.log 2>&1 & lint=$$!; \
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder; tests=$$?; \
	wait $$lint || { cat $(VENV)/lint.log; exit 1; }; exit $$tests

# N random deaths over one longer run; CHAOS_SEED=... repeats one. CI runs it after `make test`.
chaos: setup
	@CHAOS_N=$(or $(N),5) $(BIN)/python -m pytest -q -s tests/chaos

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: setup
	@$(BIN)/python -m benchmarks $(NAME)

setup: $(READY)

# --without-pip: works where Debian left ensurepip out; pip of the outer Python installs uv into the venv.
$(READY): pyproject.toml constraints.txt
	@begin=$$(date +%s); \
	$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "error[python]: $(PYTHON) is $$($(PYTHON) -V), posttrain needs 3.11 to 3.13" >&2; \
	    echo "  help: make PYTHON=/path/to/python3.11" >&2; exit 2; }; \
	echo "[1/2] environment: installing into $(VENV) (only once)"; \
	$(PYTHON) -m venv --without-pip $(VENV) && \
	$(PYTHON) -m pip --python $(BIN)/python install -qq "uv==$(UV_VERSION)" && \
	$(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python $(TORCH) -c constraints.txt -e ".[$(EXTRA),dev]" && \
	touch $@ && \
	echo "[1/2] environment: $(VENV), $$($(BIN)/python -V), $$($(BIN)/uv pip freeze -q --python $(BIN)/python | wc -l) packages, $$(( $$(date +%s) - begin )) s"

clean-env:
	rm -rf $(VENV)
