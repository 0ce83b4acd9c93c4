# One task file: people, hooks and CI call the same targets. `make help` lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready-$(shell cat pyproject.toml constraints.txt | sha256sum | cut -c1-12)
CHECKOV := 3.3.30
THREADS := OMP_NUM_THREADS=1
TEST_WORKERS := 2

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

test: setup ## the default tests, in two processes; TEST_WORKERS=0 for one
	$(THREADS) CI=$(CI) $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist loadfile

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

# A benchmark that fails stops none of the others: the tables of those that ran are put in their places, and the
# target fails at the end. PEER_PATH and ROSINALITY_PATH are checkouts for the step, instead of a package; the features
# are taken with official weights where INCEPTION_WEIGHTS names them, by clean-fid too where TORCHSCRIPT names its network.
BENCH := first_run.py startup.py prepare.py metrics.py step.py growth.py features.py scaling.py storage.py \
	classes.py transfer.py selection.py methods.py lifelong.py serving.py playground.py
BENCH_THREADS_2 := metrics.py step.py features.py
BENCH_OPTIONS_step.py = --compile $(if $(PEER_PATH),--peer-path $(PEER_PATH)) \
	$(if $(ROSINALITY_PATH),--rosinality-path $(ROSINALITY_PATH))
BENCH_OPTIONS_features.py = $(if $(INCEPTION_WEIGHTS),--weights $(INCEPTION_WEIGHTS)) \
	$(if $(TORCHSCRIPT),--torchscript $(TORCHSCRIPT))
BENCH_OPTIONS_methods.py = --family stylegan2 biggan

bench: run ## all benchmarks that need no GPU, and their tables in docs; hours, on quiet cores
	@failed=; $(foreach script,$(BENCH), \
	echo "benchmarks/$(script)"; \
	OMP_NUM_THREADS=$(if $(filter $(script),$(BENCH_THREADS_2)),2,1) \
		$(BIN)/python benchmarks/$(script) $(BENCH_OPTIONS_$(script)) || failed="$$failed $(script)";) \
	$(BIN)/python benchmarks/tables.py || failed="$$failed tables.py"; \
	test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

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
