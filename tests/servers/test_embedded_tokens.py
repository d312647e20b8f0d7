"""The embedded model's token ids: a trainer's rows, checked against its text and against its own weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import Project, write_jsonl
from .test_embedded_model import WEATHER, Model, engine, message_of, request, text_of
from .test_hf_model import Model as HFModel

pytestmark = [
    pytest.mark.slow,
    # On import, of a C extension that transformers' tokenizers bring along.
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
]

Json = dict[str, Any]
CAPITAL = "What is the capital of Japan?"
SPLIT = "日本語 漢字 😀"
"""Most of its tokens end within a character."""


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(return_token_id_information=True) as model:
        yield model


def decoded(model: Model, tokens: list[int]) -> str:
    return legible(model.run(model.server._engine.post("/detokenize", {"tokens": tokens}))["content"])


def legible(text: str) -> str:
    """Bytes that are no characters are not told each alike everywhere."""
    return re.sub("\ufffd+", "\ufffd", text)


def only(text: str, **body: Any) -> Json:
    """A request that can be answered with a text alone."""
    schema = {"name": "only", "schema": {"enum": [text]}}
    return request(
        f"{text} {text} What did I say?",
        response_format={"type": "json_schema", "json_schema": schema},
        **body,
    )


@pytest.mark.parametrize(
    "body",
    [
        request(CAPITAL),
        request("Say café, 日本語 and 😀.", temperature=1.0, seed=3),
        request(CAPITAL, max_tokens=3),
        request(CAPITAL, stop=["Tok"]),
        request("Tell me a story.", stop=["the", "sea"], temperature=1.0),
        request("What's the weather in Paris?", tools=[WEATHER]),
        only(SPLIT),
        *(request("Write in 日本語.", temperature=2.5, max_tokens=80, seed=seed) for seed in range(4)),
    ],
    ids=["greedy", "sampled", "cut", "stopped", "stopped sample", "call", "split characters", *"1234"],
)
def test_token_ids_decode_to_what_was_read_and_said(model: Model, body: Json) -> None:
    completion = model.run(model.server.chat_completions(body))
    message, usage = message_of(completion), completion["usage"]
    said = decoded(model, message["generation_token_ids"])
    if calls := message.get("tool_calls"):
        function = calls[0]["function"]
        arguments = json.loads(function["arguments"])
        assert json.loads(said.removesuffix("<|im_end|>")) == {
            "name": function["name"],
            "arguments": arguments,
        }
    elif stop := body.get("stop"):
        content = legible(message["content"])
        assert said.startswith(content)
        rest = said[len(content) :]
        assert any(text in rest for text in stop) or rest in ("", "<|im_end|>")
    else:
        # The text ends before a character that the bound cut in two, and before white space after a schema's.
        said = re.sub(r"<\|(im_end|endoftext)\|>$", "", said)
        assert said.rstrip("\ufffd \n") == legible(message["content"]).rstrip("\ufffd \n")
    assert len(message["generation_token_ids"]) == len(message["generation_log_probs"])
    assert len(message["generation_token_ids"]) == usage["completion_tokens"]
    assert len(message["prompt_token_ids"]) == usage["prompt_tokens"]
    read = decoded(model, message["prompt_token_ids"])
    assert read.endswith(
        f"<|im_start|>user\n{body['messages'][0]['content']}<|im_end|>\n<|im_start|>assistant\n"
    )


def test_every_turn_of_a_rollout_has_its_tokens_and_a_trainer_gets_them(
    project: Project, model: Model
) -> None:
    [row] = [json.loads(line) for line in _example("example_single_tool_call").splitlines()[:1]]
    write_jsonl(Path("tasks.jsonl"), [row])
    setting = "+policy_model.responses_api_models.embedded_model.return_token_id_information=true"
    files = ("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl")
    sampling = "+responses_create_params.temperature=0"
    done = project.run(
        "ng_collect_rollouts",
        "model=embedded",
        "env=example_single_tool_call",
        setting,
        sampling,
        *files,
        timeout_s=110,
    )
    assert done.returncode == 0, done.stderr
    [rollout] = project.rows("r.jsonl")
    turns = [item for item in rollout["response"]["output"] if item["type"] != "function_call_output"]
    assert [item["type"] for item in turns] == ["function_call", "message"]
    for item in turns:
        assert len(item["generation_token_ids"]) == len(item["generation_log_probs"]) > 0
    drawn = sum(len(item["generation_token_ids"]) for item in turns)
    assert drawn == rollout["response"]["usage"]["output_tokens"]
    # The second turn read what the first one said.
    first, second = (item["prompt_token_ids"] for item in turns)
    assert second[: len(first)] == first

    done = project.run("ng_export", "+rollouts=r.jsonl", "+format=verl_tokens", "+output=t.jsonl")
    assert done.returncode == 0, done.stderr
    rows = project.rows("t.jsonl")
    # The call was written anew for the second turn, in other tokens: two sequences, each as it was read.
    assert [row["prompt_ids"] for row in rows] == [first, second]
    said = [decoded(model, row["response_ids"]) for row in rows]
    assert json.loads(said[0].removesuffix("<|im_end|>"))["arguments"] == json.loads(turns[0]["arguments"])
    assert json.loads(said[1].removesuffix("<|im_end|>"))["answer"] == turns[1]["content"][0]["text"]
    assert all(row["response_mask"] == [1] * len(row["response_ids"]) for row in rows)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The embedded weights as a Hugging Face model."""
    import torch
    import transformers

    gguf = engine.weights_path()
    options: Json = {"gguf_file": gguf.name}
    folder = tmp_path_factory.mktemp("smollm2")
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(gguf.parent, **options)
    weights: Any = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        **options,
        dtype=torch.float32,
        quantization_config=transformers.GgufConfig(dequantize=True),
    )
    tokenizer.save_pretrained(folder)
    weights.save_pretrained(folder)
    return str(folder)


@pytest.mark.timeout(600)
def test_the_same_weights_in_torch_agree(model: Model, converted: str) -> None:
    questions = [CAPITAL, "What is 7 + 7?", "Name a colour."]
    with HFModel(converted) as torch_model:
        theirs = torch_model.ask_all([request(text, max_tokens=24) for text in questions])
        mine = model.ask_all([request(text, max_tokens=24) for text in questions])
        split = message_of(model.run(model.server.chat_completions(only(SPLIT))))
        assert sum(_errors(torch_model, split)) / len(split["generation_log_probs"]) < 0.1
        assert "Tokyo" in text_of(theirs[0]) and "Tokyo" in text_of(mine[0])
        errors: list[float] = []
        for one, other in zip(map(message_of, mine), map(message_of, theirs), strict=True):
            assert one["prompt_token_ids"] == other["prompt_token_ids"]
            errors += _errors(torch_model, one)
    # llama.cpp computes with the 4-bit weights and 8-bit activations, torch with what they dequantize to.
    assert sum(errors) / len(errors) < 0.05


def _errors(model: HFModel, message: Json) -> list[float]:
    """How far log-probabilities are from those of a forward pass."""
    import torch

    prompt, said = message["prompt_token_ids"], message["generation_token_ids"]
    with torch.inference_mode():
        logits = model.server._model.model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
    exact = logits.log_softmax(-1).gather(-1, torch.tensor(said)[:, None])[:, 0].tolist()
    return [abs(a - b) for a, b in zip(exact, message["generation_log_probs"], strict=True)]


def _example(environment: str) -> str:
    root = Path(__file__).parents[2]
    return (root / "resources_servers" / environment / "data/example.jsonl").read_text()
