"""Generating from model endpoints: what is asked, what is written, what is asked again."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from benchmarks.run import mock_endpoint
from nemo_like.generate_options import read_options

from .conftest import BIN, Project, read_jsonl, write_jsonl
from .generating import Json, completion, endpoint, generate, rows_of

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "scripts/generate_rollouts.py"
README = ROOT / "README_generate_rollouts.md"
COLUMNS = ["prompt", "response", "sample_idx", "data_idx", "temperature", "top_p", "max_tokens"]
EXTRA = ["finish_reason", "prompt_tokens", "completion_tokens", "reasoning", "error"]

pytestmark = pytest.mark.usefixtures("project")


def questions(n: int, **fields: Any) -> list[Json]:
    return [{"prompt": f"question {i}", "data_source": "math"} | fields for i in range(n)]


def gsm8k(n: int) -> Path:
    """verl's training file, as its preprocessing writes it."""
    rows = [
        {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": f"What is {i} + {i}? End with `####` and the answer."}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": str(2 * i)},
            "extra_info": {"split": "train", "index": i, "answer": f"#### {2 * i}"},
        }
        for i in range(n)
    ]
    pd.DataFrame(rows).to_parquet("gsm8k.parquet")
    return Path("gsm8k.parquet")


class TestWhatIsAsked:
    def test_verls_training_data_reaches_the_endpoint_as_messages(self):
        with endpoint() as model:
            assert generate(gsm8k(3), "--num_samples", 2, url=model.url) == 0
        message = {"role": "user", "content": "What is 2 + 2? End with `####` and the answer."}
        assert Counter(json.dumps(body["messages"]) for body in model.asked)[json.dumps([message])] == 2
        assert model.paths == {"/v1/chat/completions"}
        assert model.asked[0] == {
            "messages": model.asked[0]["messages"],
            "model": "the-model",
            "temperature": 0.7,
            "top_p": 0.9,
            "max_tokens": 512,
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }

    def test_skyrls_and_a_system_prompt_too(self):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}]
        row = {
            "prompt": messages,
            "env_class": "gsm8k",
            "reward_spec": {"method": "rule", "ground_truth": "4"},
        }
        with endpoint() as model:
            assert generate(write_jsonl(Path("d.jsonl"), [row]), "--num_samples", 1, url=model.url) == 0
        assert model.asked[0]["messages"] == messages
        assert rows_of("rollouts.parquet")[0]["prompt"] == "system: Be brief.\nuser: 2 + 2?"

    def test_nulls_that_a_column_of_structs_fills_in_are_not_sent(self):
        rows = [
            {"prompt": [{"role": "user", "content": "a", "name": "Ada"}]},
            {"prompt": [{"role": "user", "content": "b", "name": None}]},
        ]
        pd.DataFrame(rows).to_parquet("d.parquet")
        with endpoint() as model:
            assert generate("d.parquet", "--num_samples", 1, "--max_concurrent", 1, url=model.url) == 0
        assert [body["messages"][0].keys() for body in model.asked] == [
            {"role", "content", "name"},
            {"role", "content"},
        ]

    def test_a_seed_gives_every_sample_one_of_its_own(self):
        data = write_jsonl(Path("d.jsonl"), questions(3))
        with endpoint() as model:
            assert generate(data, "--num_samples", 2, "--seed", 100, url=model.url) == 0
        assert sorted(body["seed"] for body in model.asked) == [*range(100, 106)]

    def test_text_can_be_continued_without_a_chat_template(self):
        data = write_jsonl(
            Path("d.jsonl"), [*questions(1), {"prompt": [{"role": "user", "content": "chat"}]}]
        )
        reply = {"choices": [{"text": " four", "finish_reason": "length"}]}
        with endpoint(lambda _: (200, reply)) as model:
            assert generate(data, "--completions", "--num_samples", 1, url=model.url) == 1
        assert model.paths == {"/v1/completions"}
        assert [body["prompt"] for body in model.asked] == ["question 0"]
        one, other = rows_of("rollouts.parquet")
        assert (one["response"], one["finish_reason"]) == (" four", "length")
        assert (other["response"], "without --completions" in other["error"]) == (None, True)

    def test_a_request_can_carry_more_and_less(self):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        extra = '{"top_k": null, "min_p": null, "chat_template_kwargs": {"enable_thinking": false}}'
        with endpoint() as model:
            assert generate(data, "--extra_body", extra, "--num_samples", 1, url=model.url) == 0
        assert model.asked[0]["chat_template_kwargs"] == {"enable_thinking": False}
        assert not {"top_k", "min_p"} & model.asked[0].keys()

    def test_the_key_comes_from_the_environment_and_stays_out_of_every_file(self, monkeypatch: Any):
        monkeypatch.setenv("VLLM_API_KEY", "s3cret")
        data = write_jsonl(Path("d.jsonl"), questions(1))
        with endpoint() as model:
            assert generate(data, url=model.url) == 0
        assert model.keys == {"Bearer s3cret"}
        assert not [path for path in Path().iterdir() if b"s3cret" in path.read_bytes()]

    def test_no_proxy_is_asked(self, monkeypatch: Any):
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        data = write_jsonl(Path("d.jsonl"), questions(1))
        with endpoint() as model:
            assert generate(data, url=model.url) == 0


