"""Scoring stored rollouts: log-probabilities, divergence and mismatch, of tokens that a model drew."""

from __future__ import annotations

import subprocess
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .conftest import BIN

if not (find_spec("torch") and find_spec("transformers")):
    pytest.skip("torch and transformers are not installed", allow_module_level=True)

import torch

from nemo_like.errors import RowError, UsageError
from nemo_like.logprob_report import Correlation, Divergence, Mismatch, Moments, format_report
from nemo_like.score_logprobs import ScoreLogprobsConfig, score_logprobs
from nemo_like.sequence_processing.weights import load_model
from nemo_like.token_turns import Turn, chained

from .sequence_processing import tiny

Json = dict[str, Any]
NUMBERS = st.lists(st.floats(-20, 0), max_size=40)
PARTS = st.lists(NUMBERS, max_size=6)


def models(name: str, dtype: str) -> tuple[Any, Any]:
    """Models of the tests, by the seed of their weights."""
    return tiny.model(seed=int(name.removeprefix("seed "))), tiny.tokenizer()


def item(prompt: list[int], tokens: list[int], logprobs: list[float] | None) -> Json:
    found: Json = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "…"}]}
    found |= {"prompt_token_ids": prompt, "generation_token_ids": tokens}
    return found | ({"generation_log_probs": logprobs} if logprobs is not None else {})


def drawn_from(
    model: Any, prompt: list[int], n: int, generator: torch.Generator
) -> tuple[list[int], list[float]]:
    """`n` tokens drawn one by one, the plain way, and their log-probabilities: the engine of these tests."""
    tokens: list[int] = []
    logprobs: list[float] = []
    for _ in range(n):
        with torch.no_grad():
            full = model(torch.tensor([prompt + tokens])).logits[0, -1].double().log_softmax(dim=-1)
        tokens.append(int(torch.multinomial(full.exp(), 1, generator=generator)))
        logprobs.append(float(full[tokens[-1]]))
    return tokens, logprobs


def rollouts(num_turns: int = 1) -> list[Json]:
    """Eight rollouts of the model `seed 0`, with the log-probabilities that it drew their tokens at."""
    model, tokenizer, generator = tiny.model(), tiny.tokenizer(), torch.Generator().manual_seed(0)
    found: list[Json] = []
    for b in range(8):
        prompt: list[int] = tokenizer(tiny.PROMPTS[b % 4])["input_ids"]
        output: list[Json] = []
        for _ in range(num_turns):
            tokens, logprobs = drawn_from(model, prompt, 3 + b, generator)
            output.append(item(prompt, tokens, logprobs))
            output.append({"type": "function_call_output", "call_id": "c", "output": "7 apples"})
            prompt = [*prompt, *tokens, *tokenizer(" 7 apples")["input_ids"]]
        row: Json = {"_ng_task_key": f"t{b}", "_ng_rollout_index": 0, "reward": b / 8}
        found.append(row | {"response": {"output": output}})
    return found


def items(row: Json) -> list[Json]:
    return [entry for entry in row["response"]["output"] if "generation_token_ids" in entry]


def scored(folder: Path, rows: list[Json], **options: Any) -> tuple[Json, list[Json]]:
    source, output = folder / "rollouts.jsonl", folder / "scored.jsonl"
    source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    files = {"input_jsonl_fpath": source, "output_jsonl_fpath": output, "policy": "seed 0"}
    summary = score_logprobs(ScoreLogprobsConfig(**files | options), models)
    assert orjson.loads((folder / "scored_summary.json").read_bytes()) == summary
    return summary, [orjson.loads(line) for line in output.read_bytes().splitlines()]


@pytest.fixture(scope="module")
def drawn() -> list[Json]:
    return rollouts()


@pytest.fixture(scope="module")
def of_two_turns() -> list[Json]:
    return rollouts(num_turns=2)


