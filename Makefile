# One task file: people, hooks and CI call the same targets. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
CHECKOV := 3.3.30
THREADS := OMP_NUM_THREADS=1

.PHONY: help setup run test nightly nightly-tests nightly-faults fuzz lint checkov format bench docs data zoo pipelines image-test cluster-test clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-15s %s\n", $$1, $$2}'

setup: $(STAMP) ## make .venv with everything in it

$(STAMP):
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	rm -f $(VENV)/.ready-* && touch $@

run: setup ## prepare, rank, finetune, evaluate, report and register the shipped example
	$(THREADS) $(BIN)/graftgan run

test: setup ## the default tests
	$(THREADS) CI=$(CI) $(BIN)/python -m pytest

nightly: nightly-tests nightly-faults image-test ## all tests; `make -j2 -k nightly` does two parts at once

nightly-tests: setup ## all tests but the next two kinds, the slow ones included
	$(THREADS) $(BIN)/python -m pytest -m 'not gpu and not image' --ignore=tests/faults --ignore=tests/fuzz

nightly-faults: setup ## faults and fuzzers, with their counts; FAULTS_SHARE=all for whole sweeps
	$(THREADS) $(BIN)/python -m pytest -rP -m 'not gpu and not image' tests/faults tests/fuzz

fuzz: setup ## the fuzzers alone, FUZZ_SECONDS each (600)
	$(THREADS) $(BIN)/python -m pytest -rP tests/fuzz -m nightly

lint: setup ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/mypy components pipelines scripts
	$(BIN)/python -m pipelines.dvc --check
	$(BIN)/python -m pipelines.compile --check
	$(BIN)/python -m pipelines.lint
	$(BIN)/python -m pipelines.lifelong dvc --check
	$(BIN)/yamllint --strict .
	$(BIN)/hadolint Dockerfile
	$(BIN)/shellcheck scripts/*.sh .ci/run

checkov: .checkov/$(CHECKOV) ## security checks of the Dockerfile; its exceptions stand there
	.checkov/bin/checkov --skip-download --compact --quiet --framework dockerfile --file Dockerfile

# It wants other versions of what the project uses, hence an environment of its own.
.checkov/$(CHECKOV):
	rm -rf .checkov
	$(PYTHON) -m venv .checkov
	.checkov/bin/python -m pip install --quiet checkov==$(CHECKOV)
	touch $@

format: setup ## rewrite the style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## all benchmarks that need no GPU, and their tables in docs; hours, on quiet cores
	$(THREADS) $(BIN)/python benchmarks/startup.py
	$(THREADS) $(BIN)/python benchmarks/serving.py
	$(THREADS) $(BIN)/python benchmarks/prepare.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/metrics.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/step.py --compile
	$(THREADS) $(BIN)/python benchmarks/growth.py
	OMP_NUM_THREADS=2 $(BIN)/python benchmarks/features.py
	$(THREADS) $(BIN)/python benchmarks/scaling.py
	$(THREADS) $(BIN)/python benchmarks/storage.py
	$(THREADS) $(BIN)/python benchmarks/classes.py
	$(THREADS) $(BIN)/python benchmarks/transfer.py
	$(THREADS) $(BIN)/python benchmarks/selection.py
	$(THREADS) $(BIN)/python benchmarks/methods.py
	$(THREADS) $(BIN)/python benchmarks/lifelong.py
	$(BIN)/python benchmarks/tables.py

docs: setup ## the pictures of README and docs, from a finished run
	$(THREADS) $(BIN)/python docs/pictures.py

data: setup ## rebuild the shipped image sets (needs npm)
	$(BIN)/python data/build/build.py

zoo: setup ## train the missing source checkpoints and write cards and catalogue
	$(THREADS) $(BIN)/python zoo/build.py train
	$(THREADS) $(BIN)/python zoo/build.py finish

pipelines: setup ## write dvc.yaml files and compiled Kubeflow pipelines from the stage tables
	$(BIN)/python -m pipelines.dvc
	$(BIN)/python -m pipelines.compile
	$(BIN)/python -m pipelines.lifelong dvc

image-test: setup ## build the image with a Docker Engine and run the compiled pipelines inside it
	PYTHON=$(BIN)/python scripts/image_test.sh

cluster-test: setup ## run the pipeline in a kind cluster (needs docker, kind, kubectl and the Internet)
	PYTHON=$(BIN)/python scripts/cluster_test.sh

clean: ## remove outputs and caches of the example, but no training state
	rm -rf out .pytest_cache .mypy_cache .ruff_cache
