"""The scripted model: which turn it plays, what a turn can be, and what it says of a wrong script."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_like.asgi import ASGIApp, call_app
from nemo_like.client import Client
from nemo_like.config import load
from nemo_like.errors import ConfigError
from nemo_like.registry import load_file
from nemo_like.types import Json, Response

FOLDER = Path(__file__).parents[2] / "responses_api_models/scripted_model"
ScriptedModel = load_file(FOLDER / "app.py").ScriptedModel

RESPONSES, CHAT = "/v1/responses", "/v1/chat/completions"
USER: Json = {"role": "user", "content": "What is 2 + 2?"}


def model(script: Any, **settings: Any) -> ASGIApp:
    config = ScriptedModel.config_class().from_mapping({"script": script} | settings, where="policy_model")
    return ScriptedModel(config, name="policy_model", client=Client({})).app()


def post(app: ASGIApp, body: Json, rollout: str = "r", path: str = RESPONSES) -> tuple[int, Any]:
    status, answer = asyncio.run(call_app(app, path, orjson.dumps(body), {"x-rollout-id": rollout}))
    return status, orjson.loads(answer)


def ask(script: Any, *items: Json, **settings: Any) -> tuple[int, Any]:
    return post(model(script, **settings), {"input": [*items] or [USER]})


def text(answer: tuple[int, Any]) -> str:
    status, response = answer
    assert status == 200, response
    return Response(**response).text


def rollout_of(app: ASGIApp, rollout: str = "r", turns: int = 3) -> list[str]:
    """A conversation as an agent has it: each turn is shown, and each call is answered."""
    items, said = [USER], list[str]()
    for _ in range(turns):
        status, response = post(app, {"input": items}, rollout)
        assert status == 200, response
        calls = Response(**response).tool_calls
        outputs = [{"type": "function_call_output", "call_id": c.call_id, "output": "5"} for c in calls]
        items = items + response["output"] + outputs
        said.append(",".join(call.name for call in calls) or text((200, response)))
        if not calls:
            break
    return said


def test_turns_are_played_in_the_order_of_the_conversation() -> None:
    script = [{"tool_calls": [{"name": "add"}, {"name": "multiply"}]}, {"tool_calls": [{"name": "add"}]}, "5"]
    assert rollout_of(model(script)) == ["add,multiply", "add", "5"]


def test_a_restarted_model_goes_on_where_the_conversation_is() -> None:
    script = [{"reasoning": "Hm.", "tool_calls": [{"name": "add", "call_id": "c"}]}, "5"]
    before = post(model(script), {"input": [USER]})[1]["output"]
    output = {"type": "function_call_output", "call_id": "c", "output": "5"}
    assert text(ask(script, USER, *before, output)) == "5"


def test_examples_in_the_prompt_are_no_turns_of_the_rollout() -> None:
    example = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "2"}]
    assert text(ask(["4"], *example, USER)) == "4"


def test_after_its_last_turn_comes_the_default_or_an_error() -> None:
    said = {"role": "assistant", "content": "4"}
    assert text(ask(["4"], USER, said, default="Bye.")) == "Bye."
    status, answer = ask(["4"], USER, said)
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert answer["error"]["message"] == "the script has no turn 1 (counted from 0)"


def test_a_row_brings_its_own_script() -> None:
    own = json.dumps([{"when": {"contains": "3 + 3"}, "text": "6"}, "4"])
    app = model(["from the config"])
    for question, answer in [("3 + 3?", "6"), ("2 + 2?", "4")]:
        assert text(post(app, {"input": question, "metadata": {"script": own}})) == answer
    assert text(post(app, {"input": "2 + 2?", "metadata": {"other": "x"}})) == "from the config"


def test_a_rule_looks_at_all_that_the_model_was_told() -> None:
    script = [{"when": {"contains": "blue"}, "text": "rule"}, "first", "second"]
    call = {"type": "function_call", "call_id": "c", "name": "sky", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "It is blue."}
    assert text(ask(script, USER, call, output)) == "rule"
    assert text(post(model(script), {"input": "?", "instructions": "Say blue."})) == "rule"
    assert text(ask(script)) == "first"


def test_a_rule_can_be_for_one_turn() -> None:
    script = [{"when": {"turn": 1}, "text": "rule"}, {"tool_calls": [{"name": "add"}]}, "5"]
    assert rollout_of(model(script)) == ["add", "rule"]


def test_a_fault_ends_after_so_many_times_for_each_rollout() -> None:
    app = model([{"when": {"times": 2}, "fail": {"status": 503}}, "4"])
    for rollout in ("a", "b"):
        assert [post(app, {"input": "?"}, rollout)[0] for _ in range(4)] == [503, 503, 200, 200]


def test_the_attempts_of_a_rollout_count_together() -> None:
    app = model([{"when": {"times": 1}, "fail": {}}, "4"])
    attempts = ["k.0.1700000000.000001", "k.0.1700000009.500000", "k.1.1700000009.600000"]
    assert [post(app, {"input": "?"}, rollout)[0] for rollout in attempts] == [500, 200, 500]


def test_without_a_rollout_id_the_conversation_is_what_counts() -> None:
    app = model([{"when": {"times": 1}, "fail": {}}, "4"])
    asked = ["?", "!", "?", "!"]
    assert [post(app, {"input": question}, "")[0] for question in asked] == [500, 500, 200, 200]


def test_faults_by_chance_are_the_same_in_every_run() -> None:
    script = [{"when": {"rate": 0.3}, "fail": {"status": 429}}, "4"]

    def statuses(seed: int) -> list[int]:
        app = model(script, seed=seed)
        return [post(app, {"input": "?"}, f"r{at}")[0] for at in range(200)]

    once = statuses(0)
    assert 30 <= once.count(429) <= 90
    assert once == statuses(0) != statuses(1)


def test_a_second_try_may_pass_where_the_first_failed_by_chance() -> None:
    app = model([{"when": {"rate": 0.5}, "fail": {}}, "4"])
    assert {post(app, {"input": "?"})[0] for _ in range(20)} == {200, 500}


def test_a_turn_holds_reasoning_text_and_calls() -> None:
    call = {"name": "add", "arguments": {"a": 2, "b": 2}, "call_id": "c1"}
    torn = {"name": "add", "arguments": '{"a": 2'}
    _, response = ask([{"reasoning": "I add.", "text": "So:", "tool_calls": [call, torn]}])
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["reasoning", "message", "function_call", "function_call"]
    first, second = Response(**response).tool_calls
    assert (first.name, first.arguments, first.call_id) == ("add", {"a": 2, "b": 2}, "c1")
    assert second.arguments is None and second.call_id


def test_a_turn_can_refuse_and_be_cut_off() -> None:
    _, refused = ask([{"refusal": "I won't."}])
    assert refused["output"][0]["content"] == [{"type": "refusal", "refusal": "I won't."}]
    _, cut = ask([{"text": "The answer", "incomplete": "max_output_tokens"}])
    assert (cut["status"], cut["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


def test_tokens_are_words_unless_the_turn_says_otherwise() -> None:
    turn = {"reasoning": "Let me see.", "text": "It is 4."}
    usage = ask([turn])[1]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (5, 6, 11)
    assert usage["output_tokens_details"]["reasoning_tokens"] == 3
    usage = ask([turn | {"usage": {"output_tokens": 100}}])[1]["usage"]
    assert (usage["output_tokens"], usage["total_tokens"]) == (100, 105)
    assert ask([turn | {"usage": None}])[1]["usage"] is None


@pytest.mark.parametrize(
    ("fail", "status", "kind"),
    [
        ({}, 500, "model_error"),
        ({"status": 401}, 401, "unauthorized"),
        ({"status": 404}, 404, "not_found"),
        ({"status": 422}, 422, "bad_request"),
        ({"status": 429}, 429, "rate_limited"),
        ({"status": 400, "message": "maximum context length is 8192 tokens"}, 400, "context_overflow"),
        ({"kind": "timeout"}, 504, "timeout"),
        ({"kind": "unreachable"}, 502, "unreachable"),
        ({"kind": "model_error", "status": 503}, 503, "model_error"),
    ],
)
def test_a_fault_arrives_as_a_providers_would(fail: Json, status: int, kind: str) -> None:
    told, answer = ask([{"fail": fail}])
    assert (told, answer["error"]["status"], answer["error"]["kind"]) == (status, status, kind)
    assert answer["error"]["where"] == "policy_model"
    assert answer["error"]["message"] == fail.get("message", "the script says so")


def test_a_raw_turn_is_answered_as_it_is() -> None:
    assert ask([{"raw": {"output": "not a list"}}]) == (200, {"output": "not a list"})
    assert ask([{"raw": ["lies"]}]) == (200, ["lies"])
    status, answer = post(model([{"raw": {"output": 1}}]), {"messages": [USER]}, path=CHAT)
    assert (status, answer["error"]["kind"]) == (502, "bad_response")


def test_a_stalled_turn_ends_with_its_caller() -> None:
    async def run() -> None:
        app = model([{"stall_s": 3600}])
        async with asyncio.timeout(0.05), Client({}, {"policy_model": app}) as client:
            await client.post("policy_model", RESPONSES, {"input": "?"}, timeout_s=60)

    with pytest.raises(TimeoutError):
        asyncio.run(run())


def test_latency_and_stalls_add_up_before_an_error_too() -> None:
    async def run() -> float:
        loop = asyncio.get_running_loop()
        start = loop.time()
        app = model([{"stall_s": 0.02, "fail": {}}], latency_s=0.02)
        await call_app(app, RESPONSES, orjson.dumps({"input": "?"}), {})
        return loop.time() - start

    assert asyncio.run(run()) >= 0.04


def test_chat_completions_play_the_same_script() -> None:
    app = model([{"tool_calls": [{"name": "add", "call_id": "c"}]}, "4"])
    _, first = post(app, {"messages": [USER]}, path=CHAT)
    said = first["choices"][0]["message"]
    assert (first["choices"][0]["finish_reason"], said["tool_calls"][0]["id"]) == ("tool_calls", "c")
    answered = {"role": "tool", "tool_call_id": "c", "content": "4"}
    _, second = post(app, {"messages": [USER, said, answered]}, path=CHAT)
    assert second["choices"][0]["message"]["content"] == "4"


@pytest.mark.parametrize("name", ["script.jsonl", "script.yaml"])
def test_a_script_is_read_from_a_file(tmp_path: Path, name: str) -> None:
    turns = [{"when": {"contains": "3 + 3"}, "text": "6"}, "4"]
    file = tmp_path / name
    file.write_text("\n".join(map(json.dumps, turns)) if name.endswith("jsonl") else json.dumps(turns))
    assert text(ask(str(file))) == "4"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "script: can't be read: .*No such file"),
        ("[1", "script: can't be read: .*line 1"),
        ("a: 1", "script: should be a valid list"),
        ("[{txt: a}]", "script.0.txt"),
        ("[{when: {turn: -1}}]", "script.0.when.turn: should be greater than or equal to 0"),
    ],
)
def test_a_wrong_script_is_an_error_of_the_configuration(
    tmp_path: Path, content: str | None, complaint: str
) -> None:
    file = tmp_path / "script.yaml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=complaint):
        model(str(file))


@pytest.mark.parametrize("own", ["not json", '{"text": "no list"}', '[{"fail": {"status": 200}}]'])
def test_a_wrong_script_of_a_row_is_a_bad_request(own: str) -> None:
    status, answer = post(model([]), {"input": "?", "metadata": {"script": own}})
    assert (status, answer["error"]["kind"]) == (400, "bad_request")
    assert answer["error"]["message"].startswith("metadata.script: ")


def test_the_shipped_configuration_takes_a_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("script.yaml").write_text("[Hello.]")
    for arguments, said in [([], "This is a scripted answer."), (["+policy_script=script.yaml"], "Hello.")]:
        [instance] = load(["model=scripted", *arguments]).instances
        config = ScriptedModel.config_class().from_mapping(instance.settings, where=instance.name)
        app = ScriptedModel(config, name=instance.name, client=Client({})).app()
        assert text(post(app, {"input": "?"})) == said


@settings(deadline=None)
@given(st.lists(st.sampled_from([0, 1, 2]), max_size=8), st.booleans())
def test_every_turn_of_a_script_is_played_once_and_in_order(calls: list[int], thinks: bool) -> None:
    """Whatever the shape of the turns: with or without reasoning and text, with any number of calls."""
    script: list[Json] = [
        {"tool_calls": [{"name": f"t{at}"}] * max(1, n), "text": "." * n, "reasoning": "Hm." * thinks}
        for at, n in enumerate(calls)
    ]
    expected = [",".join([f"t{at}"] * max(1, n)) for at, n in enumerate(calls)] + ["end"]
    assert rollout_of(model([*script, "end"]), turns=len(expected)) == expected
