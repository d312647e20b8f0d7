"""The core has one import order, and each heavy library one home."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "nemo_like"
ORDER = [
    *("errors", "types", "registry", "settings", "compose", "config", "logs", "datasets"),
    *(
        "asgi",
        "rate",
        "client",
        "sse",
        "provider",
        "replicas",
        "engine_queue",
        "pool",
        "rewards",
        "shapes",
        "dropped",
        "chat_tools",
        "parts",
        "turns",
        "past_tokens",
        "llama_cpp",
        "extras",
        "chat",
        "messages",
        "response_events",
        "chunk_reader",
        "chunks",
        "message_events",
        "streams",
        "answered",
        "identity",
        "sessions",
        "tools",
        "server",
        "workers",
        "serve",
        "head",
        "supervisor",
        "stack",
    ),
    *("index", "store", "plan", "estimates", "columns", "metrics", "query"),
    *("prompt_config", "skills", "recipe", "record", "journal", "fingerprint", "shards", "merge"),
    *("reward_profile", "environment_metrics", "window", "streak", "passes", "collect", "watch", "progress"),
    *("prompts", "table", "endpoints", "generate_options", "generated"),
    *("drawing", "local_model", "local_endpoint", "generate"),
    *("rollout_table", "stored", "verifiers", "rescore", "compare", "compare_plot"),
    *("scored_rows", "problems", "kmeans", "buckets", "difficulty_plot", "analyze"),
    *("task_rows", "prepare", "config_check", "content", "checkup", "scaffold", "probes"),
    *("sequence_processing", "token_turns", "logprob_report", "score_logprobs"),
    *("viewer", "export", "track", "command", "cli", "analyze_commands", "logprob_commands"),
    *("rescore_commands", "compare_commands", "rollout_commands", "log_commands"),
    *("config_commands", "list_commands", "doctor_commands", "author_commands", "data_commands"),
    *("export_commands", "track_commands"),
]
TENSORS = (
    *(
        "batches",
        "generation",
        "logprobs",
        "memory",
        "model",
        "processor",
        "sampling",
        "sequences",
        "weights",
    ),
)
HOMES = {
    "hydra": {"compose"},
    "omegaconf": {"compose"},
    "aiohttp": {"client", "provider", "head"},
    "fastapi": {"server.server", "viewer.app"},
    "uvicorn": {"serve", "viewer.app"},
    "tqdm": {"progress", "generate"},
    "polars": {"problems"},
    "matplotlib": {"compare_plot", "difficulty_plot"},
    "transformers": {"local_model", "sequence_processing.weights"},
    "torch": {"drawing", "local_model", *(f"sequence_processing.{name}" for name in TENSORS)},
    "ray": set[str](),
    "gradio": {"viewer.app"},
    "pyarrow": {"datasets", "table", "viewer.parquet"},
    "datasets": {"export.saved"},
    "wandb": {"track.wandb"},
    "mlflow": {"track.mlflow"},
    "tensorboard": {"track.tensorboard"},
    "math_verify": {"rewards.symbolic"},
    "reasoning_gym": {"rewards.reasoning_gym"},
    "langdetect": {"rewards.ifeval_checks"},
    "jsonschema": {"rewards.json_schema"},
}
PARTS = ("rewards", "server", "sequence_processing", "viewer", "export", "track")
"""Modules that are folders."""
CONTENT = {"agents", "resources_servers", "responses_api_models", "configs", "data"}


def modules() -> dict[str, Path]:
    files = {path.stem: path for path in PACKAGE.glob("*.py") if path.stem != "__init__"}
    return files | {name: PACKAGE / name / "__init__.py" for name in PARTS}


@cache
def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def test_every_module_has_its_place_in_the_order() -> None:
    assert set(modules()) == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_module_imports_only_from_above_itself(name: str) -> None:
    own = {i.split(".")[1] for i in imported(modules()[name]) if i.startswith("nemo_like.")} & set(ORDER)
    below = own & set(ORDER[ORDER.index(name) :])
    assert not below - {name}


@pytest.mark.parametrize("name", PARTS)
def test_a_part_imports_only_from_above_itself(name: str) -> None:
    for file in (PACKAGE / name).glob("*.py"):
        own = {i.split(".")[1] for i in imported(file) if i.startswith("nemo_like.")} & set(ORDER)
        assert not own & set(ORDER[ORDER.index(name) + 1 :]), file


@pytest.mark.parametrize("library", HOMES)
def test_a_heavy_library_is_imported_in_one_place(library: str) -> None:
    files = modules() | {f"{part}.{p.stem}": p for part in PARTS for p in (PACKAGE / part).glob("[a-z]*.py")}
    homes = {n for n, f in files.items() if library in {i.split(".")[0] for i in imported(f)}}
    assert homes == HOMES[library]


@pytest.mark.parametrize(
    "library", ["sympy", "math_verify", "jsonschema", "reasoning_gym", "langdetect", "numpy"]
)
def test_a_server_starts_without_the_libraries_of_rewards_that_it_does_not_use(library: str) -> None:
    code = f"import sys, nemo_like.serve, nemo_like.collect; sys.exit({library!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_core_never_imports_content() -> None:
    for name, file in modules().items():
        assert not {i.split(".")[0] for i in imported(file)} & CONTENT, name


def test_importing_does_nothing() -> None:
    code = "import nemo_like.cli, nemo_like.collect, nemo_like.supervisor, nemo_like.serve"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
