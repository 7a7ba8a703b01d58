# Six words: demo, test, check, serve, bench, docs. Each does its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test check serve bench docs matrix fuzz fuzz-bytes clean
.DEFAULT_GOAL := help
help:
	@echo "make demo    prune a real network over HTTP (MODEL= DATA= TARGET= for your own)"
	@echo "make serve   the service on this machine, staying up"
	@echo "make test    the whole test suite"
	@echo "make check   format, lint, types, import contracts, generated docs"
	@echo "make bench   the measurements behind docs/benchmarks.md"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e ".[worker,embedded,demo,dev]"
	@touch $(STAMP)

demo: $(STAMP)
	@$(BIN)/python examples/demo.py $(if $(MODEL),--model "$(MODEL)") $(if $(DATA),--data "$(DATA)") $(if $(TARGET),--target "$(TARGET)")

serve: $(STAMP)
	@$(BIN)/espalier serve

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

# Every architecture by both exporters, BatchNormalization kept and folded; whole jobs; every row of docs/coverage.md.
matrix: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/matrix

fuzz: $(STAMP)
	ESPALIER_FUZZ_GRAPHS=2000 $(BIN)/python -m pytest -q -n 0 tests/matrix/test_random_graphs.py

# Damaged copies of FILES for SECONDS seconds, each analysed in a process of its own.
FILES ?= $(wildcard ../shared/data/zoo/*.onnx ../shared/data/models/resnet20*.onnx)
SECONDS ?= 300
SEED ?= 0
fuzz-bytes: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.matrix.damage --seconds $(SECONDS) --seed $(SEED) $(FILES)

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q -n 0 tests/contracts

docs: $(STAMP)
	$(BIN)/python docs/generate.py
	$(BIN)/python docs/coverage.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache
