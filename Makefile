# Requirements: Python >= 3.11, make and access to PyPI. Start with these two:
#   make pretrain     trains a BERT from text on this computer
#   make test         runs lint, the in-process tests and the system tests of the main promises
# More tests:
#   make test-all     runs make test, then every other test: test-rest (processes, buckets, pages of
#                     the docs, drill, fuzz), test-tpu (TPU compiler) and test-parity (PyTorch)
#   make test-lowest  runs the in-process tests with the lower bounds of setup.cfg
#   make drill        injects every fault into real runs and prints the results (DRILL=--help)
#   make fuzz         fuzzes the file parsers, one minute for each (FUZZ=--help)
#   make mutants      inserts faults into the product and reports which tests detect them (MUTANTS=--help)
# Other targets:
#   make tutorial     runs the commands of docs/tutorial on this computer
#   make docs         builds the site in docs/_build/html; a warning or a broken link is an error
#   make lock         pins the packages that TPU VMs install
# PYTHON selects the interpreter, as in: make test PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
DATA := data/python-docs
# The parity tests install this requirement first, to select a build of PyTorch.
TORCH ?= torch

# If the virtual environment has another Python than PYTHON, it is replaced.
ifneq ($(shell $(BIN)/python -V 2>/dev/null),$(shell $(PYTHON) -V 2>/dev/null))
.PHONY: $(BIN)/python
endif

.PHONY: help venv parity tpu-compiler pretrain tutorial docs test test-all test-rest test-tpu test-parity \
	test-lowest drill fuzz mutants lint lock clean

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

$(BIN)/python:
	$(PYTHON) -m venv --clear $(VENV)

$(VENV)/core: setup.cfg $(BIN)/python
	$(PIP) --editable .
	@touch $@

$(VENV)/test: setup.cfg $(BIN)/python
	$(PIP) --editable '.[test]'
	@touch $(VENV)/core $@

$(VENV)/parity: setup.cfg $(BIN)/python
	$(PIP) $(TORCH)
	$(PIP) --editable '.[test,parity]'
	@touch $(VENV)/core $(VENV)/test $@

$(VENV)/tpu: setup.cfg $(BIN)/python
	$(PIP) --editable '.[test,tpu]'
	@touch $(VENV)/core $(VENV)/test $@

$(VENV)/docs: setup.cfg $(BIN)/python
	$(PIP) --editable '.[docs,cloud]'
	@touch $(VENV)/core $@

venv: $(VENV)/test
tpu-compiler: $(VENV)/tpu
parity: $(VENV)/parity

# Large arrays in huge pages: a quarter faster where Linux lets the program choose.
pretrain: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
pretrain: $(VENV)/core
	$(BIN)/bert-jax train-tokenizer --corpus python-docs --vocab-size 8000 --out $(DATA)/tokenizer
	$(BIN)/bert-jax prepare --corpus python-docs --tokenizer $(DATA)/tokenizer --held-out 0.05 --out $(DATA)/store
	$(BIN)/bert-jax pretrain --config configs/tiny.yaml
	$(BIN)/bert-jax evaluate runs/tiny
	$(BIN)/bert-jax fill-mask runs/tiny --top-k 3 "The default [MASK] is zero."
	$(BIN)/bert-jax fill-mask runs/tiny --top-k 3 "Returns the number of [MASK] in the list."
	$(BIN)/bert-jax fill-mask runs/tiny --top-k 3 "Return a new array with the given [MASK] and type."
	@echo "The run is in runs/tiny. To write an HTML report: $(BIN)/bert-jax report runs/tiny"
	@echo "To fine-tune it: . $(BIN)/activate, then the next commands of README.md."

tutorial: $(VENV)/core
	PYTHONPATH=tests $(BIN)/python -m support.doc_blocks docs/tutorial/index.md

docs: $(VENV)/docs
	$(BIN)/sphinx-build -W --keep-going -q docs docs/_build/html
	@echo "The site is in docs/_build/html; open index.html there."

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Three workers on two cores: some tests wait for other processes.
PYTEST := $(BIN)/pytest --numprocesses 3 --dist worksteal

test: lint
	$(PYTEST) -m 'not full and not tpu_backend' tests/unit tests/system tests/docs

test-rest: $(VENV)/test
	$(PYTEST) -m 'full and not tpu_backend' tests/unit tests/system tests/docs

# Only one process at a time can use libtpu. Tests whose package is missing are skipped; these two
# targets fail instead.
test-tpu: $(VENV)/tpu
	$(BIN)/python -c "import libtpu"
	$(BIN)/pytest -m tpu_backend tests/compiler tests/system

test-parity: $(VENV)/parity
	$(BIN)/python -c "import conlleval, torch, torchmetrics, transformers"
	$(BIN)/pytest --numprocesses 2 --dist loadfile tests/parity

test-all:
	$(MAKE) test
	$(MAKE) test-rest
	$(MAKE) test-tpu
	$(MAKE) test-parity

# The oldest versions that setup.cfg allows, in a separate environment.
test-lowest: $(VENV)/test
	$(PYTHON) -m venv --clear .venv-lowest
	$(BIN)/uv pip install --quiet --python .venv-lowest --resolution lowest-direct --editable '.[test]'
	.venv-lowest/bin/pytest --numprocesses 3 --dist worksteal -m 'not full' tests/unit

drill: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m tools.drill $(DRILL)

fuzz: $(VENV)/test
	PYTHONPATH=tests $(BIN)/python -m tools.drill.fuzz $(FUZZ)

mutants: $(VENV)/test
	$(BIN)/python -m tools.mutants $(MUTANTS)

# The packages that TPU VMs install, each file with its hash, for the Python of tpu/lock/python.txt.
LOCK := $(BIN)/uv pip compile --quiet --generate-hashes --no-header --no-annotate \
	--python-version 3.11 --python-platform x86_64-manylinux_2_34
lock: $(VENV)/test
	printf 'setuptools\nsetuptools-scm\nuv\n' | $(LOCK) --output-file tpu/lock/tools.txt -
	$(LOCK) --extra tpu --extra cloud --output-file tpu/lock/requirements.txt setup.cfg

clean:
	rm -rf $(VENV) .venv-lowest data runs docs/_build docs/_generated .mypy_cache .pytest_cache .ruff_cache *.egg-info
