"""Real engines behind the model servers: the same requests, the same answers in form, the engine's own words.

`make test` tries llama.cpp's server, `make test-engines` all of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from nemo_like.errors import PartError
from tests.conftest import BIN, read_jsonl
from tests.engines.convert import BOUND
from tests.engines.engines import CONTEXT, HF_MODEL, ROOT, Running

Json = dict[str, Any]
Note = Callable[[str, str], None]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CAPITAL = "What is the capital of Japan?"
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
needs_weights = pytest.mark.skipif(
    not (HF_MODEL / "model.safetensors").exists(), reason="scripts/set_up_engines.sh converts the weights"
)


def text_of(response: Json) -> str:
    return response["output"][-1]["content"][0]["text"]


def said_by(user: str) -> Json:
    return {"role": "user", "content": user}


def needs(can: bool, what: str) -> None:
    if not can:
        pytest.skip(f"this engine has no {what}")


@cache
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(HF_MODEL)


@cache
def forward_pass() -> Callable[[list[int], list[int]], list[float]]:
    """(prompt, generation) → log-probabilities of the generation, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(HF_MODEL, dtype=torch.float32).eval()

    @torch.no_grad()
    def logprobs(prompt: list[int], generation: list[int]) -> list[float]:
        ids = torch.tensor([prompt + generation])
        scores = model(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        return scores.gather(1, ids[0, len(prompt) :, None])[:, 0].tolist()

    return logprobs


def test_it_answers_and_says_how_it_was_asked(engine: Running, note: Note) -> None:
    response = engine.ask(CAPITAL)
    assert "Tokyo" in text_of(response)
    assert (response["status"], response["incomplete_details"]) == ("completed", None)
    usage = response["usage"]
    assert usage["input_tokens"] > 10 and usage["output_tokens"] > 3
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    sampling = response["sampling"]
    assert sampling["temperature"] == 0 and sampling["max_tokens"] == 24
    neutral = [key for key in ("top_k", "min_p", "repetition_penalty") if key in sampling]
    note("answers, usage, stop reason", "yes")
    note("of top_k, min_p, repetition_penalty it takes", ", ".join(neutral) or "none")


def test_a_stream_says_the_same_in_pieces(engine: Running, note: Note) -> None:
    whole, events = engine.ask(CAPITAL), engine.stream(CAPITAL)
    assert sum(event["type"] == "response.output_text.delta" for event in events) > 2
    last = events[-1]["response"]
    assert (text_of(last), last["status"]) == (text_of(whole), whole["status"])
    assert last["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    note("a stream says the same in pieces", "yes")


def test_an_answer_that_is_cut_short_says_so(engine: Running) -> None:
    response = engine.ask("Tell me a long story about the sea.", max_output_tokens=5)
    assert response["status"] == "incomplete"
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["usage"]["output_tokens"] == 5


def collected(engine: Running, model: str) -> list[Json]:
    """Two rollouts that `ng_collect_rollouts` collects of the engine."""
    folder = Path.cwd()
    tasks = ROOT / "resources_servers/arithmetic/data/example.jsonl"
    done = subprocess.run(
        [
            *(str(BIN / "ng_collect_rollouts"), f"model={model}", "env=arithmetic", "+limit=2"),
            *(f"+policy_base_url={engine.url}", f"+policy_model_name={engine.model}", "overwrite=true"),
            *("+policy_api_key=${oc.env:ENGINE_KEY}", "+responses_create_params.max_output_tokens=16"),
            *(f"+input_jsonl_fpath={tasks}", "+output_jsonl_fpath=rollouts.jsonl"),
        ],
        cwd=folder,
        env=os.environ | {"ENGINE_KEY": engine.key},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = read_jsonl(folder / "rollouts.jsonl")
    assert len(rows) == 2
    return rows


def test_a_rollout_has_the_same_record_whatever_the_engine(engine: Running, note: Note) -> None:
    for row in collected(engine, "vllm"):
        assert row["reward"] in (0.0, 1.0)
        assert [message["role"] for message in row["output"]] == ["assistant"]
        assert set(row["response"]) == {
            *("id", "object", "created_at", "model", "status", "error", "incomplete_details", "output"),
            *("parallel_tool_calls", "tool_choice", "tools", "temperature", "top_p", "metadata", "usage"),
            "sampling",
        }
        [item] = row["response"]["output"]
        assert set(item) == {"type", "id", "role", "status", "content"}
        assert row["response"]["status"] == item["status"]
        assert row["response"]["usage"]["output_tokens"] <= 16
    note("the same record of a rollout", "yes")


@needs_weights
def test_a_rollout_for_training_has_its_token_ids(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "token ids")
    for row in collected(engine, "vllm/for_training"):
        [item] = row["response"]["output"]
        prompt, generation = item["prompt_token_ids"], item["generation_token_ids"]
        assert tokenizer().decode(generation, skip_special_tokens=True) == row["output"][-1]["content"]
        assert row["responses_create_params"]["input"][-1]["content"] in tokenizer().decode(prompt)
        assert len(generation) == len(item["generation_log_probs"]) <= 16
    note("… with its token ids", "yes")


@needs_weights
def test_its_token_ids_are_those_of_the_text(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "token ids")
    response = engine.ask(CAPITAL)
    item = response["output"][-1]
    prompt, generation = item["prompt_token_ids"], item["generation_token_ids"]
    assert tokenizer().decode(generation, skip_special_tokens=True) == text_of(response)
    assert CAPITAL in tokenizer().decode(prompt)
    assert len(prompt) == response["usage"]["input_tokens"]
    assert len(generation) == len(item["generation_log_probs"])
    note("token ids decode to the text", "yes")


@needs_weights
def test_characters_of_several_tokens_have_all_of_them(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "token ids")
    said: list[str] = []
    for seed in range(4):
        question = "Repeat this: 日本語 漢字 😀 中文 한국어"
        response = engine.ask(question, temperature=1.5, seed=seed, max_output_tokens=80)
        item = response["output"][-1]
        generation = item["generation_token_ids"]
        assert len(generation) == len(item["generation_log_probs"]) == response["usage"]["output_tokens"]
        said.append(legible(tokenizer().decode(generation, skip_special_tokens=True)))
        assert said[-1] == legible(text_of(response))
    assert not "".join(said).isascii()
    note("every token of a character that has several", "yes")


def legible(text: str) -> str:
    """Bytes that are no characters are not told each alike everywhere; neither is white space at the ends."""
    return re.sub("\ufffd+", "\ufffd", text).rstrip("\ufffd").strip()


@needs_weights
def test_its_log_probabilities_are_those_of_a_forward_pass(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "log-probabilities")
    item = engine.ask("Tell me about the sea.", temperature=1.0, seed=3)["output"][-1]
    expected = forward_pass()(item["prompt_token_ids"], item["generation_token_ids"])
    errors = [abs(a - b) for a, b in zip(item["generation_log_probs"], expected, strict=True)]
    mean = sum(errors) / len(errors)
    note("log-probabilities against a forward pass: mean, largest error", f"{mean:.4f}, {max(errors):.4f}")
    assert mean < engine.kind.mean_error
    if engine.kind.largest_error is not None:
        assert max(errors) < engine.kind.largest_error


def test_the_tokens_of_a_step_begin_the_prompt_of_the_next(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "token ids")
    first = engine.ask(CAPITAL)["output"]
    second = engine.ask([said_by(CAPITAL), *first, said_by("And of France?")])["output"][-1]
    past = first[-1]["prompt_token_ids"] + first[-1]["generation_token_ids"]
    assert second["prompt_token_ids"][: len(past)] == past
    assert "prompt_diverges_at" not in second
    note("a step's tokens begin the next prompt", "yes")


def test_a_past_that_is_worded_otherwise_is_kept_or_told(engine: Running, note: Note) -> None:
    needs(engine.kind.tokens, "token ids")
    first = engine.ask(CAPITAL)["output"]
    past = first[-1]["prompt_token_ids"] + first[-1]["generation_token_ids"]
    reworded = first[-1] | {"content": [{"type": "output_text", "text": "Kyoto!", "annotations": []}]}
    second = engine.ask([said_by(CAPITAL), reworded, said_by("And of France?")])["output"][-1]
    kept = second["prompt_token_ids"][: len(past)] == past
    assert kept == engine.kind.prefix
    assert ("prompt_diverges_at" in second) == (not kept)
    if not kept:
        at = second["prompt_diverges_at"]
        assert second["prompt_token_ids"][:at] == past[:at] and second["prompt_token_ids"][at] != past[at]
    note("… also where the text was changed", "kept" if kept else "told")


def test_its_queue_is_told(engine: Running, note: Note) -> None:
    story = {"input": "Tell me a long story about the sea.", "max_output_tokens": 40}

    async def most() -> int:
        """What is told of twelve requests to an engine that answers two or eight at once."""
        asked = [asyncio.ensure_future(engine.server.responses(story)) for _ in range(12)]
        told = 0
        while not all(each.done() for each in asked):
            told = max(told, await engine.server.queued() or 0)
        await asyncio.gather(*asked)
        return told

    if not engine.kind.queue:
        assert engine.run(engine.server.queued()) is None
        pytest.skip("this engine tells no queue")
    assert engine.run(most())
    note("tells its queue", "yes")


def test_a_seed_gives_the_same_answer_again(engine: Running, note: Note) -> None:
    needs(engine.kind.seeds, "seeds")
    answers = [
        text_of(engine.ask("Tell me a story.", temperature=1.0, seed=seed, max_output_tokens=24))
        for seed in (7, 7, 8)
    ]
    assert answers[0] == answers[1] != answers[2]
    note("a seed repeats an answer", "yes")


def test_a_tool_that_has_to_be_called_is_called(engine: Running, note: Note) -> None:
    needs(engine.kind.tools, "tools")
    question = [said_by("What is the weather in Paris?")]
    response = engine.ask(question, tools=[WEATHER], tool_choice="required", max_output_tokens=64)
    call = response["output"][-1]
    assert (call["type"], call.get("name")) == ("function_call", "get_weather"), call.get("content")
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny, 25 °C"}
    after = engine.ask([*question, *response["output"], result], tools=[WEATHER], max_output_tokens=24)
    assert after["usage"]["input_tokens"] > response["usage"]["input_tokens"]
    note("tool calls", "yes")


def test_a_conversation_that_is_too_long_is_cut_off(engine: Running, note: Note) -> None:
    needs(engine.kind.limit, "limit")
    response = engine.ask("word " * 2 * CONTEXT)
    assert (response["status"], response["output"]) == ("incomplete", [])
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    refusal = engine.ask_as("word " * 2 * CONTEXT, on_context_overflow="error")
    assert isinstance(refusal, PartError) and refusal.kind == "context_overflow"
    note("overlong prompt", refusal.message.replace("|", "¦").replace("\n", " ")[:90] + " …")


def test_an_answer_may_be_as_long_as_there_is_room(engine: Running) -> None:
    needs(engine.kind.limit, "limit")
    assert "Tokyo" in text_of(engine.ask(CAPITAL, max_output_tokens=10 * CONTEXT))


def test_an_answer_has_no_bound_that_nobody_asked_for(engine: Running, note: Note) -> None:
    response = engine.ask("Name the days of the week.", max_output_tokens=None, stop=["Friday"])
    assert response["usage"]["output_tokens"] > BOUND
    note("leaves the model's own bound of an answer alone", "yes")


def test_a_wrong_key_is_one_readable_error(engine: Running, note: Note) -> None:
    needs(engine.kind.keys, "keys")
    error = engine.ask_as(api_key="sk-wrong")
    # LiteLLM looks the key up in a database, which it has not got, and answers 400.
    assert isinstance(error, PartError) and error.kind in ("unauthorized", "bad_request")
    assert engine.key not in str(error) and "sk-wrong" not in str(error)
    note("wrong key", f"{error.status}: {error.message[:60]}")


def test_a_wrong_model_is_one_readable_error(engine: Running, note: Note) -> None:
    needs(engine.kind.names, "other models")
    error = engine.ask_as(model="no-such-model")
    assert isinstance(error, PartError) and "no-such-model" in error.message
    note("wrong model", f"{error.status}: {error.message[:60]}".replace("\n", " "))


def running_in(session: int) -> list[str]:
    """The processes of a session; not those that only wait to be reaped."""
    stats = [read_stat(entry) for entry in Path("/proc").glob("[0-9]*")]
    return [stat for stat in stats if stat and stat[0] != "Z" and int(stat.split()[3]) == session]


def read_stat(entry: Path) -> str:
    with suppress(OSError):
        return (entry / "stat").read_text().rpartition(") ")[2]
    return ""


def test_an_engine_that_was_killed_comes_back(engine: Running, note: Note) -> None:
    leash = engine.server.engine.pid
    os.kill(leash, signal.SIGKILL)
    # What is asked right then is answered once it is there again.
    assert "Tokyo" in text_of(engine.ask(CAPITAL))
    assert "Tokyo" in text_of(engine.ask(CAPITAL))
    assert engine.server.engine.pid != leash
    assert not running_in(leash)
    note("killed, it comes back", "yes")
