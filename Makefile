# `make demo` and `make test` set everything up by themselves; the other targets are for daily work.

PYTHON ?= python3
BIN := .venv/bin
# Most tests wait for processes.
IN_PARALLEL := --numprocesses 2 --dist worksteal

.PHONY: demo test test-fast test-engines test-trainers check format bench soak examples clean

demo: .venv/.ready
	$(BIN)/ng_collect_rollouts "+config_paths=[configs/quickstart.yaml]" \
		+input_jsonl_fpath=data/quickstart.jsonl +output_jsonl_fpath=results/quickstart.jsonl +num_repeats=2
	@echo "next: source .venv/bin/activate, then: ng_run"

test: .venv/.tests check
	$(BIN)/pytest $(IN_PARALLEL)

test-fast: .venv/.tests
	$(BIN)/pytest -m "not slow" $(IN_PARALLEL)

test-engines: .venv/.tests
	PYTHON=$(PYTHON) scripts/set_up_engines.sh
	NEMO_LIKE_ENGINES=llama_server,llama_server_float32,vllm,vllm_float32,transformers,litellm $(BIN)/pytest tests/engines tests/servers/test_litellm_proxy.py

test-trainers: .venv/.tests .venvs/trainers/.ready .venvs/verifiers/.ready
	$(BIN)/pytest tests/trainers
	HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1 TOKENIZERS_PARALLELISM=false \
		.venvs/trainers/bin/python -m tests.trainers.run

check: .venv/.tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

format: .venv/.tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.venv/.ready: pyproject.toml scripts/set_up.sh
	PYTHON=$(PYTHON) scripts/set_up.sh
	touch $@

.venv/.tests: pyproject.toml scripts/set_up.sh
	PYTHON=$(PYTHON) scripts/set_up.sh tests
	touch $@ .venv/.ready

.venvs/verifiers/.ready: environments/word_count/pyproject.toml scripts/set_up_verifiers.sh
	PYTHON=$(PYTHON) scripts/set_up_verifiers.sh
	touch $@

.venvs/trainers/.ready: pyproject.toml scripts/set_up_trainers.sh tests/trainers/requirements.txt tests/trainers/requirements_alone.txt
	PYTHON=$(PYTHON) scripts/set_up_trainers.sh
	touch $@

clean:
	rm -rf .venv .venvs .nemo_like results

bench: .venv/.tests
	$(BIN)/python benchmarks/run.py --json results/bench.json
	$(BIN)/python benchmarks/plot.py results/bench.json
	$(BIN)/python benchmarks/run.py --million
	$(BIN)/python benchmarks/rewards.py
	$(BIN)/python benchmarks/viewer.py
	$(BIN)/python benchmarks/model_server.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/analyze.py
	$(BIN)/python benchmarks/rescore.py
	$(BIN)/python benchmarks/sequence_processing.py
	$(BIN)/python benchmarks/export.py

soak: .venv/.tests
	$(BIN)/python -m tests.faults.soak

examples: .venv/.tests
	$(BIN)/python examples/grpo_arithmetic.py --seeds 0 1 2