class TestWhatIsWritten:
    def test_the_columns_are_those_of_the_document_and_the_order_that_of_the_data(self):
        def slowly(body: Json) -> tuple[int, Json]:
            time.sleep(random.random() / 50)
            return 200, completion(body["messages"][-1]["content"])

        with endpoint(slowly) as model:
            assert generate(gsm8k(9), "--num_samples", 3, url=model.url) == 0
        own = ["data_source", "prompt", "ability", "reward_model", "extra_info"]
        frame = pd.read_parquet("rollouts.parquet")
        assert [*frame.columns] == [*COLUMNS, *(f"original_{name}" for name in own), *EXTRA]
        places = [(row.data_idx, row.sample_idx) for row in frame.itertuples()]
        assert places == [(i, j) for i in range(9) for j in range(3)]
        assert (frame["response"] == frame["prompt"]).all()
        assert set(frame["temperature"]) == {0.7} and set(frame["top_p"]) == {0.9}
        assert set(frame["max_tokens"]) == {512} and set(frame["finish_reason"]) == {"stop"}
        assert frame["original_reward_model"][26] == {"style": "rule", "ground_truth": "16"}
        assert frame["error"].isna().all()

    def test_jsonl_holds_what_parquet_holds_and_is_not_asked_for_again(self):
        with endpoint() as model:
            assert generate(gsm8k(4), "--num_samples", 2, url=model.url) == 0
            options = ("--num_samples", 2, "--output_format", "jsonl")
            assert generate("gsm8k.parquet", *options, url=model.url) == 0
        assert read_jsonl(Path("rollouts.jsonl")) == rows_of("rollouts.parquet")
        assert len(model.asked) == 8

    def test_what_made_the_rollouts_is_kept_in_the_file(self):
        with endpoint() as model:
            assert generate(gsm8k(1), "--temperature", 0.5, "--num_samples", 1, url=model.url) == 0
        about = json.loads(pq.read_schema("rollouts.parquet").metadata[b"nemo_like.generate"])
        assert (about["model"], about["temperature"], about["source"]) == ("the-model", 0.5, "server")

    def test_token_ids_and_log_probabilities_come_on_demand(self):
        def reply(_: Json) -> tuple[int, Json]:
            answer = completion("4") | {"prompt_token_ids": [5, 6]}
            logprobs = {"content": [{"token": "4", "logprob": -0.25}, {"token": "", "logprob": -0.5}]}
            answer["choices"][0] |= {"token_ids": [19, 2], "logprobs": logprobs}
            return 200, answer

        with endpoint(reply) as model:
            options = ("--return_token_ids", "--num_samples", 2, "--seed", 3)
            assert generate(write_jsonl(Path("d.jsonl"), questions(1)), *options, url=model.url) == 0
        assert model.asked[0]["return_token_ids"] is model.asked[0]["logprobs"] is True
        _, row = rows_of("rollouts.parquet")
        assert (row["prompt_token_ids"], row["response_token_ids"]) == ([5, 6], [19, 2])
        assert row["response_logprobs"] == [-0.25, -0.5]
        sent = json.loads(row["sampling_params"])
        assert (sent["seed"], sent["top_k"], sent["repetition_penalty"], sent["top_p"]) == (4, -1, 1.0, 0.9)
        assert "messages" not in sent and "model" not in sent

    def test_rewards_are_calculated_later_as_the_page_says(self, monkeypatch: Any):
        rows = questions(2, data_source="openai/gsm8k", ground_truth="4")
        with endpoint(lambda body: (200, completion("#### 4" if "0" in str(body["messages"]) else "5"))) as m:
            assert generate(write_jsonl(Path("d.jsonl"), rows), "--num_samples", 2, url=m.url) == 0
        [snippet] = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), re.S) if "verl" in b]
        assert "from nemo_like.rewards.verl import default_compute_score" in snippet
        exec(snippet, {})
        assert [row["reward"] for row in rows_of("rollouts_with_rewards.parquet")] == [1, 1, 0, 0]

    def test_other_snippets_of_the_page_run_too(self, capsys: Any):
        with endpoint() as model:
            data = write_jsonl(Path("d.jsonl"), questions(2))
            for name in ("rollouts.parquet", "rollouts.jsonl"):
                assert (
                    generate(data, "--num_samples", 2, "--output_path", name, "--overwrite", url=model.url)
                    == 0
                )
        for snippet in re.findall(r"```python\n(.*?)```", README.read_text(), re.S):
            if "verl" not in snippet:
                exec(snippet, {})
        assert "Prompt 1:" in capsys.readouterr().out

    @pytest.mark.parametrize("output", ["a.parquet", "sub/folder/b.jsonl"])
    def test_the_output_has_the_format_it_is_named_after(self, output: str):
        with endpoint() as model:
            data = write_jsonl(Path("d.jsonl"), questions(1))
            assert generate(data, "--num_samples", 1, "--output_path", output, url=model.url) == 0
        begins = Path(output).read_bytes()[:1]
        assert begins == (b"P" if output.endswith("parquet") else b"{")

    def test_a_data_set_without_rows_makes_an_empty_file(self):
        with endpoint() as model:
            assert generate(gsm8k(1), "--num_samples", 1, url=model.url) == 0
            pq.write_table(pq.read_table("gsm8k.parquet").slice(0, 0), "none.parquet")
            assert generate("none.parquet", "--output_path", "empty.parquet", url=model.url) == 0
        assert rows_of("empty.parquet") == []
        assert pq.read_schema("empty.parquet").names == pq.read_schema("rollouts.parquet").names


