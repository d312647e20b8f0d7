"""Generating with a Hugging Face model in this process: tiny ones, with random weights."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from nemo_like.drawing import Draw, Limits, Wanted
from nemo_like.endpoints import Sampling
from nemo_like.local_endpoint import LocalEndpoint
from nemo_like.local_model import LocalModel
from nemo_like.prompts import read_prompt

from .conftest import write_jsonl
from .generating import Json, endpoint, generate, rows_of

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
EOS, PAD = 256, 257
PROMPTS = ["a", "What is 2 + 2?", "a much longer question than the others are, to pad them"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("project"),
    # On import, of a C extension that transformers' tokenizers bring along.
    pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning"),
]


def save_model(folder: Path, kind: str, *, template: bool = True, **generation: Any) -> str:
    """A model of bytes with random weights large enough for its answers to differ."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "<eos>", "<pad>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<eos>",
        pad_token="<pad>",
        chat_template=TEMPLATE if template else None,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    size: Json = {"vocab_size": 258, "initializer_range": 0.5, "eos_token_id": EOS, "pad_token_id": PAD}
    if kind == "gpt2":
        config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=200, **size)
    else:
        config = transformers.Qwen2Config(
            hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=200, tie_word_embeddings=False, **size,
        )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.generation_config = transformers.GenerationConfig(eos_token_id=EOS, do_sample=True, **generation)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> str:
    # What decides, beside temperature and top_p, unless it is kept from doing so.
    folder = tmp_path_factory.mktemp("qwen")
    return save_model(folder, "qwen2", top_k=1, repetition_penalty=3.0, temperature=0.01)


@pytest.fixture(scope="module", params=["qwen2", "gpt2"])
def any_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp(request.param), request.param)


def prompts(*texts: str) -> Path:
    return write_jsonl(Path("d.jsonl"), [{"prompt": text} for text in texts or PROMPTS])


def responses(model: str, *arguments: Any, name: str = "rollouts.parquet") -> list[str]:
    assert (
        generate("d.jsonl", "--model_path", model, "--output_path", name, "--max_tokens", 12, *arguments) == 0
    )
    return [row["response"] for row in rows_of(name)]


