"""Token rows: the mask marks exactly what the model made, over tool turns, as decoding shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nemo_like.errors import UsageError

from .conftest import Json
from .exporting import exported, rollout, tokenizer, tool_items

TOKENS = tokenizer()
texts = st.text(max_size=6)


def decoded(ids: list[int], mask: list[int]) -> list[tuple[int, str]]:
    """Runs of equal mask, as text."""
    runs: list[tuple[int, list[int]]] = []
    for one, of in zip(ids, mask, strict=True):
        if not runs or runs[-1][0] != of:
            runs.append((of, []))
        runs[-1][1].append(one)
    return [(of, TOKENS.decode(ids)) for of, ids in runs]


def call(turn: int) -> str:
    return f'<tool_call>add {{"a": {turn}, "b": 1}}</tool_call>'


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=st.lists(texts, min_size=1, max_size=4), results=st.lists(texts, min_size=4, max_size=4))
def test_the_mask_marks_what_the_model_made_and_nothing_else(
    tmp_path: Path, said: list[str], results: list[str]
) -> None:
    said = [*said[:-1], said[-1] or "."]
    row = rollout("x", output_items=tool_items(said, results, TOKENS))
    (made,), _ = exported(tmp_path, [row], "verl_tokens")
    assert TOKENS.decode(made["prompt_ids"]) == "<|im_start|>user\nAdd.<|im_end|>\n<|im_start|>assistant\n"
    expected: list[tuple[int, str]] = []
    for turn, text in enumerate(said):
        last = turn == len(said) - 1
        expected.append((1, f"{text}{'' if last else call(turn)}<|im_end|>"))
        if not last:
            tool = f"<|im_start|>tool\n{results[turn]}<|im_end|>"
            expected.append((0, f"\n{tool}\n<|im_start|>assistant\n"))
    assert decoded(made["response_ids"], made["response_mask"]) == expected
    turns = [logprob for logprob in dict.fromkeys(made["response_logprobs"]) if logprob]
    assert turns == [-0.5 - turn for turn in range(len(said))]
    assert [p == 0 for p in made["response_logprobs"]] == [m == 0 for m in made["response_mask"]]
    assert (made["parts"], made["num_turns"]) == (1, 2 * len(said))


def test_every_token_format_says_the_same(tmp_path: Path) -> None:
    row = rollout("x", output_items=tool_items(["Let me see.", "7"], ["☃"], TOKENS))
    (verl,), _ = exported(tmp_path, [row], "verl_tokens")
    (whole,), _ = exported(tmp_path, [row], "tokens")
    (sky,), _ = exported(tmp_path, [row], "skyrl_tokens")
    (nemo,), _ = exported(tmp_path, [row], "nemo_rl_tokens")
    ids, mask = (
        verl["prompt_ids"] + verl["response_ids"],
        [0] * len(verl["prompt_ids"]) + verl["response_mask"],
    )
    assert (whole["input_ids"], whole["assistant_masks"]) == (ids, mask)
    assert (sky["prompt_token_ids"] + sky["response_ids"], sky["loss_masks"]) == (ids, verl["response_mask"])
    assert sky["rollout_logprobs"] == verl["response_logprobs"]
    log = nemo["message_log"]
    assert [m["role"] for m in log] == ["user", "assistant", "user", "assistant"]
    assert [i for m in log for i in m["token_ids"]] == ids
    assert [int(m["role"] == "assistant") for m in log for _ in m["token_ids"]] == mask


def broken(change: Any) -> Json:
    output = tool_items(["a", "b", "c"], ["1", "2"], TOKENS)
    change(output)
    return rollout("x", output_items=output)


def shorten(output: list[Json]) -> None:
    # As a template does that leaves out what was thought before.
    output[-1]["prompt_token_ids"] = output[-1]["prompt_token_ids"][5:]


def test_a_prompt_that_does_not_continue_begins_another_row(tmp_path: Path) -> None:
    rows, done = exported(tmp_path, [broken(shorten)], "verl_tokens")
    assert [(row["part"], row["parts"]) for row in rows] == [(0, 2), (1, 2)]
    assert decoded(rows[1]["response_ids"], rows[1]["response_mask"]) == [(1, "c<|im_end|>")]
    assert [text for of, text in decoded(rows[0]["response_ids"], rows[0]["response_mask"]) if of] == [
        f"a{call(0)}<|im_end|>",
        f"b{call(1)}<|im_end|>",
    ]
    assert done.facts["in_several_rows"] == 1
    with pytest.raises(UsageError, match="1 a step's prompt does not continue the one before"):
        exported(tmp_path, [broken(shorten)], "verl_tokens", unextended="drop")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda out: out[-1].pop("generation_token_ids"), "token ids of a step are missing"),
        (lambda out: [i.pop("prompt_token_ids", 0) for i in out], "no token ids"),
        (lambda out: out[-1]["generation_log_probs"].pop(), "token ids or log-probabilities that are none"),
        (lambda out: out[-1].update(generation_log_probs=5), "token ids or log-probabilities that are none"),
        (lambda out: out[-1].update(prompt_token_ids=["x"]), "token ids or log-probabilities that are none"),
    ],
)
def test_token_ids_that_are_not_whole_are_no_row(tmp_path: Path, change: Any, said: str) -> None:
    with pytest.raises(UsageError, match=f"1 {said}"):
        exported(tmp_path, [broken(change)], "verl_tokens")


def test_rows_without_log_probabilities_are_rows(tmp_path: Path) -> None:
    row = broken(lambda output: output[-1].pop("generation_log_probs"))
    (made,), _ = exported(tmp_path, [row], "verl_tokens")
    assert "response_logprobs" not in made and len(made["response_mask"]) == len(made["response_ids"])
    with pytest.raises(UsageError, match="no log-probabilities"):
        exported(tmp_path, [row], "nemo_rl_tokens")


def test_too_long_is_judged_by_the_ids(tmp_path: Path) -> None:
    row = rollout("x", output_items=tool_items(["a", "b"], ["1"], TOKENS))
    (made,), _ = exported(tmp_path, [row], "tokens")
    n = len(made["input_ids"])
    assert exported(tmp_path, [row], "tokens", max_tokens=n)[0]
    with pytest.raises(UsageError, match="1 too long"):
        exported(tmp_path, [row], "tokens", max_tokens=n - 1)