class TestFailures:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("fault", "kind"),
        [
            ("500", "model_error"),
            ("429", "rate_limited"),
            ("drop", "unreachable"),
            ("hang", "timeout"),
            ("drip", "timeout"),
            ("badjson", "bad_response"),
            ("wrongjson", "bad_response"),
            ("empty", "bad_response"),
        ],
    )
    def test_an_endpoint_that_only_fails_makes_errors_not_empty_responses(
        self, fault: str, kind: str, capsys: Any
    ):
        data = write_jsonl(Path("d.jsonl"), questions(3))
        with mock_endpoint("--faults", "1", "--fault-kinds", fault) as url:
            options = ("--request_timeout_s", 0.3, "--max_retries", 1, "--num_samples", 2)
            assert generate(data, *options, url=url) == 1
        rows = rows_of("rollouts.parquet")
        assert [row["response"] for row in rows] == [None] * 6
        assert all(kind in row["error"] for row in rows)
        assert "6 rows have no response but an error" in capsys.readouterr().out

    @pytest.mark.slow
    def test_an_endpoint_that_sometimes_fails_costs_nothing_but_time(self):
        data = write_jsonl(Path("d.jsonl"), questions(40))
        kinds = "500,429,drop,badjson,wrongjson,empty,hang"
        with mock_endpoint("--faults", "0.3", "--fault-kinds", kinds) as url:
            options = ("--request_timeout_s", 1, "--num_samples", 4, "--max_retries", 8)
            assert generate(data, *options, url=url) == 0
        assert all(row["response"] and not row["error"] for row in rows_of("rollouts.parquet"))

    def test_what_failed_is_asked_again_by_the_same_command_and_only_that(self):
        broken = True

        def reply(body: Json) -> tuple[int, Any]:
            if broken and body["messages"][0]["content"] == "question 1":
                return 500, {"error": {"message": "out of luck"}}
            return 200, completion()

        data = write_jsonl(Path("d.jsonl"), questions(3))
        options = ("--num_samples", 2, "--max_retries", 0)
        with endpoint(reply) as model:
            assert generate(data, *options, url=model.url) == 1
            assert Counter(model.prompts) == {"question 0": 2, "question 1": 6, "question 2": 2}
            errors = [row["error"] for row in rows_of("rollouts.parquet")]
            assert [error is None for error in errors] == [True, True, False, False, True, True]
            assert "model_error (500): out of luck" in errors[2]
            broken = False
            model.asked.clear()
            assert generate(data, *options, url=model.url) == 0
        assert model.prompts == ["question 1"] * 2
        assert [row["response"] for row in rows_of("rollouts.parquet")] == ["4"] * 6

    @pytest.mark.parametrize(
        "body",
        [
            completion(None),
            completion("", finish=None),
            completion("half", finish="error"),
            completion({"text": "4"}),
            {"choices": [{"message": None}]},
            {"choices": ["4"]},
            {},
        ],
    )
    def test_what_is_no_answer_is_an_error(self, body: Json):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        with endpoint(lambda _: (200, body)) as model:
            assert generate(data, "--num_samples", 1, url=model.url) == 1
        [row] = rows_of("rollouts.parquet")
        assert row["response"] is None
        assert "bad_response" in row["error"]

    def test_thinking_is_kept_apart_and_an_answer_that_never_came_is_null(self):
        replies = {
            "question 0": completion("4", reasoning_content="two and two"),
            "question 1": completion(None, "length", reasoning="two and"),
            "question 2": completion(""),
        }
        data = write_jsonl(Path("d.jsonl"), questions(3))
        with endpoint(lambda body: (200, replies[body["messages"][0]["content"]])) as model:
            assert generate(data, "--num_samples", 1, url=model.url) == 0
        rows = rows_of("rollouts.parquet")
        assert [row["response"] for row in rows] == ["4", None, ""]
        assert [row["reasoning"] for row in rows] == ["two and two", "two and", None]
        assert [row["finish_reason"] for row in rows] == ["stop", "length", "stop"]

    def test_a_row_without_a_prompt_is_an_error_and_nothing_is_sent_for_it(self, capsys: Any):
        prompts: list[Any] = ["", None, "  \n", 7, [], [{"content": "no role"}], [{"role": "user"}], "fine"]
        data = write_jsonl(Path("d.jsonl"), [{"prompt": prompt} for prompt in prompts])
        with endpoint() as model:
            assert generate(data, "--num_samples", 2, url=model.url) == 1
        assert model.prompts == ["fine"] * 2
        rows = rows_of("rollouts.parquet")
        assert [row["error"] is None for row in rows] == [False] * 14 + [True] * 2
        assert "row 3, column 'prompt': the prompt should be text or messages" in rows[6]["error"]
        assert "14 rows have no response but an error" in capsys.readouterr().out

    def test_a_wrong_key_ends_the_run_in_the_providers_words(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(50))
        with mock_endpoint("--key", "right") as url:
            assert generate(data, "--model_path", "m", url=url) == 1
        err = capsys.readouterr().err
        assert "24 samples in a row failed in the same way" in err
        assert "Incorrect API key provided" in err and "VLLM_API_KEY" in err
        assert not Path("rollouts.parquet").exists()

    def test_prompts_that_are_too_long_do_not_look_like_a_hopeless_run(self):
        def reply(body: Json) -> tuple[int, Any]:
            if "question 29" in body["messages"][0]["content"]:
                return 200, completion()
            return 400, {
                "error": {"message": "maximum context length is 8", "code": "context_length_exceeded"}
            }

        data = write_jsonl(Path("d.jsonl"), questions(30))
        with endpoint(reply) as model:
            assert generate(data, "--max_concurrent", 1, url=model.url) == 1
        errors = [row["error"] for row in rows_of("rollouts.parquet")]
        assert all("context_overflow" in error for error in errors[:232])
        assert errors[232:] == [None] * 8

    def test_a_parameter_that_the_server_refuses_can_be_left_out(self, capsys: Any):
        refusal = {"error": {"message": "Unrecognized request argument supplied: top_k"}}
        data = write_jsonl(Path("d.jsonl"), questions(1))
        with endpoint(lambda _: (400, refusal)) as model:
            assert generate(data, "--num_samples", 1, url=model.url) == 1
        assert """--extra_body '{"top_k": null}' leaves it out""" in capsys.readouterr().out