def alone(path: str, text: str, tokens: int = 12) -> tuple[list[int], list[float]]:
    """What the model says greedily to one prompt, and the log-probabilities: the slow obvious version."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    ids = tokenizer(f"<user>{text}<assistant>")["input_ids"]
    said: list[int] = []
    logprobs: list[float] = []
    while len(said) < tokens and said[-1:] != [EOS]:
        with torch.inference_mode():
            scores = model(torch.tensor([ids + said])).logits[0, -1].log_softmax(0)
        said.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return said, logprobs


def test_a_padded_batch_says_what_each_prompt_gets_alone(any_model: str) -> None:
    prompts()
    options = ("--temperature", 0, "--num_samples", 2, "--batch_size", 6, "--return_token_ids")
    responses(any_model, *options)
    rows = rows_of("rollouts.parquet")
    for row in rows:
        tokens, logprobs = alone(any_model, PROMPTS[row["data_idx"]])
        assert row["response_token_ids"] == tokens
        assert row["response_logprobs"] == pytest.approx(logprobs, abs=1e-4)
        assert row["completion_tokens"] == len(tokens)
        assert row["prompt_tokens"] == len(f"<user>{PROMPTS[row['data_idx']]}<assistant>")


def test_samples_depend_on_their_seed_and_not_on_their_batch(qwen: str) -> None:
    prompts()
    whole = responses(qwen, "--batch_size", 12, "--num_samples", 4, "--seed", 7)
    one_by_one = responses(qwen, "--batch_size", 1, "--num_samples", 4, "--seed", 7, name="one.parquet")
    other = responses(qwen, "--num_samples", 4, "--seed", 8, name="other.parquet")
    assert whole == one_by_one
    # Nor does the model's own generation_config decide: with its top_k=1 all samples would be the same.
    assert len({*whole[:4]}) == 4
    assert whole != other


def test_a_run_that_was_cut_off_ends_as_one_that_was_not(qwen: str) -> None:
    prompts()
    whole = responses(qwen, "--num_samples", 3)
    journal = Path("rollouts_journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:20])
    Path("rollouts.parquet").unlink()
    assert responses(qwen, "--num_samples", 3) == whole
    samples = [json.loads(line) for line in journal.read_bytes().splitlines()[1:]]
    assert len(samples) == 9


def test_the_chat_template_is_that_of_a_server_and_can_be_left_out(qwen: str, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}]
    write_jsonl(Path("d.jsonl"), [{"prompt": "text"}, {"prompt": messages}])
    tokenizer = transformers.AutoTokenizer.from_pretrained(qwen)

    def asked(model: str, *arguments: str, status: int = 0) -> list[str | None]:
        options = ("--num_samples", 1, "--max_tokens", 2, "--return_token_ids", "--overwrite", *arguments)
        assert generate("d.jsonl", "--model_path", model, *options) == status
        ids = [row["prompt_token_ids"] for row in rows_of("rollouts.parquet")]
        return [tokenizer.decode(each) if each else None for each in ids]

    assert asked(qwen) == ["<user>text<assistant>", "<system>S<user>U<assistant>"]
    assert asked(qwen, "--completions", status=1) == ["text", None]
    plain = save_model(tmp_path / "plain", "qwen2", template=False)
    assert asked(plain) == ["text", "system: S\nuser: U"]


def test_an_answer_ends_with_the_end_of_sequence_and_its_text_before(tmp_path: Path) -> None:
    # Half of all bytes end the sequence, so answers have lengths of 1, 2, 3, …
    ends = [*range(0, 256, 2), EOS]
    model = save_model(tmp_path / "ends", "qwen2")
    config = Path(model) / "generation_config.json"
    config.write_text(json.dumps({"eos_token_id": ends}))
    prompts()
    options = ("--num_samples", 8, "--temperature", 2, "--top_p", 1, "--return_token_ids", "--max_tokens", 4)
    assert generate("d.jsonl", "--model_path", model, *options) == 0
    rows = rows_of("rollouts.parquet")
    assert {row["finish_reason"] for row in rows} == {"stop", "length"}
    for row in rows:
        ids = row["response_token_ids"]
        stopped = row["finish_reason"] == "stop"
        assert len(ids) == len(row["response_logprobs"]) == row["completion_tokens"]
        assert not {*ids[:-1]} & {*ends}
        assert (ids[-1] in ends) == stopped
        assert stopped or len(ids) == 4


def test_a_prompt_that_is_too_long_is_an_error_and_not_cut(qwen: str) -> None:
    prompts("short", "long " * 50, "short too")
    options = ("--model_path", qwen, "--num_samples", 2, "--max_tokens", 12)
    assert generate("d.jsonl", *options) == 1
    rows = rows_of("rollouts.parquet")
    assert [row["error"] is None for row in rows] == [True, True, False, False, True, True]
    assert "a prompt of 267 tokens and max_tokens=12 are more than the 200 of the model" in rows[2]["error"]


def test_sampling_parameters_are_recorded_on_demand(qwen: str) -> None:
    prompts("a")
    responses(qwen, "--return_token_ids", "--num_samples", 2, "--seed", 5)
    assert json.loads(rows_of("rollouts.parquet")[1]["sampling_params"]) == {
        "temperature": 0.7,
        "top_p": 0.9,
        "max_tokens": 12,
        "logprobs_mode": "raw_logprobs",
        "seed": 6,
    }


def test_a_model_that_is_not_there_is_named(capsys: Any) -> None:
    prompts("a")
    assert generate("d.jsonl", "--model_path", "/no/such/model") == 2
    assert "the model /no/such/model can't be loaded (there is no such folder)" in capsys.readouterr().err


def test_samples_of_another_source_are_not_mixed_in(qwen: str, capsys: Any) -> None:
    prompts("a")
    responses(qwen, "--num_samples", 1)
    with endpoint() as model:
        assert generate("d.jsonl", "--num_samples", 1, "--max_tokens", 12, url=model.url) == 1
    assert "source=local, now server" in capsys.readouterr().err


def test_tokens_are_drawn_with_their_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 12) * 2
    n = 20_000
    wanted = [Wanted(ids=[0], max_tokens=1, temperature=0.7, top_p=0.8, seed=seed) for seed in range(n)]
    draw = Draw(wanted, torch.device("cpu"))
    drawn = draw(torch.zeros(n, 1, dtype=torch.long), logits.repeat(n, 1)).argmax(1)
    expected = Limits([0.8], [0], [0.0])(logits / 0.7).softmax(1)[0].tolist()
    counts = Counter(drawn.tolist())
    for token, p in enumerate(expected):
        assert abs(counts[token] / n - p) <= 5 * math.sqrt(p * (1 - p) / n)
    assert torch.allclose(draw.logprobs[0], logits.log_softmax(1)[0][drawn])


@given(
    st.lists(st.lists(st.integers(-40, 40), min_size=5, max_size=5), min_size=1, max_size=3),
    st.floats(0.01, 1, exclude_min=True),
)
def test_top_p_keeps_what_the_definition_says(rows: list[list[int]], top_p: float) -> None:
    # Small different steps, so that no two logits tie and no sum lands on top_p itself.
    logits = torch.tensor(rows) / 4 + torch.arange(5) * 0.0137
    kept = Limits([top_p], [0], [0.0])(logits).isfinite()
    for row, mask in zip(logits, kept, strict=True):
        p = row.double().softmax(0)
        order = sorted(range(5), key=lambda i: -row[i].item())
        for rank, token in enumerate(order):
            before = sum(p[i].item() for i in order[:rank])
            if abs(before - top_p) > 1e-6:
                assert mask[token] == (before < top_p)


def test_a_model_can_be_used_alone(qwen: str) -> None:
    model = LocalEndpoint(LocalModel(qwen), Sampling(temperature=0.0, top_p=1.0, max_tokens=3))
    one, other = model.sample([(0, 0, read_prompt("a"), 0), (1, 0, read_prompt("x" * 300), 1)])
    assert (one.response_token_ids, one.finish_reason) == (None, "length")  # type: ignore[union-attr]
    assert other.kind == "context_overflow"  # type: ignore[union-attr]
    assert model.sample([]) == []