class TestTheMismatch:
    def test_an_engine_that_is_the_policy_is_not_off(self, tmp_path: Path, drawn: list[Json]):
        summary, rows = scored(tmp_path, drawn)
        mismatch = summary["engine_mismatch"]
        assert (
            mismatch["tokens"]
            == summary["tokens"]
            == sum(len(items(r)[0]["generation_token_ids"]) for r in drawn)
        )
        assert mismatch["probs_diff_max"] < 1e-5
        assert mismatch["logprob_diff_abs_max"] < 1e-4
        assert mismatch["share_off_10_percent"] == 0
        assert mismatch["pearson_corr"] > 0.999999
        assert [row["_ng_task_key"] for row in rows] == [f"t{b}" for b in range(8)]
        assert [row["line"] for row in rows] == list(range(1, 9))
        assert rows[3]["reward"] == 3 / 8

    def test_what_is_off_is_shown_as_far_as_it_is(self, tmp_path: Path, drawn: list[Json]):
        rows = orjson.loads(orjson.dumps(drawn))
        engine = [items(row)[0]["generation_log_probs"] for row in rows]
        policy = np.concatenate([np.array(part) for part in engine])
        engine[0][0] -= 2.0
        engine[1][1] -= 0.09  # policy / engine is 1.094: not off by more than a tenth
        engine[2][2] -= 0.12
        summary, _ = scored(tmp_path, rows)
        there = np.concatenate([np.array(part) for part in engine])
        mismatch, apart = summary["engine_mismatch"], np.abs(np.exp(there) - np.exp(policy))
        assert mismatch["probs_diff_mean"] == pytest.approx(apart.mean(), abs=1e-6)
        assert mismatch["probs_diff_max"] == pytest.approx(apart.max(), abs=1e-5)
        assert mismatch["probs_diff_std"] == pytest.approx(apart.std(ddof=1), abs=1e-6)
        assert mismatch["pearson_corr"] == pytest.approx(
            np.corrcoef(np.exp(there), np.exp(policy))[0, 1], abs=1e-6
        )
        assert mismatch["share_off_10_percent"] == pytest.approx(2 / len(policy))
        assert mismatch["logprob_diff_abs_max"] == pytest.approx(2.0, abs=1e-4)
        assert mismatch["logprob_diff_mean"] == pytest.approx(2.21 / len(policy), abs=1e-5)
        assert mismatch["kl_k1"] == pytest.approx(-2.21 / len(policy), abs=1e-5)

    def test_the_temperature_of_sampling_can_be_that_of_the_policy(self, tmp_path: Path, drawn: list[Json]):
        summary, rows = scored(tmp_path, drawn, temperature=0.5)
        assert summary["engine_mismatch"]["share_off_10_percent"] > 0.2
        token = items(drawn[0])[0]
        expected, _ = tiny.naive(tiny.model(), token["prompt_token_ids"], token["generation_token_ids"], 0.5)
        assert rows[0]["policy_logprobs"][0] == pytest.approx(expected.tolist(), abs=1e-4)

    def test_a_turn_without_them_counts_apart(self, tmp_path: Path, drawn: list[Json]):
        rows = orjson.loads(orjson.dumps(drawn))
        del items(rows[0])[0]["generation_log_probs"]
        summary, written = scored(tmp_path, rows)
        assert summary["turns_without_logprobs"] == 1
        assert written[0]["engine_logprobs"] == [None]
        assert summary["engine_mismatch"]["tokens"] < summary["tokens"]
        for row in rows:
            items(row)[0].pop("generation_log_probs", None)
        summary, _ = scored(tmp_path, rows, overwrite=True)
        assert summary["engine_mismatch"]["probs_diff_mean"] is None
        assert "no turn has log-probabilities of its engine" in format_report(summary)


class TestTheReference:
    def test_divergence_is_taken_token_by_token(self, tmp_path: Path, drawn: list[Json]):
        summary, rows = scored(tmp_path, drawn, reference="seed 1")
        ratios: list[torch.Tensor] = []
        for row, stored in zip(drawn, rows, strict=True):
            ids = [items(row)[0][name] for name in ("prompt_token_ids", "generation_token_ids")]
            with torch.no_grad():
                p, q = (tiny.naive(tiny.model(seed=s), *ids)[0] for s in (0, 1))
            assert stored["policy_logprobs"][0] == pytest.approx(p.tolist(), abs=1e-4)
            assert stored["reference_logprobs"][0] == pytest.approx(q.tolist(), abs=1e-4)
            ratios.append(p - q)
        log_ratio = torch.cat(ratios)
        found = summary["reference"]
        assert found["kl_k1"] == pytest.approx(log_ratio.mean().item(), abs=1e-4)
        k3 = ((-log_ratio).exp() - 1 + log_ratio).mean().item()
        assert found["kl_k3"] == pytest.approx(k3, rel=1e-4)
        sums = np.array([part.sum().item() for part in ratios])
        assert found["kl_k1_per_rollout"] == pytest.approx(sums.mean(), rel=1e-4)
        assert found["kl_k1_per_rollout_se"] == pytest.approx(sums.std(ddof=1) / 8**0.5, rel=1e-4)

    def test_a_model_does_not_diverge_from_itself(self, tmp_path: Path, drawn: list[Json]):
        summary, _ = scored(tmp_path, drawn, reference="seed 0")
        assert summary["reference"]["kl_k1"] == summary["reference"]["kl_k3"] == 0


