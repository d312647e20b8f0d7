"""Gera rollouts do ambiente word_count e os salva como dataset do Hugging Face; veja README.md.

    python generate_rollouts.py                     por um endpoint, como o LiteLLM: rollouts/ e rollouts_api/
    python generate_rollouts.py mock                pelo modelo de roteiro: rollouts/ e rollouts_mock/
    python generate_rollouts.py custom FILE.jsonl   de um arquivo: rollouts/, rollouts_custom/ e o seu JSONL

Every run collects into a folder of its own under `runs/`; `--run FOLDER` takes one up again that was cut off.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import orjson

from nemo_like.collect import CollectConfig, Collected, collect
from nemo_like.config import content_root, load
from nemo_like.errors import Error
from nemo_like.export.export import export
from nemo_like.export.settings import ExportConfig
from nemo_like.fingerprint import agents_of
from nemo_like.progress import ProgressBar
from nemo_like.recipe import Recipe
from nemo_like.registry import load_file
from nemo_like.settings import redacted
from nemo_like.stack import servers_of
from nemo_like.store import write_whole
from nemo_like.types import Json

TASKS, ROLLOUTS = "tasks.jsonl", "rollouts.jsonl"
GENERATOR = "resources_servers/word_count/make_data.py"
MOCK_ANSWERS = (
    "<word_count>\n{right}\n</word_count>",
    "<word_count>{right}</word_count>",
    "There are {right} words.",
    "<word_count>{wrong}</word_count>",
)
"""What the scripted model says, in turn."""
SHOWN = 60
"""Characters of a text that the example shows."""


def generate(model: str, base_url: str, run: Path, num_examples: int, *, worked_examples: bool) -> Collected:
    """Rollouts of a model behind an OpenAI-compatible endpoint, into the folder `run`."""
    print(f"🚀 Gerando {num_examples} rollouts via {base_url}")
    print(f"Chamando modelo {model}...", flush=True)
    _make_tasks(run / TASKS, num_examples, worked_examples=worked_examples, scripted=False)
    stack = ["model=openai", "policy_model.responses_api_models.openai_model.api=chat"]
    endpoint = [f"policy_base_url={base_url}", f"policy_model_name={model}"]
    return asyncio.run(_collect([*stack, *endpoint, "policy_api_key=${oc.env:API_KEY,none}"], run))


def generate_mock(run: Path, num_examples: int) -> Collected:
    """Rollouts of the scripted model, which needs no endpoint, into the folder `run`."""
    print(f"🚀 Gerando {num_examples} rollouts com o modelo de roteiro", flush=True)
    _make_tasks(run / TASKS, num_examples, worked_examples=False, scripted=True)
    return asyncio.run(_collect(["model=scripted"], run))


def save(rollouts: Path, kind: str) -> None:
    """Save a rollouts file as the datasets `rollouts/` and `rollouts_KIND/`; of `custom`, as JSONL too.
    What is in none of them is said.

    Raises:
        UsageError: the file holds no rollout.
    """
    outputs = [Path("rollouts_custom.jsonl")] if kind == "custom" else []
    outputs += [Path(f"rollouts_{kind}"), Path("rollouts")]
    left_out: Json = {}
    for output in outputs:
        container = "jsonl" if output.suffix else "hf"
        values = {"rollouts": rollouts, "format": "prime_rl", "output": output, "container": container}
        done = export(
            ExportConfig.from_mapping(values | {"overwrite": True, "workers": 1}, where="the script")
        )
        left_out = done.facts["rollouts"]["dropped"]
    for reason, number in left_out.items():
        print(f"⚠️  fora do dataset: {number} ({reason})", file=sys.stderr)


def show(folder: Path) -> None:
    """Print the statistics of the rollouts that were saved, and the best of them."""
    import datasets  # pyright: ignore[reportMissingTypeStubs]

    best: Json = {"reward": float("-inf")}
    rewards: list[float] = []
    saved: Any = datasets.load_from_disk(str(folder))  # pyright: ignore[reportUnknownMemberType]
    for row in saved:
        if row["reward"] is not None:
            rewards.append(row["reward"])
            best = max(best, row, key=lambda row: row["reward"])
    print(f"\n✅ {len(saved)} rollouts salvos em: {folder}/")
    if len(rewards) < len(saved):
        print(f"⚠️  sem reward: {len(saved) - len(rewards)}")
    if not rewards:
        return
    print("\n📊 Estatísticas:")
    print(f"   Reward médio: {statistics.fmean(rewards):.3f}")
    print(f"   Reward std: {statistics.pstdev(rewards):.3f}")
    print(f"   Min: {min(rewards):.3f}")
    print(f"   Max: {max(rewards):.3f}")
    print("\nExemplo de rollout:")
    print(f"   Prompt: {_short(best['prompt'][-1]['content'])}")
    print(f"   Completion: {_short(best['completion'][-1]['content'] or '')}")
    print(f"   Reward: {best['reward']:.2f}")


async def _collect(stack: Sequence[str], run: Path) -> Collected:
    """Collect what is owed of the run's tasks."""
    config = load([*stack, "env=word_count", "in_process=true"])
    wanted = {"input_jsonl_fpath": run / TASKS, "output_jsonl_fpath": run / ROLLOUTS}
    settings: CollectConfig = CollectConfig.from_mapping(wanted, where="the script")
    async with servers_of(config) as (servers, client):
        with ExitStack() as context:
            bar = context.enter_context(ProgressBar())
            return await collect(
                settings,
                agents_of(servers),
                client,
                input_file=run / TASKS,
                run=redacted(config.values),
                recipe=Recipe(),
                on_progress=bar.show,
            )


