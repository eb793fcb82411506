# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo

.PHONY: demo test test-full test-gpu lint docs clean

# torch first and pinned: the CPU wheel, where the package index has one.
$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet torch==2.13.0
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $(READY)

demo: $(READY)
	$(BIN)/python examples/shapes/train.py $(DEMO)
	$(BIN)/python examples/shapes/evaluation.py $(DEMO)/muge
	$(BIN)/torchlift ship chinese-clip --checkpoint $(DEMO)/shapes.pt --data $(DEMO)/muge --within recall@1=0.2 \
		-o $(DEMO)/clip
	$(BIN)/torchlift run $(DEMO)/clip --image $(DEMO)/never-seen.png \
		--text 紫色的五角星 --text 红色的五角星 --text 紫色的圆形 --text 蓝色的三角形 --text 绿色的心形 --text 黄色的方形
	$(BIN)/torchlift score $(DEMO)/clip --data $(DEMO)/muge

test: $(READY)
	$(BIN)/python -m pytest -m "not full and not gpu" -n $(WORKERS) --dist worksteal

test-full: $(READY)
	$(BIN)/python -m pytest -m "not gpu"

# On a machine with an NVIDIA GPU; tests of a runtime that is not installed are skipped, and say so.
test-gpu: $(READY)
	$(BIN)/python -m pytest tests/gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site, into site/. Each warning of the generator is an error.
$(VENV)/.docs: $(READY)
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $(VENV)/.docs

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

clean:
	rm -rf $(VENV) $(DEMO) site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