class TestSeveralEndpoints:
    def test_they_share_the_work_and_a_prompts_samples_stay_together(self):
        data = write_jsonl(Path("d.jsonl"), questions(40))
        with endpoint() as one, endpoint() as other:
            urls = f"{one.url}, {other.url.removesuffix('/v1')}/"
            assert generate(data, "--max_concurrent", 4, url=urls) == 0
        asked = [set(one.prompts), set(other.prompts)]
        assert len(one.asked) + len(other.asked) == 320
        # The less busy one is asked: about half, as it comes.
        assert sum(len(prompts) for prompts in asked) == 40 and min(map(len, asked)) > 10
        assert not asked[0] & asked[1]

    def test_a_dead_one_is_left_to_the_others(self):
        data = write_jsonl(Path("d.jsonl"), questions(20))
        with endpoint(lambda _: (503, {"error": {"message": "going down"}})) as sick, endpoint() as well:
            urls = f"{sick.url},http://127.0.0.1:9/v1,{well.url}"
            options = ("--vllm_model_name", "m", "--max_concurrent", 2)
            assert generate(data, *options, url=urls) == 0
        assert len(well.asked) == 160
        assert len(sick.asked) <= 8

    def test_where_none_answers_the_run_stops(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(20))
        urls = "http://127.0.0.1:9,http://127.0.0.1:10"
        assert generate(data, "--model_path", "m", "--max_retries", 0, url=urls) == 1
        assert "24 samples in a row failed in the same way" in capsys.readouterr().err