def _make_tasks(file: Path, number: int, *, worked_examples: bool, scripted: bool) -> None:
    """Write the tasks of a run, other ones each time; those of a run that goes on are there already."""
    if file.exists():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    lines: list[bytes] = []
    made: Iterator[Json] = load_file(content_root() / GENERATOR).tasks(random.Random())
    for at, task in enumerate(islice(made, number)):
        params: Json = task["responses_create_params"] | {"user": "word_count"}
        if not worked_examples:
            params["input"] = params["input"][-1:]
        if scripted:
            right = int(task["answer"])
            said = MOCK_ANSWERS[at % len(MOCK_ANSWERS)].format(right=right, wrong=right + 1)
            params["metadata"] = {"script": orjson.dumps([said]).decode()}
        lines.append(orjson.dumps(task | {"responses_create_params": params}) + b"\n")
    write_whole(file, b"".join(lines))


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= SHOWN else words[:SHOWN] + "..."


def _report(collected: Collected, run: Path) -> int:
    """Say which rollouts are missing, and why; the exit status."""
    for failed in collected.failed:
        print(f"⚠️  {failed.attempts} × {failed.kind} em {failed.where}: {failed.message}", file=sys.stderr)
    missing = collected.counts.total - collected.counts.done
    if missing:
        print(f"⚠️  faltam {missing} rollouts; de novo: --run {run}", file=sys.stderr)
    return 1 if missing else 0


def main() -> int:
    """Run what the command line asks for; 0 where no rollout is missing."""
    parser = argparse.ArgumentParser(description="Gera rollouts do ambiente word_count.")
    parser.add_argument("kind", nargs="?", choices=("api", "mock", "custom"), default="api")
    parser.add_argument("rollouts", nargs="?", type=Path, help="custom: um arquivo de rollouts, JSONL")
    parser.add_argument("--run", type=Path, help="pasta de uma execução interrompida, para continuá-la")
    parser.add_argument(
        "--worked_examples",
        action="store_true",
        help="três exemplos resolvidos antes de cada pergunta: modelos pequenos precisam deles",
    )
    options = parser.parse_args()
    if (options.kind == "custom") != (options.rollouts is not None):
        parser.error("um arquivo de rollouts vai com custom, e só com ele")
    run: Path = options.run or Path("runs") / f"{options.kind}_{datetime.now():%Y%m%dT%H%M%S}"
    rollouts: Path = options.rollouts or run / ROLLOUTS
    status = 0
    try:
        if options.kind == "api":
            url = os.environ.get("API_BASE_URL") or BASE_URL
            worked = options.worked_examples
            status = _report(generate(MODEL, url, run, NUM_EXAMPLES, worked_examples=worked), run)
        elif options.kind == "mock":
            status = _report(generate_mock(run, NUM_EXAMPLES), run)
        save(rollouts, options.kind)
        show(Path("rollouts"))
    except (Error, OSError) as error:
        print(f"❌ {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"❌ falta o pacote {error.name}: pip install 'nemo-like[export]'", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"❌ interrompido; para continuar: --run {run}", file=sys.stderr)
        return 130
    return status


NUM_EXAMPLES = 20  # Quantos rollouts gerar
MODEL = "claude-sonnet"  # Nome no litellm_config.yaml
BASE_URL = "http://localhost:8000"  # URL do LiteLLM; a variável de ambiente API_BASE_URL vale mais

if __name__ == "__main__":
    sys.exit(main())
