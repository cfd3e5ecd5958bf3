# make demo   sets everything up, then: repository -> sequences -> tuned adapter -> figures (REPO=path for another one,
#             ENGINE=mlx for the other engine, SET='lora.r=8 training.seed=1' for settings)
# make test   sets everything up, then: style, types, imports, dependencies, tests

PYTHON ?= python3
REPO ?= .
VENV := .venv
DONE := $(VENV)/.installed

.PHONY: setup demo test check clean

setup: $(DONE)

$(DONE): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11 …" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $(DONE)

demo: setup
	$(VENV)/bin/python run_pipeline_dynamic.py --repo "$(REPO)" --config examples/demo.yaml \
	  $(if $(filter .,$(REPO)),--output runs/demo$(ENGINE:%=-%)) $(ENGINE:%=--engine %) $(SET:%=--set %)

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(VENV)/bin/deptry .

test: check
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

clean:
	rm -rf $(VENV) build *.egg-info src/*.egg-info