class TestTurns:
    def test_turns_that_continue_each_other_are_one_pass_with_the_same_scores(
        self, tmp_path: Path, of_two_turns: list[Json]
    ):
        summary, rows = scored(tmp_path, of_two_turns)
        assert summary["turns"] == 16
        assert summary["engine_mismatch"]["logprob_diff_abs_max"] < 1e-4
        turns = [
            Turn(prompt=i["prompt_token_ids"], tokens=i["generation_token_ids"], logprobs=None)
            for i in items(of_two_turns[0])
        ]
        assert len(chained(turns)) == 1
        assert [len(part) for part in rows[0]["policy_logprobs"]] == [len(turn.tokens) for turn in turns]

    def test_a_prompt_that_was_written_anew_is_a_pass_of_its_own(
        self, tmp_path: Path, of_two_turns: list[Json]
    ):
        rows = orjson.loads(orjson.dumps(of_two_turns))
        second = items(rows[0])[1]
        second["prompt_token_ids"] = second["prompt_token_ids"][2:]
        second["generation_log_probs"] = None
        _, written = scored(tmp_path, rows)
        expected, _ = tiny.naive(tiny.model(), second["prompt_token_ids"], second["generation_token_ids"])
        assert written[0]["policy_logprobs"][1] == pytest.approx(expected.tolist(), abs=1e-4)

    @given(
        st.lists(st.tuples(st.lists(st.integers(0, 2), min_size=1), st.lists(st.integers(0, 2))), max_size=5),
        st.data(),
    )
    def test_every_turn_stands_in_a_chain_behind_its_own_prompt(
        self, drafts: list[tuple[list[int], list[int]]], data: st.DataObject
    ):
        turns: list[Turn] = []
        for more, tokens in drafts:
            before = [*turns[-1].prompt, *turns[-1].tokens] if turns and data.draw(st.booleans()) else []
            turns.append(Turn(prompt=[*before, *more], tokens=tokens, logprobs=None))
        chains = chained(turns)
        seen = [
            (chain.prompt + chain.rest[: answer.start], chain.rest[answer])
            for chain in chains
            for answer in chain.answers
        ]
        assert seen == [(turn.prompt, turn.tokens) for turn in turns]

    def test_rows_of_generated_rollouts_are_read_too(self, tmp_path: Path, drawn: list[Json]):
        names = ("prompt_token_ids", "response_token_ids", "response_logprobs")
        rows = [
            {"data_idx": b, "sample_idx": 0, "response": "…"}
            | dict(zip(names, list(items(row)[0].values())[-3:], strict=True))
            for b, row in enumerate(drawn)
        ]
        summary, written = scored(tmp_path, rows)
        assert summary["engine_mismatch"]["logprob_diff_abs_max"] < 1e-4
        assert written[5]["data_idx"] == 5


