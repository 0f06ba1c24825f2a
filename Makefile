PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder
INSTRUCTION_SETS := default $(shell grep -qw avx2 /proc/cpuinfo 2>/dev/null && echo avx2) \
  $(shell grep -qw avx512f /proc/cpuinfo 2>/dev/null && echo avx512)
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help demo test processors numerics mutations kills bad-input harnesses coverage check bench numbers docs examples clean

help:  ## list these commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-10s %s\n", $$1, $$2}'

demo: $(VENV)/installed  ## the paper's three figures in a small world, in some minutes
	OMP_NUM_THREADS=1 $(BIN)/trimtab demo --out demo

# The models here are tiny: a second thread would wait more than it works. So a core takes a file
# of tests at a time instead.
test: $(VENV)/tested-with  ## run the tests
	OMP_NUM_THREADS=1 $(PYTEST)

processors: $(VENV)/tested-with  ## the tests with each instruction set that is here, on 1 thread and on 2
	@for set in $(INSTRUCTION_SETS); do for threads in 1 2; do \
	  echo "== $$set, $$threads"; ATEN_CPU_CAPABILITY=$$set OMP_NUM_THREADS=$$threads $(PYTEST) $(TESTS) || exit 1; \
	done; done

# What depends on the instruction set is what computes with models; CI runs it on a second one.
numerics: $(VENV)/tested-with  ## the tests that train or measure, without vector instructions
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 $(PYTEST) tests/measure tests/train/baselines \
	  tests/train/objectives tests/train/test_trainer.py tests/train/test_reference.py \
	  --ignore tests/measure/test_overlap.py --ignore tests/measure/test_similarity.py \
	  --ignore tests/train/baselines/test_post_hoc.py --ignore tests/train/objectives/test_budget.py

mutations: $(VENV)/tested-with  ## change the meaning of a line at a time: a test has to fail (half an hour)
	$(BIN)/python tests/mutations.py

bad-input: $(VENV)/tested-with  ## far more bad flags, files and experiments than the tests draw
	OMP_NUM_THREADS=1 BAD_INPUTS=$${BAD_INPUTS:-100} $(BIN)/python -m pytest -s tests/cli/test_bad_input.py

harnesses: $(VENV)/tested-with  ## the tests of lm-eval and Inspect, which make test skips where they are not installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lm-eval,inspect]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/evaluate/test_harnesses.py

coverage: $(VENV)/tested-with  ## which lines the tests run, module by module
	OMP_NUM_THREADS=1 $(BIN)/python -m coverage run -m pytest -n auto --dist loadfile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

check: $(VENV)/developed-with  ## lint, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for folder in benchmarks $(dir $(wildcard experiments/*/write.py)) docs/reproduction docs/theory docs/dial docs/start \
	  docs/comparison docs/audit; do (cd $$folder && $(abspath $(BIN))/mypy --cache-dir $(abspath .mypy_cache) *.py) || exit 1; done
	$(BIN)/lint-imports

kills: $(VENV)/tested-with  ## kill every command, and fill its disk, at every file operation (hours)
	OMP_NUM_THREADS=1 $(BIN)/python tests/killed_anywhere.py
	OMP_NUM_THREADS=1 $(BIN)/python tests/killed_anywhere.py --full-disk

bench: $(VENV)/installed  ## speed and memory, as ratios measured side by side
	$(BIN)/python benchmarks/exact_frontier.py
	$(BIN)/python benchmarks/step_overhead.py
	$(BIN)/python benchmarks/one_rule.py
	$(BIN)/python benchmarks/curvature.py
	$(BIN)/python benchmarks/live.py
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/coverage.py
	$(BIN)/python benchmarks/ray_speedup.py
	$(BIN)/python benchmarks/ray_kills.py
	$(BIN)/python benchmarks/memory.py --data ../shared/data --write

numbers: $(VENV)/installed  ## regenerate the numbers and pictures of the documents
	$(BIN)/python benchmarks/frontier_from_one_run.py --docs
	$(BIN)/python benchmarks/one_rule.py --docs
	$(BIN)/python docs/dial/fonseca.py
	$(BIN)/python docs/dial/by_answers.py
	$(BIN)/python docs/comparison/write.py
	$(BIN)/python docs/reproduction/write.py
	$(BIN)/python experiments/knobs/write.py
	$(BIN)/python experiments/conflict/write.py
	$(BIN)/python docs/theory/worked_world.py
	$(BIN)/python docs/start/card.py
	$(BIN)/python experiments/methods/write.py
	$(BIN)/python experiments/methods/own.py
	$(BIN)/python experiments/methods/precision.py
	$(BIN)/python docs/theory/tightness.py
	$(BIN)/trimtab demo --out demo --restart
	cp demo/figures/figure1.png demo/figures/figure2.png demo/figures/figure3.png docs/demo/
	cp demo/points.jsonl docs/demo/
	PATH=$(BIN):$$PATH docs/audit/example.sh demo > docs/audit/example.txt
	cp demo/audit.json docs/audit/example.json

docs: $(VENV)/documented-with  ## build the documents as a site, strictly, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is built. Its search needs a server: python -m http.server -d site"

examples: $(VENV)/installed  ## run every script of examples/
	@for script in $(filter-out examples/small_world.py,$(wildcard examples/*.py)); do \
	  echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python $$script || exit 1; \
	done

clean:  ## remove the virtual environment, the demo and the site
	rm -rf $(VENV) demo site

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/tested-with: $(VENV)/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends chromium >/dev/null; } \
	  || echo "no chromium found: the browser test will be skipped"
	@touch $(VENV)/installed $@

$(VENV)/developed-with: $(VENV)/tested-with
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(VENV)/documented-with: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@
