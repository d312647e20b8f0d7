"""The replay model: a scripted model is recorded, and played back without it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.asgi import call_app
from nemo_like.client import ROLLOUT_HEADER, Client
from nemo_like.config import load
from nemo_like.errors import ConfigError, StoreError
from nemo_like.registry import load_file
from nemo_like.serve import ServerSpec, load_server

from ..conftest import Project, read_jsonl, write_jsonl

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "responses_api_models/replay_model"
requests = load_file(FOLDER / "request.py")

Json = dict[str, Any]
QUESTION: Json = {"input": "What is 2 + 2?", "temperature": 1.0}
RECORD_YAML = """
recorded_model:
  responses_api_models:
    scripted_model: {entrypoint: app.py, script: script.yaml}
policy_model:
  responses_api_models:
    replay_model:
      entrypoint: app.py
      recording: recording.jsonl
      mode: record_missing
      model_server: {type: responses_api_models, name: recorded_model}
"""


def rollout(task: str = "t", index: int = 0, attempt: int = 0) -> str:
    """An id as the collector gives it."""
    return f"{task}.{index}.17000000{attempt:02}.000000"


def ask(
    recording: Path, asked: list[tuple[Json, str]], script: list[Any] | None = None, **settings: Any
) -> list[tuple[int, Any]]:
    """What a replay model answers, one after the other; with a script it records what plays that."""

    async def run() -> list[tuple[int, Any]]:
        apps: dict[str, Any] = {}
        client = Client({}, apps)
        server = {"type": "responses_api_models", "name": "recorded_model"}
        given = {"mode": "record_missing", "model_server": server} if script is not None else {}
        servers = [
            load_server(
                spec("policy_model", "replay_model", {"recording": str(recording)} | given | settings), client
            ),
            load_server(spec("recorded_model", "scripted_model", {"script": script or []}), client),
        ]
        apps.update({server.name: server.app() for server in servers})
        async with AsyncExitStack() as stack:
            for each in servers:
                await stack.enter_async_context(each.lifespan())
            return [await post(apps["policy_model"], body, who) for body, who in asked]

    return asyncio.run(run())


def spec(name: str, folder: str, settings: Json) -> ServerSpec:
    file = ROOT / "responses_api_models" / folder / "app.py"
    return ServerSpec(name=name, file=str(file), settings=settings, listener=0)


async def post(app: Any, body: Json, who: str) -> tuple[int, Any]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/responses"
    status, answer = await call_app(app, path, orjson.dumps(body), {ROLLOUT_HEADER: who})
    return status, orjson.loads(answer)


def draws(*texts: str) -> list[Json]:
    """A script of one rule for each time that it is asked, by whomever."""
    return [{"when": {"rate": 1}, "text": text} for text in texts]


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    return tmp_path / "deep/recording.jsonl"


def said(answers: list[tuple[int, Any]]) -> list[str]:
    return [answer["output"][-1]["content"][0]["text"] for _, answer in answers]


class TestPlayback:
    def test_an_answer_is_played_back_to_the_last_byte_and_nobody_is_asked(self, recording: Path) -> None:
        entry = {"token": "4", "logprob": -0.5, "bytes": [52], "top_logprobs": []}
        part = {"type": "output_text", "text": "4", "annotations": [], "logprobs": [entry]}
        tokens = {
            "prompt_token_ids": [1, 2],
            "generation_token_ids": [3],
            "generation_log_probs": [-0.123456789012345],
        }
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part], **tokens}
        raw = {"id": "resp_1", "output": [item], "status": "completed", "usage": None, "new": {"x": None}}
        [recorded] = ask(recording, [(QUESTION, rollout())], [{"raw": raw}])
        [played] = ask(recording, [(QUESTION, rollout(attempt=7))])
        assert recorded == played == (200, raw)

    def test_what_is_recorded_already_is_not_asked_again(self, recording: Path) -> None:
        other = QUESTION | {"temperature": 0.5}
        [first] = ask(recording, [(QUESTION, rollout())], ["one"])
        again, new = ask(recording, [(QUESTION, rollout(attempt=1)), (other, rollout())], ["two"])
        assert again == first
        assert said([again, new]) == ["one", "two"]

    def test_each_repeat_gets_the_answers_that_were_recorded_for_it(self, recording: Path) -> None:
        who = [(QUESTION, rollout("a", i)) for i in range(3)] + [(QUESTION, rollout("b", 0))]
        recorded = ask(recording, who, ["the same text"])
        assert len({answer["id"] for _, answer in recorded}) == 4
        assert ask(recording, who[::-1]) == recorded[::-1]
        assert ask(recording, who[:1] * 1, num_workers=1) == recorded[:1]

    def test_a_repeat_that_was_not_recorded_is_an_error_or_recorded(self, recording: Path) -> None:
        ask(recording, [(QUESTION, rollout("t", i)) for i in range(2)], ["old"])
        third = (QUESTION, rollout("t", 2))
        [(status, answer)] = ask(recording, [third])
        assert (status, answer["error"]["kind"]) == (404, "not_found")
        assert "has 2 recorded answers to this request, and none for rollout 2" in answer["error"]["message"]
        assert said(ask(recording, [third], ["new"])) == ["new"]
        assert said(ask(recording, [third])) == ["new"]

    def test_a_task_whose_row_was_edited_gets_the_answers_of_the_same_repeat(self, recording: Path) -> None:
        recorded = ask(recording, [(QUESTION, rollout("old", i)) for i in range(2)], ["x"])
        assert ask(recording, [(QUESTION, rollout("new", i)) for i in (1, 0)]) == recorded[::-1]

    def test_of_several_attempts_at_a_rollout_the_last_is_played_back(self, recording: Path) -> None:
        first = ask(recording, [(QUESTION, rollout(attempt=1))] * 2, ["x"], mode="record")
        last = ask(recording, [(QUESTION, rollout(attempt=2))] * 2, ["x"], mode="record")
        assert first != last
        played = ask(recording, [(QUESTION, rollout(attempt=a)) for a in (5, 5, 6)])
        assert played == [*last, last[0]]

    def test_who_has_no_rollout_gets_one_answer_after_the_other(self, recording: Path) -> None:
        recorded = ask(recording, [(QUESTION, f"anybody {i}") for i in range(2)], ["x"])
        thrice = [(QUESTION, f"somebody {i}") for i in range(3)]
        *played, (status, _) = ask(recording, thrice)
        assert (played, status) == (recorded, 404)
        assert ask(recording, thrice, repeat=True) == [*recorded, recorded[0]]

    def test_chat_completions_are_played_back_from_the_same_recording(self, recording: Path) -> None:
        ask(recording, [(QUESTION, rollout())], ["4"])
        chat = {"messages": [{"role": "user", "content": "What is 2 + 2?"}], "temperature": 1}
        [(status, completion)] = ask(recording, [(chat, rollout())])
        assert (status, completion["choices"][0]["message"]["content"]) == (200, "4")

    def test_a_failure_that_would_come_again_is_recorded_and_another_is_not(self, recording: Path) -> None:
        overflow = {"fail": {"status": 400, "kind": "context_overflow", "message": "too long"}}
        [recorded] = ask(recording, [(QUESTION, rollout())], [overflow])
        assert ask(recording, [(QUESTION, rollout())]) == [recorded]
        error = recorded[1]["error"]
        assert (error["kind"], error["where"]) == ("context_overflow", "recorded_model")
        busy = {"fail": {"status": 503, "message": "overloaded"}}
        other = QUESTION | {"input": "?"}
        assert ask(recording, [(other, rollout())], [busy])[0][0] == 503
        assert ask(recording, [(other, rollout())])[0][0] == 404


class TestMissing:
    def test_the_nearest_request_and_where_it_differs_are_told(self, recording: Path) -> None:
        items: list[Json] = [
            {"role": "system", "content": "Be brief. " * 50},
            {"role": "user", "content": "2 + 2?"},
        ]
        known = [{"input": items, "temperature": 1.0}, {"input": "Something else", "tools": []}]
        ask(recording, [(each, rollout()) for each in known], draws("4"))
        asked = {"input": [items[0], {"role": "user", "content": "2 + 3?"}], "temperature": 0.7}
        [(status, answer)] = ask(recording, [(asked, rollout())])
        assert status == 404
        assert f"{recording} has no answer to this request; the nearest" in answer["error"]["message"]
        assert 'input[1].content: "2 + 3?", recorded "2 + 2?"' in answer["error"]["message"]
        assert "temperature: 0.7, recorded 1" in answer["error"]["message"]

    def test_a_recording_that_is_not_there_is_named_at_the_start(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match=r"none\.jsonl can't be opened: No such file"):
            ask(tmp_path / "none.jsonl", [])

    def test_recording_needs_somebody_to_record(self, recording: Path) -> None:
        with pytest.raises(ConfigError, match="mode record_missing needs a model_server"):
            ask(recording, [], mode="record_missing")


class TestFile:
    def test_a_torn_line_is_passed_over_and_recorded_again(self, recording: Path) -> None:
        other = QUESTION | {"input": "?"}
        first, second = ask(recording, [(QUESTION, rollout()), (other, rollout())], draws("x"))
        whole = recording.read_bytes()
        recording.write_bytes(whole[:-20])
        assert [status for status, _ in ask(recording, [(QUESTION, rollout()), (other, rollout())])] == [
            200,
            404,
        ]
        again = ask(recording, [(other, rollout()), (QUESTION, rollout())], draws("x"))
        assert again[1] == first and again[0] != second
        assert ask(recording, [(other, rollout()), (QUESTION, rollout())]) == again

    def test_processes_that_record_at_once_lose_and_tear_nothing(self, tmp_path: Path) -> None:
        path, n, processes = tmp_path / "r.jsonl", 100, 3
        code = (
            "import asyncio, sys, pathlib\n"
            "from nemo_like.registry import load_file\n"
            f"Recording = load_file(pathlib.Path({str(FOLDER / 'recording.py')!r})).Recording\n"
            "async def main(me):\n"
            f"    with Recording(pathlib.Path({str(path)!r}), writes=True) as recording:\n"
            "        line = {'attempt': '', 'response': 'x' * 5000}\n"
            f"        lines = [line | {{'key': f'{{me}}-{{i}}'}} for i in range({n})]\n"
            "        await asyncio.gather(*map(recording.append, lines))\n"
            "asyncio.run(main(sys.argv[1]))\n"
        )
        running = [subprocess.Popen([sys.executable, "-c", code, str(i)]) for i in range(processes)]
        assert [process.wait(60) for process in running] == [0] * processes
        keys = {line["key"] for line in read_jsonl(path)}
        assert keys == {f"{p}-{i}" for p in range(processes) for i in range(n)}

    def test_no_secret_is_recorded(self, recording: Path) -> None:
        mcp = {"type": "mcp", "server_label": "x", "headers": {"Authorization": "Bearer s3cret"}}
        asked = QUESTION | {"api_key": "s3cret", "metadata": {"password": "s3cret"}}
        raw = {"output": [], "status": "completed", "tools": [mcp], "metadata": {"password": "s3cret"}}
        ask(recording, [(asked, rollout())], [{"raw": raw}])
        assert "s3cret" not in recording.read_text()
        assert ask(recording, [(asked, rollout())])[0][0] == 200
        [(_, answer)] = ask(recording, [(asked | {"input": "?"}, rollout())])
        assert "s3cret" not in json.dumps(answer)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
REQUESTS = st.fixed_dictionaries(
    {"input": st.text()}, optional={"temperature": st.floats(0, 2), "top_x": VALUES}
)


class TestKeys:
    @given(REQUESTS, st.text(max_size=5))
    def test_how_a_request_is_written_does_not_matter(self, params: Json, made_up: str) -> None:
        message = {"type": "message", "role": "user", "id": made_up, "status": "completed", "name": None}
        parts = [{"type": "input_text", "text": params["input"]}]
        written = {"stream": True, "top_k": None, **dict(reversed(params.items()))}
        asked = key(params)
        assert key(written | {"input": [message | {"content": parts}]}) == asked
        assert key(written | {"input": [message | {"content": params["input"]}]}) == asked

    @given(REQUESTS, REQUESTS)
    def test_requests_that_differ_have_another_key_and_a_distance(self, one: Json, other: Json) -> None:
        first, second = requests.canonical(one), requests.canonical(other)
        same = orjson.dumps(first, option=orjson.OPT_SORT_KEYS) == orjson.dumps(
            second, option=orjson.OPT_SORT_KEYS
        )
        assert (key(one) == key(other)) == same
        if same:
            assert requests.distance(first, second) == 0

    def test_calls_are_known_by_their_order_and_not_their_ids(self) -> None:
        def turn(a: str, b: str, first: str, second: str) -> Json:
            calls = [
                {"type": "function_call", "id": f"fc_{i}", "call_id": i, "name": "f", "arguments": "{}"}
                for i in (a, b)
            ]
            outputs = [
                {"type": "function_call_output", "call_id": i, "output": (i == a and "A") or "B"}
                for i in (first, second)
            ]
            return {"input": [*calls, *outputs]}

        assert key(turn("x", "y", "x", "y")) == key(turn("1", "2", "1", "2"))
        assert key(turn("x", "y", "x", "y")) != key(turn("x", "y", "y", "x"))

    def test_token_ids_of_earlier_turns_do_not_matter_and_what_was_said_does(self) -> None:
        item = {"type": "message", "role": "assistant", "content": "4"}
        asked = {"input": [item | {"generation_token_ids": [1], "weights_version": 3}]}
        assert key(asked) == key({"input": [item]}) != key({"input": [item | {"content": "5"}]})


def key(params: Json) -> str:
    return requests.key_of(requests.canonical(params))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("embedded", []),
        ("openai", ["+policy_base_url=x", "+policy_api_key=x", "+policy_model_name=x"]),
        ("litellm", ["+policy_model_name=x"]),
        ("hf", ["+policy_model_path=x"]),
    ],
)
def test_other_models_are_recorded_by_name(name: str, values: list[str], project: Project) -> None:
    config = load([f"model=replay/{name}", "+policy_recording=mine.jsonl", *values])
    found = {instance.name: instance for instance in config.instances}
    implementations = {instance.name: instance.implementation for instance in config.instances}
    assert implementations == {"policy_model": "replay_model", "recorded_model": f"{name}_model"}
    assert found["policy_model"].settings["model_server"]["name"] == "recorded_model"
    assert found["policy_model"].settings["recording"] == "mine.jsonl"


@pytest.mark.slow
@pytest.mark.parametrize("layout", [["num_workers=2"], ["colocate=false"]])
def test_a_run_is_repeated_exactly_without_the_model(project: Project, layout: list[str]) -> None:
    Path("script.yaml").write_text(
        "- tool_calls: [{name: get_weather, arguments: {city: Rome}}]\n- It is sunny.\n"
    )
    Path("record.yaml").write_text(RECORD_YAML)
    Path("replay.yaml").write_text(
        "config_paths: [responses_api_models/replay_model/configs/replay_model.yaml]\n"
    )
    [row] = read_jsonl(ROOT / "resources_servers/example_single_tool_call/data/example.jsonl")[:1]
    inputs = write_jsonl(Path("tasks.jsonl"), [row | {"number": i} for i in range(5)])
    environment = "resources_servers/example_single_tool_call/configs/example_single_tool_call.yaml"

    def run(config: str, output: str) -> dict[tuple[str, int], Json]:
        paths = f"+config_paths=[{config},{environment}]"
        files = (f"+input_jsonl_fpath={inputs}", f"+output_jsonl_fpath={output}", "+num_repeats=3")
        recording = ["+policy_recording=recording.jsonl"] if config == "replay.yaml" else []
        done = project.run("ng_collect_rollouts", paths, *files, *recording, *layout)
        assert done.returncode == 0, done.stderr
        return {
            (row["_ng_task_key"], row["_ng_rollout_index"]): row["response"] for row in project.rows(output)
        }

    recorded = run("record.yaml", "first.jsonl")
    assert len({response["id"] for response in recorded.values()}) == 15
    assert len(read_jsonl(Path("recording.jsonl"))) == 30
    assert run("replay.yaml", "second.jsonl") == recorded