class TestResuming:
    def test_the_same_command_asks_nothing_again(self):
        data = write_jsonl(Path("d.jsonl"), questions(5))
        with endpoint() as model:
            assert generate(data, url=model.url) == 0
            before = Path("rollouts.parquet").read_bytes()
            assert generate(data, url=model.url) == 0
        assert len(model.asked) == 40
        assert Path("rollouts.parquet").read_bytes() == before

    def test_more_samples_and_more_or_other_prompts_are_simply_more_owed(self):
        rows = questions(3)
        with endpoint() as model:
            assert generate(write_jsonl(Path("d.jsonl"), rows), "--num_samples", 2, url=model.url) == 0
            model.asked.clear()
            assert generate(Path("d.jsonl"), "--num_samples", 3, url=model.url) == 0
            assert sorted(model.prompts) == ["question 0", "question 1", "question 2"]
            model.asked.clear()
            rows[1]["prompt"] = "another question"
            data = write_jsonl(Path("d.jsonl"), [*rows, {"prompt": "one more"}])
            assert generate(data, "--num_samples", 2, url=model.url) == 0
        assert Counter(model.prompts) == {"another question": 2, "one more": 2}
        responses = [row["response"] for row in rows_of("rollouts.parquet")]
        assert responses[2:4] == ["re: another question"] * 2
        assert len(responses) == 8

    def test_other_parameters_are_refused_by_name(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(2))
        with endpoint() as model:
            assert generate(data, url=model.url) == 0
            assert generate(data, "--temperature", 1, "--max_tokens", 9, url=model.url) == 1
            err = capsys.readouterr().err
            assert "temperature=0.7, now 1.0, max_tokens=512, now 9" in err and "--overwrite" in err
            model.asked.clear()
            assert generate(data, "--temperature", 1, "--overwrite", url=model.url) == 0
        assert len(model.asked) == 16
        assert rows_of("rollouts.parquet")[0]["temperature"] == 1.0

    def test_a_file_that_nobody_can_explain_is_not_overwritten(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        Path("rollouts.parquet").write_text("precious")
        with endpoint() as model:
            assert generate(data, url=model.url) == 2
            assert "--overwrite replaces it" in capsys.readouterr().err
            assert (Path("rollouts.parquet").read_text(), model.asked) == ("precious", [])
            assert generate(data, "--overwrite", url=model.url) == 0

    @pytest.mark.parametrize(
        "torn", [b'{"data_idx": 1, "sam', b"\0" * 4096, b'{"data_idx": 1, "sample_idx": 0}']
    )
    def test_a_torn_last_line_is_cut_off_and_owed_again(self, torn: bytes):
        data = write_jsonl(Path("d.jsonl"), questions(2))
        journal = Path("rollouts_journal.jsonl")
        with endpoint() as model:
            assert generate(data, "--num_samples", 1, url=model.url) == 0
            whole = journal.read_bytes()
            journal.write_bytes(whole[: whole[:-1].rindex(b"\n") + 1] + torn)
            assert generate(data, "--num_samples", 1, url=model.url) == 0
        assert len(model.asked) == 3
        assert [json.loads(line) for line in journal.read_bytes().splitlines()]
        assert [row["error"] for row in rows_of("rollouts.parquet")] == [None, None]

    def test_a_journal_torn_in_its_first_line_is_begun_anew(self):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        Path("rollouts_journal.jsonl").write_bytes(b'{"made_wi')
        with endpoint() as model:
            assert generate(data, url=model.url) == 0
        assert len(model.asked) == 8

    def test_what_is_no_journal_is_left_alone(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        for text in ('{"a": 1}\n', '{"made_with": {}}\nnot JSON\n{}\n'):
            Path("rollouts_journal.jsonl").write_text(text)
            with endpoint() as model:
                assert generate(data, url=model.url) == 1
            assert Path("rollouts_journal.jsonl").read_text() == text
            assert "rollouts_journal.jsonl" in capsys.readouterr().err


def start(url: str, *arguments: Any, **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    command = [sys.executable, SCRIPT, "--data_path", "d.jsonl", "--use_vllm", "--vllm_base_url", url]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([*command, *map(str, arguments)], text=True, **(streams | options))


def journalled() -> list[tuple[int, int]]:
    """The samples that the journal holds, whole lines only."""
    path = Path("rollouts_journal.jsonl")
    lines = path.read_bytes().split(b"\n")[1:-1] if path.exists() else []
    return [(sample["data_idx"], sample["sample_idx"]) for sample in map(json.loads, lines)]


def wait_for(n: int) -> None:
    deadline = time.monotonic() + 30
    while len(journalled()) < n:
        assert time.monotonic() < deadline, "no sample was finished"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_run_killed_again_and_again_asks_for_nothing_twice_that_it_had() -> None:
    write_jsonl(Path("d.jsonl"), questions(300))
    options = ("--num_samples", 4, "--seed", 0, "--max_concurrent", 16)

    def slowly(body: Json) -> tuple[int, Json]:
        time.sleep(0.01)
        return 200, completion(f"{body['messages'][0]['content']}, {body['seed']}")

    with endpoint(slowly) as model:
        for round_number in range(1, 6):
            there = {4 * data_idx + sample_idx for data_idx, sample_idx in journalled()}
            model.asked.clear()
            with start(model.url, *options) as process:
                wait_for(round_number * 150)
                process.send_signal(signal.SIGKILL)
            assert not there & {body["seed"] for body in model.asked}
            assert not Path("rollouts.parquet").exists()
        with start(model.url, *options) as process:
            out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "1,200 rollouts of 300 prompts are in rollouts.parquet" in out
    assert set(Counter(journalled()).values()) == {1}
    rows = rows_of("rollouts.parquet")
    expected = [f"question {i}, {4 * i + j}" for i in range(300) for j in range(4)]
    assert [row["response"] for row in rows] == expected
    assert [path.name for path in Path().iterdir() if "tmp" in path.name] == []


@pytest.mark.slow
def test_ctrl_c_ends_a_run_with_a_word_and_the_same_command_resumes() -> None:
    write_jsonl(Path("d.jsonl"), questions(50))
    with mock_endpoint("--latency", "0.05") as url:
        with start(url, "--max_concurrent", 4) as process:
            wait_for(10)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "interrupted; what was finished is kept, the same command resumes" in err
        assert "Traceback" not in err
        with start(url) as process:
            process.communicate(timeout=60)
    assert process.returncode == 0
    assert set(Counter(journalled()).values()) == {1}


@pytest.mark.slow
def test_a_second_run_into_the_same_file_is_refused_while_the_first_goes_on() -> None:
    write_jsonl(Path("d.jsonl"), questions(20))
    with mock_endpoint("--latency", "0.2") as url, start(url, "--max_concurrent", 8) as first:
        wait_for(1)
        with start(url) as second:
            _, err = second.communicate(timeout=20)
        assert second.returncode == 1
        assert "is being written by another process" in err
        first.communicate(timeout=60)
        assert first.returncode == 0


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_what_was_finished_is_kept() -> None:
    write_jsonl(Path("d.jsonl"), questions(100))

    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    with mock_endpoint() as url:
        with start(url, preexec_fn=little_room) as process:
            _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "rollouts_journal.jsonl can't be written" in err and "Traceback" not in err
        there = len(journalled())
        assert there > 10
        with start(url) as process:
            process.communicate(timeout=60)
    assert process.returncode == 0
    assert set(Counter(journalled()).values()) == {1}


@pytest.mark.slow
def test_a_model_server_of_our_own_is_an_endpoint_too(project: Project) -> None:
    script = '[{"when": {"contains": "question 1"}, "fail": {"status": 400, "message": "no"}}, "It is 4."]'
    turns = "\n".join(json.dumps(turn) for turn in json.loads(script))
    Path("script.jsonl").write_text(turns + "\n")
    data = write_jsonl(Path("d.jsonl"), questions(2))
    with project.start("ng_run", "model=scripted", "+policy_script=script.jsonl") as servers:
        assert servers.stdout is not None
        lines = iter(servers.stdout.readline, "")
        url = next(line.split()[2] for line in lines if line.startswith("policy_model"))
        assert any(line.startswith("Ctrl-C") for line in lines)
        assert generate(data, "--num_samples", 2, "--model_path", "scripted", url=url) == 1
        servers.send_signal(signal.SIGINT)
    rows = rows_of("rollouts.parquet")
    assert [row["response"] for row in rows] == ["It is 4.", "It is 4.", None, None]
    assert "no" in rows[2]["error"]


@pytest.mark.slow
def test_the_embedded_model_needs_nothing(no_orphans: None) -> None:
    rows = questions(2) + [{"prompt": [{"role": "user", "content": "Say hello."}]}]
    data = write_jsonl(Path("d.jsonl"), rows)
    options = ("--embedded", "--num_samples", 2, "--max_tokens", 8, "--seed", 1, "--return_token_ids")
    assert generate(data, *options) == 0
    rows = rows_of("rollouts.parquet")
    assert len(rows) == 6
    assert all(row["response"] and row["completion_tokens"] for row in rows)
    assert all(len(row["response_token_ids"]) == len(row["response_logprobs"]) for row in rows)
    again = (*options, "--output_path", "again.parquet")
    assert generate(data, *again) == 0
    assert [row["response"] for row in rows_of("again.parquet")] == [row["response"] for row in rows]


class TestOptions:
    def test_every_flag_of_the_document_has_its_default(self):
        config = read_options(["--model_path", "m", "--data_path", "d.parquet"])
        assert (config.vllm_base_url, config.vllm_max_concurrent) == (["http://localhost:8000/v1"], 100)
        assert (config.num_samples, config.temperature, config.top_p) == (8, 0.7, 0.9)
        assert (config.max_tokens, config.batch_size, config.prompt_key) == (512, 8, "prompt")
        assert (str(config.output), config.format) == ("rollouts.parquet", "parquet")
        assert (config.use_vllm, config.trust_remote_code, config.vllm_model_name) == (False, False, None)

    def test_other_names_are_understood(self):
        arguments = ["--data_path", "d", "--use_vllm", "--vllm_url", "http://a,http://b", "--raw_prompt"]
        config = read_options([*arguments, "--max_concurrent", "7", "--output_format", "jsonl"])
        assert config.vllm_base_url == ["http://a", "http://b"]
        assert (config.vllm_max_concurrent, config.completions) == (7, True)
        assert str(config.output) == "rollouts.jsonl"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (
                ["--num_samples", "0", "--use_vllm"],
                "num_samples: should be greater than or equal to 1 (got '0')",
            ),
            (["--temperature", "hot", "--use_vllm"], "temperature: should be a valid number"),
            (["--extra_body", "{", "--use_vllm"], "extra_body"),
            (["--use_vllm", "--embedded"], "two sources"),
            ([], "--model_path is required"),
            (["--embedded", "--completions"], "chat only"),
            (
                ["--use_vllm", "--output_path", "r.jsonl", "--output_format", "parquet"],
                "not a name for parquet",
            ),
            (["--use_vllm", "--output_path", "d.jsonl"], "is the data itself"),
            (["--use_vllm", "--output_path", "folder"], "should name a file"),
            (
                ["--use_vllm", "--prompt_key", "promt"],
                "d.jsonl has no column 'promt' (--prompt_key); there are: prompt",
            ),
            (
                ["--use_vllm", "--data_path", "empty.jsonl"],
                "has no column 'prompt' (--prompt_key); it has none",
            ),
            (["--use_vllm", "--data_path", "nowhere.parquet"], "there is no file nowhere.parquet"),
            (["--use_vllm", "--data_path", "d.csv"], "should be named .parquet or .jsonl"),
            (["--use_vllm", "--data_path", "torn.parquet"], "torn.parquet is not a readable Parquet file"),
            (["--use_vllm", "--data_path", "torn.jsonl"], "torn.jsonl, line 2 is not JSON"),
            (["--use_vllm", "--data_path", "list.jsonl"], "line 1 should be a JSON object (got [1])"),
            (["--use_vllm", "--max_concurrent", "9999999"], "needs as many open files"),
        ],
    )
    def test_what_is_wrong_is_said_in_a_line(self, arguments: list[str], said: str, capsys: Any):
        write_jsonl(Path("d.jsonl"), questions(2))
        Path("folder").mkdir()
        Path("d.csv").write_text("prompt\n")
        Path("empty.jsonl").write_text("\n")
        Path("torn.parquet").write_bytes(gsm8k(3).read_bytes()[:-100])
        Path("torn.jsonl").write_text('{"prompt": "a"}\n{"prom')
        Path("list.jsonl").write_text(" [1]\n")
        assert generate("d.jsonl", *arguments) == 2
        assert said in capsys.readouterr().err

    def test_the_column_input_stands_in_for_prompt(self, caplog: Any):
        data = write_jsonl(Path("d.jsonl"), [{"input": "2 + 2?"}])
        with endpoint() as model:
            assert generate(data, "--num_samples", 1, url=model.url) == 0
        assert model.prompts == ["2 + 2?"]
        assert "has no column 'prompt'; taking 'input'" in caplog.text

    def test_of_several_models_one_has_to_be_named(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        with endpoint() as model:
            model.models = ["a", "b"]
            assert generate(data, "--num_samples", 1, url=model.url) == 2
            assert "serves a, b; name one with --vllm_model_name" in capsys.readouterr().err
            assert generate(data, "--num_samples", 1, "--vllm_model_name", "b", url=model.url) == 0
        assert [body["model"] for body in model.asked] == ["b"]

    def test_a_server_that_is_not_there_is_named(self, capsys: Any):
        data = write_jsonl(Path("d.jsonl"), questions(1))
        assert generate(data, url="http://127.0.0.1:9") == 1
        assert "http://127.0.0.1:9/v1/models" in capsys.readouterr().err

    def test_help_is_all_there_is_to_know(self):
        done = subprocess.run([sys.executable, SCRIPT, "--help"], capture_output=True, text=True, check=True)
        page = README.read_text()
        for flag in re.findall(r"--[a-z_]+", done.stdout):
            assert flag == "--help" or f"`{flag}`" in page, flag
        assert os.fspath("README_generate_rollouts.md") in done.stdout


@pytest.mark.slow
def test_the_commands_of_the_page_run(project: Project, no_orphans: None) -> None:
    (project.path / "scripts").symlink_to(SCRIPT.parent)
    commands = re.findall(r"```bash\n(.*?)```", README.read_text(), re.S)
    assert commands
    environment = {"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(project.path)}
    for command in commands:
        subprocess.run(["bash", "-euc", command], env=environment, check=True, timeout=100)
    assert len(rows_of("rollouts.parquet")) == 4