class TestWhatIsNotThere:
    def test_rows_that_can_not_be_scored_are_counted(self, tmp_path: Path, drawn: list[Json]):
        long = {"response": {"output": [item([5] * tiny.CONTEXT, [6], None)]}}
        without = {"response": {"output": [{"type": "message", "role": "assistant", "content": "hi"}]}}
        summary, rows = scored(tmp_path, [without, drawn[0], long, drawn[1]])
        assert summary["skipped"] == {"no_token_ids": 1, "too_long": 1}
        assert [row["line"] for row in rows] == [2, 4]
        assert "left out: 1 no token ids, 1 too long" in format_report(summary)

    def test_a_file_without_any_is_refused_with_how_to_get_them(self, tmp_path: Path):
        with pytest.raises(UsageError, match="no rollout with token ids; a model server gives them with"):
            scored(tmp_path, [{"response": {"output": []}}])
        assert not (tmp_path / "scored.jsonl").exists()

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"generation_token_ids": [5, "x"]}, r"line 2, output\[0\]: generation_token_ids should be"),
            ({"prompt_token_ids": None}, r"line 2, output\[0\]: prompt_token_ids should be a list"),
            ({"prompt_token_ids": []}, r"line 2, output\[0\]: prompt_token_ids is empty"),
            ({"generation_log_probs": [-1.0]}, r"should be \d+ log-probabilities, as many as .* \(got \[-1"),
            ({"generation_token_ids": [340], "generation_log_probs": None}, "340 is beyond the 340 of seed"),
        ],
    )  # fmt: skip
    def test_wrong_rows_are_named_and_nothing_is_left(
        self, tmp_path: Path, drawn: list[Json], change: Json, message: str
    ):
        rows = orjson.loads(orjson.dumps(drawn))
        items(rows[1])[0].update(change)
        with pytest.raises(RowError, match=message):
            scored(tmp_path, rows)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rollouts.jsonl"]

    def test_logits_that_are_no_numbers_are_named(self, tmp_path: Path, drawn: list[Json]):
        def broken(name: str, dtype: str) -> tuple[Any, Any]:
            model, tokenizer = models(name, dtype)
            with torch.no_grad():
                model.lm_head.weight[7] = float("nan")
            return model, tokenizer

        source = tmp_path / "rollouts.jsonl"
        source.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in drawn))
        config = ScoreLogprobsConfig(
            input_jsonl_fpath=source, output_jsonl_fpath=tmp_path / "o.jsonl", policy="seed 0"
        )
        with pytest.raises(UsageError, match=r"lines 1 to 8, under seed 0: prompt .* not finite"):
            score_logprobs(config, broken)

    def test_an_output_is_not_written_over(self, tmp_path: Path, drawn: list[Json]):
        scored(tmp_path, drawn[:1])
        with pytest.raises(
            UsageError, match="exists; choose another output_jsonl_fpath, or pass overwrite=true"
        ):
            scored(tmp_path, drawn)
        assert scored(tmp_path, drawn, overwrite=True)[0]["rollouts"] == 8
        with pytest.raises(UsageError, match="is the input; choose another"):
            scored(tmp_path, drawn, overwrite=True, output_jsonl_fpath=tmp_path / "rollouts.jsonl")

    def test_a_model_that_is_not_there(self, tmp_path: Path):
        with pytest.raises(
            UsageError, match="there is no model nowhere: give the folder of one, or 'embedded'"
        ):
            load_model("nowhere")
        with pytest.raises(UsageError, match="can't be loaded"):
            load_model(tmp_path)


class TestSums:
    @given(PARTS)
    def test_parts_have_the_moments_of_the_whole(self, parts: list[list[float]]):
        moments, whole = Moments(), np.array([x for part in parts for x in part])
        for part in parts:
            moments.add(np.array(part))
        assert moments.n == len(whole)
        if len(whole):
            assert moments.mean == pytest.approx(whole.mean(), abs=1e-9)
            assert moments.largest == whole.max()
        if len(whole) > 1:
            assert moments.std == pytest.approx(whole.std(ddof=1), abs=1e-6)

    @given(PARTS, st.integers(0, 10))
    def test_parts_have_the_correlation_of_the_whole(self, parts: list[list[float]], seed: int):
        numbers, correlation = np.random.default_rng(seed), Correlation()
        pairs = [(np.array(part), np.array(part) + numbers.normal(size=len(part))) for part in parts]
        for x, y in pairs:
            correlation.add(x, y)
        x, y = (
            (np.concatenate([np.zeros(0), *side]) for side in zip(*pairs, strict=True)) if pairs else ([], [])
        )
        if len(x) > 2:
            assert correlation.value is None or correlation.value == pytest.approx(
                np.nan_to_num(np.corrcoef(x, y)[0, 1]), abs=1e-6
            )

    @given(NUMBERS.filter(bool))
    def test_k3_is_never_negative(self, logprobs: list[float]):
        divergence = Divergence()
        p = np.array(logprobs)
        divergence.add(p, p[::-1])
        assert divergence.k3.mean >= 0
        assert divergence.k1.mean == pytest.approx(0, abs=1e-9)

    def test_a_token_that_the_engine_calls_impossible_hides_nothing(self):
        mismatch = Mismatch()
        mismatch.add(np.array([-9999.0, -1.0]), np.array([-1.0, -1.0]))
        report = mismatch.report()
        assert report["share_off_10_percent"] == 0.5
        assert report["logprob_diff_abs_max"] == 9998
        assert np.isfinite(report["kl_k3"])

    def test_nothing_has_no_figures(self):
        assert set(Mismatch().report().values()) == {0, None}


@pytest.mark.slow
def test_the_command_scores_with_a_folder(tmp_path: Path, drawn: list[Json]) -> None:
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    (tmp_path / "rollouts.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in drawn))
    run = partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)
    command = [f"{BIN}/ng_score_logprobs", "policy=model", "+reference=model"]
    command += ["+input_jsonl_fpath=rollouts.jsonl", "+output_jsonl_fpath=out/scored.jsonl"]
    done = run(command)
    assert done.returncode == 0, done.stderr
    assert "8 rollouts scored: 8 turns" in done.stdout
    assert "share_off_10_percent   0" in done.stdout
    again = run(command)
    assert again.returncode == 2
    assert "out/scored.jsonl exists" in again.stderr
