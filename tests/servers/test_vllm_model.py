"""The vLLM model server: what engines are sent, what becomes of their answers, and the tokens on the way."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from aiohttp import web

from nemo_like.asgi import call_app
from nemo_like.client import Client
from nemo_like.config import load
from nemo_like.errors import ConfigError
from nemo_like.registry import load_file

FOLDER = Path(__file__).parents[2] / "responses_api_models/vllm_model"
VLLMModel = load_file(FOLDER / "app.py").VLLMModel

Json = dict[str, Any]
Reply = tuple[int, Json | str]
RESPONSES, CHAT, COUNT = "/v1/responses", "/v1/chat/completions", "/v1/messages/count_tokens"
QUESTION: Json = {"input": "What is 2 + 2?"}
MESSAGES: Json = {"model": "x", "system": "Be brief.", "messages": [{"role": "user", "content": "2 + 2?"}]}
NEUTRAL = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
KEY = "sk-very-secret"


def completion(text: Any = "4", *, finish: str = "stop", choice: Json | None = None, **fields: Any) -> Json:
    message = {"role": "assistant", "content": text} | fields.pop("message", {})
    whole = {"index": 0, "message": message, "finish_reason": finish} | (choice or {})
    usage = {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [whole], "usage": usage} | fields


def logprobs(*ids: int, with_id: bool = False) -> Json:
    entries = [{"token": f"t{at}", "logprob": -at / 10, "bytes": None, "top_logprobs": []} for at in ids]
    if with_id:
        entries = [entry | {"id": at} for entry, at in zip(entries, ids, strict=True)]
    return {"content": entries}


def with_tokens(prompt: list[int], said: list[int], text: str = "4") -> Json:
    """A completion as vLLM tells its tokens."""
    return completion(text, choice={"token_ids": said, "logprobs": logprobs(*said)}, prompt_token_ids=prompt)


class Engine:
    """An engine on loopback: answers each path by a function of the body."""

    def __init__(self, chat: Callable[[Json], Reply] | Json, **paths: Callable[[Json], Reply]) -> None:
        answer = chat if callable(chat) else lambda _: (200, json.loads(json.dumps(chat)))
        self._answers = {"/chat/completions": answer} | {
            f"/{name.replace('_', '-')}": reply for name, reply in paths.items()
        }
        self.asked: list[Json] = []
        self.paths: list[str] = []
        self.keys: set[str | None] = set()
        self.headers: list[Mapping[str, str]] = []

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{path:.*}", self._reply)
        self._runner = web.AppRunner(app, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _reply(self, request: web.Request) -> web.Response:
        path, body = request.path.removeprefix("/v1"), await request.json()
        self.paths.append(path)
        self.keys.add(request.headers.get("authorization"))
        self.headers.append(request.headers)
        if path == "/chat/completions":
            self.asked.append(body)
        status, answer = self._answers.get(path, lambda _: (404, {"detail": "Not Found"}))(body)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=status, text=text, content_type="application/json")


def ask_all(
    engine: Engine, requests: list[Json], *, path: str = RESPONSES, rollout: str = "r", **settings: Any
) -> list[tuple[int, Any]]:
    async def run() -> list[tuple[int, Any]]:
        async with engine, Client({}) as client:
            given = {"base_url": engine.url, "api_key": KEY, "model": "m", "max_retries": 0} | settings
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            server = VLLMModel(config, name="policy_model", client=client)
            app, answers = server.app(), list[tuple[int, Any]]()
            async with server.lifespan():
                for body in requests:
                    headers = {"x-rollout-id": rollout}
                    status, answer = await call_app(app, path, orjson.dumps(body), headers)
                    answers.append((status, orjson.loads(answer)))
            return answers

    return asyncio.run(run())


def ask_at_once(engine: Engine, count: int) -> list[int]:
    """The statuses of so many requests in flight together."""

    async def run() -> list[int]:
        async with engine, Client({}) as client:
            given = {"base_url": engine.url, "model": "m"}
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            app = VLLMModel(config, name="policy_model", client=client).app()
            calls = [call_app(app, RESPONSES, orjson.dumps(QUESTION), {}) for _ in range(count)]
            return [status for status, _ in await asyncio.gather(*calls)]

    return asyncio.run(run())


def ask(engine: Engine, body: Json = QUESTION, **settings: Any) -> Json:
    [(status, answer)] = ask_all(engine, [body], **settings)
    assert status == 200, answer
    return answer


def refused(engine: Engine, body: Json = QUESTION, **settings: Any) -> Json:
    [(status, answer)] = ask_all(engine, [body], **settings)
    assert status >= 400
    assert KEY not in str(answer)
    return answer["error"]


def text_of(answer: Json) -> str:
    return answer["output"][-1]["content"][0]["text"]


class TestAsking:
    def test_what_the_models_generation_config_would_decide_is_sent_and_recorded(self):
        engine = Engine(completion())
        response = ask(engine, QUESTION | {"temperature": 0.5, "max_output_tokens": 9})
        asked = NEUTRAL | {"temperature": 0.5, "max_tokens": 9}
        messages = [{"role": "user", "content": "What is 2 + 2?"}]
        assert engine.asked == [{"model": "m", "messages": messages} | asked]
        assert engine.keys == {f"Bearer {KEY}"}
        assert (text_of(response), response["temperature"], response["top_p"]) == ("4", 0.5, 1.0)
        assert response["sampling"] == asked

    def test_what_is_sent_by_default_can_be_changed(self):
        engine = Engine(completion())
        ask(engine, sampling_defaults={"top_k": 20, "min_p": None})
        sent = engine.asked[0]
        assert (sent["top_k"], sent["repetition_penalty"]) == (20, 1.0) and "min_p" not in sent

    @staticmethod
    def picky(body: Json) -> Reply:
        unknown = [key for key in ("top_k", "min_p") if key in body]
        return (422, {"detail": f"Unexpected keys: {unknown[:1]}"}) if unknown else (200, completion())

    def test_a_parameter_that_the_engine_does_not_know_is_left_out_from_then_on(self):
        engine = Engine(self.picky)
        answers = ask_all(engine, [QUESTION, QUESTION])
        assert [status for status, _ in answers] == [200, 200]
        assert len(engine.asked) == 4
        assert set(answers[0][1]["sampling"]) == {"temperature", "top_p", "repetition_penalty"}

    def test_that_is_found_out_by_many_at_once(self):
        assert ask_at_once(Engine(self.picky), 8) == [200] * 8

    def test_a_parameter_that_the_request_names_is_refused_in_the_engines_words(self):
        engine = Engine(lambda _: (400, {"error": {"message": "top_k must be -1 or more, got -7"}}))
        assert refused(engine, QUESTION | {"top_k": -7})["message"] == "top_k must be -1 or more, got -7"

    def test_the_template_and_the_body_can_be_added_to(self):
        engine = Engine(completion())
        body = QUESTION | {"chat_template_kwargs": {"a": 1}}
        settings = {"chat_template_kwargs": {"a": 0, "enable_thinking": False}}
        ask(engine, body, extra_body={"top_k": None, "guided": {"x": 1}}, **settings)
        sent = engine.asked[0]
        assert sent["chat_template_kwargs"] == {"a": 1, "enable_thinking": False}
        assert sent["guided"] == {"x": 1} and "top_k" not in sent

    def test_a_seed_is_that_of_the_task_the_repeat_and_the_turn(self):
        def seeds(rollout: str, *requests: Json, **settings: Any) -> list[Any]:
            engine = Engine(completion())
            ask_all(engine, [*requests], rollout=rollout, **settings)
            return [body.get("seed") for body in engine.asked]

        later = {"input": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "4"}] * 2}
        first = seeds("task.0.1700000000.123456", QUESTION, later, seed=7)
        assert first == seeds("task.0.1800000000.654321", QUESTION, later, seed=7)
        others = [seeds("task.1.1700000000.123456", QUESTION, seed=7), seeds("task.0", QUESTION, seed=8)]
        assert len({*first, *(seed for [seed] in others)}) == 4
        assert seeds("task.0", QUESTION | {"seed": 3}, seed=7) == [3]
        assert seeds("task.0", QUESTION) == [None]

    @pytest.mark.parametrize(
        ("as_field", "sent"),
        [
            (True, {"content": "4", "reasoning_content": "Two and two.", "reasoning": "Two and two."}),
            (False, {"content": "<think>\nTwo and two.\n</think>\n\n4"}),
        ],
    )
    def test_earlier_reasoning_goes_back_as_the_engine_reads_it(self, as_field: bool, sent: Json):
        engine = Engine(completion())
        thought = {"type": "reasoning", "summary": [], "content": [{"type": "t", "text": "Two and two."}]}
        said = {"type": "message", "role": "assistant", "content": "4"}
        user = {"role": "user", "content": "And 3?"}
        ask(engine, {"input": [user, thought, said, user]}, uses_reasoning_parser=as_field)
        assert engine.asked[0]["messages"][1] == {"role": "assistant"} | sent

    @pytest.mark.parametrize(
        ("settings", "sent"),
        [
            (
                {"preserve_reasoning_in_assistant_content": True},
                [{"content": "<think>\nHm.\n</think>\n\n4"}, {"content": "<think>No.</think>5"}],
            ),
            ({"uses_interleaved_reasoning": False}, [{"content": "4"}, {"content": "5"}]),
        ],
    )
    def test_earlier_reasoning_can_be_kept_in_the_text_or_left_out(self, settings: Json, sent: list[Json]):
        engine = Engine(completion())
        told = [
            {"role": "assistant", "content": "4", "reasoning_content": "Hm.", "items": [{"type": "x"}]},
            {"role": "assistant", "content": "<think>No.</think>5"},
        ]
        user = {"role": "user", "content": "<think>?</think>"}
        ask(engine, {"messages": [user, *told, user]}, path=CHAT, **settings)
        messages = engine.asked[0]["messages"]
        assert messages == [user, *({"role": "assistant"} | each for each in sent), user]

    def test_headers_of_ones_own_go_along_and_are_told_to_nobody(self):
        engine = Engine(lambda _: (400, {"error": {"message": "no tenant-secret-1 here"}}))
        headers = {"X-Tenant": "tenant-secret-1", "Authorization": "Basic abc"}
        error = refused(engine, default_headers=headers)
        assert error["message"] == "no *** here"
        assert engine.headers[0]["x-tenant"] == "tenant-secret-1"
        assert (engine.keys, engine.headers[0]["x-rollout-id"]) == ({"Basic abc"}, "r")
        config = VLLMModel.config_class().from_mapping(
            {"base_url": engine.url, "model": "m", "default_headers": headers}, where="policy_model"
        )
        assert "tenant-secret-1" not in repr(config) and "Basic abc" not in repr(config)

    def test_the_servers_template_settings_yield_to_those_in_metadata_key_by_key(self):
        engine = Engine(completion())
        metadata = {
            "chat_template_kwargs": '{"style": {"b": 2}}',
            "extra_body": '{"min_p": 0.1, "guided": {"b": 2}}',
        }
        settings = {"chat_template_kwargs": {"style": {"a": 1, "b": 1}}, "extra_body": {"guided": {"c": 3}}}
        ask(engine, QUESTION | {"metadata": metadata}, **settings)
        sent = engine.asked[0]
        assert sent["chat_template_kwargs"] == {"style": {"a": 1, "b": 2}}
        assert (sent["guided"], sent["min_p"]) == ({"b": 2, "c": 3}, 0.1)
        assert "metadata" not in sent

    def test_template_settings_that_are_no_object_are_refused(self):
        body = {"messages": [{"role": "user", "content": "?"}], "chat_template_kwargs": "no"}
        error = refused(Engine(completion()), body, path=CHAT, chat_template_kwargs={"a": 1})
        assert error["message"] == 'chat_template_kwargs should be an object (got "no")'

    def test_a_developer_can_be_sent_as_the_system(self):
        engine = Engine(completion())
        body = {"input": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "?"}]}
        ask(engine, body, replace_developer_role_with_system=True)
        assert engine.asked[0]["messages"][0] == {"role": "system", "content": "Be brief."}

    def test_chat_completions_go_through_as_they_are(self):
        engine = Engine(completion("4", service_tier="x"))
        body = {"messages": [{"role": "user", "content": "?"}], "model": "other", "stop": ["."]}
        answer = ask(engine, body, path=CHAT)
        assert answer == completion("4", service_tier="x")
        assert engine.asked[0] == body | {"model": "m"} | NEUTRAL


class TestAnswers:
    @pytest.mark.parametrize(
        "message",
        [
            {"content": "4", "reasoning_content": "Two and two."},
            {"content": "4", "reasoning": "Two and two."},
            {"content": "<think>\nTwo and two.\n</think>\n\n4"},
        ],
    )
    def test_reasoning_is_an_item_of_its_own_however_it_comes(self, message: Json):
        thought, said = ask(Engine(completion(message=message)))["output"]
        assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Two and two.")
        assert said["content"][0]["text"] == "4"

    def test_tool_calls_are_items(self):
        call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
        [item] = ask(Engine(completion(None, finish="tool_calls", message={"tool_calls": [call]})))["output"]
        assert (item["type"], item["name"], item["call_id"]) == ("function_call", "add", "c1")

    def test_a_conversation_that_does_not_fit_is_an_empty_truncated_answer(self):
        message = "This model's maximum context length is 10 tokens. However, your prompt contains 11"
        engine = Engine(lambda _: (400, {"error": {"message": message}}))
        response = ask(engine)
        assert (response["status"], response["output"]) == ("incomplete", [])
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        choice = ask(engine, {"messages": [{"role": "user", "content": "?"}]}, path=CHAT)["choices"][0]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("", "length")
        error = refused(engine, on_context_overflow="error")
        assert (error["kind"], error["message"]) == ("context_overflow", message)

    def test_an_answer_is_as_long_as_there_is_room(self):
        def limited(body: Json) -> Reply:
            too_long = body["max_tokens"] > 6
            message = "This model's maximum context length is 10 tokens"
            return (400, {"error": {"message": message}}) if too_long else (200, completion())

        engine = Engine(limited, tokenize=lambda _: (200, {"tokens": [1, 2, 3, 4], "max_model_len": 10}))
        response = ask(engine, QUESTION | {"max_output_tokens": 100})
        assert (response["status"], response["sampling"]["max_tokens"]) == ("completed", 6)

    @pytest.mark.parametrize(
        "nonsense",
        ["<html>502</html>", "[]", {}, {"choices": []}, {"choices": ["4"]}, {"choices": [{"message": "4"}]}],
    )
    @pytest.mark.parametrize("with_ids", [False, True])
    def test_an_engine_that_answers_nonsense_is_a_bad_response(self, nonsense: Json | str, with_ids: bool):
        error = refused(Engine(lambda _: (200, nonsense)), return_token_id_information=with_ids)
        assert (error["kind"], error["status"]) == ("bad_response", 502)
        assert error["where"].startswith("http://127.0.0.1:")

    def test_a_wrong_key_is_told_in_the_engines_words_without_the_key(self):
        error = refused(Engine(lambda _: (401, {"error": {"message": f"no such key: {KEY}"}})))
        assert (error["kind"], error["message"]) == ("unauthorized", "no such key: ***")


class TestCounting:
    def test_tokens_are_counted_as_the_engines_template_has_them(self):
        rendered: list[Json] = []

        def tokenize(body: Json) -> Reply:
            rendered.append(body)
            return 200, {"count": 3, "max_model_len": 9, "tokens": [1, 2, 3]}

        engine = Engine(completion(), tokenize=tokenize)
        settings = {"chat_template_kwargs": {"think": False}}
        assert ask(engine, MESSAGES, path=COUNT, **settings) == {"input_tokens": 3}
        assert rendered[0]["messages"][0] == {"role": "system", "content": "Be brief."}
        assert (rendered[0]["model"], rendered[0]["chat_template_kwargs"]) == ("m", {"think": False})
        assert engine.asked == []

    def test_an_engine_that_can_not_is_a_404_that_says_so(self):
        error = refused(Engine(completion()), MESSAGES, path=COUNT)
        assert error["type"] == "not_found_error"
        assert "policy_model can't count tokens before it answers" in error["message"]


class TestTokens:
    def test_they_are_asked_for_and_stand_on_the_last_item(self):
        engine = Engine(with_tokens([1, 2], [3, 4]))
        response = ask(engine, return_token_id_information=True)
        assert engine.asked[0]["return_token_ids"] is engine.asked[0]["logprobs"] is True
        item = response["output"][-1]
        assert (item["prompt_token_ids"], item["generation_token_ids"]) == ([1, 2], [3, 4])
        assert item["generation_log_probs"] == [-0.3, -0.4]
        assert "logprobs" not in item["content"][0]

    def test_log_probabilities_that_were_asked_for_stay(self):
        body = QUESTION | {"include": ["message.output_text.logprobs"]}
        response = ask(Engine(with_tokens([1], [3])), body, return_token_id_information=True)
        assert response["output"][-1]["content"][0]["logprobs"][0]["logprob"] == -0.3

    def test_chat_has_them_on_the_message(self):
        body = {"messages": [{"role": "user", "content": "?"}]}
        answer = ask(Engine(with_tokens([1], [3])), body, path=CHAT, return_token_id_information=True)
        assert answer["choices"][0]["message"]["generation_token_ids"] == [3]
        assert "token_ids" not in answer["choices"][0] and "prompt_token_ids" not in answer

    def test_llama_cpp_is_asked_again_for_all_of_them_and_from_then_on_at_once(self):
        """It tells the log-probability of the second of three tokens; the others are candidates at their
        places, the last an unlikely one."""

        def tokenized(body: Json) -> Reply:
            return 200, {"tokens": {"<user>?": [1, 2], ".": [0]}.get(body.get("content"), [])}

        def candidates(body: Json) -> Reply:
            assert body["logit_bias"] == [[0, 1000.0]] and body["n_predict"] == 1
            at = len(body["prompt"])
            likely = [{"id": {2: 3, 4: 9}[at], "logprob": -0.3}]
            likely += [{"id": 3, "logprob": -9.0}] * (at == 4 and body["n_probs"] > 1000)
            return 200, {"completion_probabilities": [{"id": 0, "logprob": -20, "top_logprobs": likely}]}

        def whole(body: Json) -> Reply:
            details = {"__verbose": {"prompt": "<user>?", "tokens": [3, 4, 3]}} if "verbose" in body else {}
            choice = {"logprobs": logprobs(4, with_id=True)}
            return 200, completion(choice=choice, timings={}, usage={"prompt_tokens": 2}, **details)

        engine = Engine(
            whole,
            apply_template=lambda _: (200, {"prompt": "<user>?"}),
            tokenize=tokenized,
            completion=candidates,
        )
        item = ask(engine, return_token_id_information=True)["output"][-1]
        assert (item["prompt_token_ids"], item["generation_token_ids"]) == ([1, 2], [3, 4, 3])
        assert item["generation_log_probs"] == [-0.3, -0.4, -9.0]
        assert ["return_tokens" in body for body in engine.asked] == [False, True]

    def test_an_engine_without_them_is_an_error_that_says_so(self):
        error = refused(Engine(completion()), return_token_id_information=True)
        assert error["kind"] == "bad_response" and "return_token_ids" in error["message"]
        assert "return_token_id_information=false" in error["hint"]

    def test_ids_without_their_log_probabilities_are_an_error(self):
        torn = completion(choice={"token_ids": [1, 2], "logprobs": logprobs(1)}, prompt_token_ids=[0])
        error = refused(Engine(torn), return_token_id_information=True)
        assert error["message"] == "2 token ids, but log-probabilities of 1 tokens"

    def test_they_are_not_sent_back(self):
        engine = Engine(completion())
        said = {"role": "assistant", "content": "4", "generation_token_ids": [3], "prompt_token_ids": [1]}
        user = {"role": "user", "content": "?"}
        ask(engine, {"messages": [user, said, user]}, path=CHAT)
        assert engine.asked[0]["messages"][1] == {"role": "assistant", "content": "4"}


def conversation(past: list[int], said: list[int]) -> Json:
    """A request whose last answer carries its tokens."""
    user = {"role": "user", "content": "?"}
    answer = {"type": "message", "role": "assistant", "content": "4"}
    return {"input": [user, answer | {"prompt_token_ids": past, "generation_token_ids": said}, user]}


class TestPrefix:
    """Tokens 1 2 were the prompt, 3 4 9 the answer, of which the template makes 5 9; 7 8 is what follows."""

    PAST = conversation([1, 2], [3, 4, 9])

    @staticmethod
    def tokenized(body: Json) -> Reply:
        """As a template does it: 5 is the answer's text, 6 any other."""
        answer = 5 if any(message["content"] == "4" for message in body["messages"]) else 6
        ending = [] if body.get("add_generation_prompt") is False else [7, 8]
        return 200, {"tokens": [1, 2, answer, 9, *ending], "max_model_len": 99}

    def test_a_conversation_with_images_is_sent_as_it_is(self):
        image = {"type": "input_image", "image_url": "data:image/png;base64,aGk="}
        seen = {"role": "user", "content": [image]}
        engine = Engine(with_tokens([1, 2, 5, 9, 7, 8], [3]), tokenize=self.tokenized)
        ask(engine, {"input": [seen, *self.PAST["input"]]}, return_token_id_information=True)
        assert engine.paths == ["/chat/completions"]

    def test_a_prompt_that_goes_on_from_the_past_is_sent_as_it_is(self):
        engine = Engine(
            with_tokens([1, 2, 3, 4, 9, 7], [3]), tokenize=lambda _: (200, {"tokens": [1, 2, 3, 4, 9, 7]})
        )
        item = ask(engine, self.PAST, return_token_id_information=True)["output"][-1]
        assert "kv_transfer_params" not in engine.asked[0]
        assert "prompt_diverges_at" not in item

    def test_a_past_that_the_template_words_otherwise_is_sent_as_tokens(self):
        def taking(body: Json) -> Reply:
            return 200, with_tokens(body["kv_transfer_params"]["prompt_token_ids"], [3])

        engine = Engine(taking, tokenize=self.tokenized)
        item = ask(engine, self.PAST, return_token_id_information=True)["output"][-1]
        assert item["prompt_token_ids"] == [1, 2, 3, 4, 9, 7, 8]
        assert "prompt_diverges_at" not in item

    def test_where_the_engine_takes_no_tokens_it_is_told_where_the_prompt_leaves_the_past(self):
        engine = Engine(with_tokens([1, 2, 5, 9, 7, 8], [3]), tokenize=self.tokenized)
        answers = ask_all(engine, [self.PAST, self.PAST], return_token_id_information=True)
        assert [answer["output"][-1]["prompt_diverges_at"] for _, answer in answers] == [2, 2]
        # Found out once.
        assert ["kv_transfer_params" in body for body in engine.asked] == [True, False]

    def test_an_engine_that_can_not_be_asked_for_tokens_is_asked_as_it_is(self):
        engine = Engine(with_tokens([1, 2, 5, 9, 7, 8], [3]))
        answers = ask_all(engine, [self.PAST, self.PAST], return_token_id_information=True)
        assert [answer["output"][-1]["prompt_diverges_at"] for _, answer in answers] == [2, 2]
        assert engine.paths == ["/tokenize", "/chat/completions", "/chat/completions"]

    def test_it_can_be_left_as_the_template_has_it(self):
        engine = Engine(with_tokens([1, 2, 5, 9, 7, 8], [3]))
        item = ask(engine, self.PAST, return_token_id_information=True, keep_prompt_prefix=False)["output"][
            -1
        ]
        assert item["prompt_diverges_at"] == 2 and engine.paths == ["/chat/completions"]


class TestSettings:
    @pytest.mark.parametrize(
        ("settings", "complaint"),
        [
            ({"base_url": "localhost:8000"}, "should begin with http:// or https://"),
            ({"base_url": []}, "should name at least one URL"),
            ({"base_url": ["http://a/v1", "http://a/v1"]}, "names a URL twice"),
            ({"base_url": "http://a", "modle": "m"}, "did you mean 'model'?"),
            (
                {"base_url": "http://a", "is_responses_native": True},
                "there is no setting 'is_responses_native'",
            ),
            (
                {"base_url": "http://a", "use_completions_api": True},
                "there is no setting 'use_completions_api'",
            ),
        ],
    )
    def test_a_wrong_setting_is_named(self, settings: Json, complaint: str):
        with pytest.raises(ConfigError, match=r"policy_model: .*") as caught:
            VLLMModel.config_class().from_mapping({"model": "m"} | settings, where="policy_model")
        assert complaint in str(caught.value)

    @pytest.mark.parametrize("model", ["vllm", "vllm/for_training", "local_vllm"])
    def test_it_is_found_by_its_name(self, model: str):
        named = ("model_name",) if model == "local_vllm" else ("base_url", "api_key", "model_name")
        values = [f"+policy_{name}=x" for name in named]
        config = load([f"model={model}", "env=arithmetic", *values], default_paths=[])
        assert "policy_model" in {instance.name for instance in config.instances}


def test_a_rollout_stays_with_its_engine() -> None:
    async def run() -> None:
        async with Engine(completion()) as one, Engine(completion()) as other, Client({}) as client:
            given = {"base_url": [one.url, other.url], "model": "m"}
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            server = VLLMModel(config, name="policy_model", client=client)
            app = server.app()
            async with server.lifespan():
                for rollout in "abcd" * 3:
                    body = orjson.dumps({"input": rollout})
                    await call_app(app, RESPONSES, body, {"x-rollout-id": rollout})
        asked = [{body["messages"][0]["content"] for body in engine.asked} for engine in (one, other)]
        assert [len(engine.asked) for engine in (one, other)] == [6, 6]
        assert not asked[0] & asked[1]

    asyncio.run(run())


def test_a_rate_holds_requests_back_and_the_answer_says_for_how_long() -> None:
    """One a second: the first goes at once, the second a second after it."""
    start = time.monotonic()
    answers = ask_all(Engine(completion()), [QUESTION] * 2, requests_per_minute=60)
    took_s = time.monotonic() - start
    first_s, second_s = (answer.get("_ng_queued_s", 0.0) for _, answer in answers)
    assert took_s >= 1 and first_s == 0
    assert second_s > 0 or took_s > 1.5


def test_the_queues_of_all_engines_are_told_together() -> None:
    async def run() -> Any:
        async with Telling(3) as one, Telling(4) as other, Client({}) as client:
            given = {"base_url": [one.url, other.url], "model": "m"}
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            app = VLLMModel(config, name="policy_model", client=client).app()
            status, answer = await call_app(app, "/load", b"{}", {})
            assert status == 200
            return orjson.loads(answer)["queued"]

    assert asyncio.run(run()) == 7


class Telling(Engine):
    """An engine that tells how many requests wait in it."""

    def __init__(self, waiting: int) -> None:
        super().__init__(completion())
        self._waiting = waiting

    async def __aenter__(self) -> Self:
        app = web.Application()
        text = f'vllm:num_requests_waiting{{model_name="m"}} {self._waiting}.0\n'

        async def metrics(_: web.Request) -> web.Response:
            return web.Response(text=text)

        app.router.add_get("/metrics", metrics)
        self._runner = web.AppRunner(app, handle_signals=False)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self


CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}


class Speaking(Engine):
    """An engine that streams "4", and "2" only once `heard` is set."""

    def __init__(self) -> None:
        super().__init__(completion())
        self.heard = asyncio.Event()

    async def _reply(self, request: web.Request) -> web.StreamResponse:  # type: ignore[override]
        self.asked.append(await request.json())
        answer = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await answer.prepare(request)
        for delta, finish in (({"content": "4"}, None), ({"content": "2"}, None), ({}, "stop")):
            choice = {"index": 0, "delta": delta, "finish_reason": finish}
            await answer.write(b"data: " + orjson.dumps(CHUNK | {"choices": [choice]}) + b"\n\n")
            if delta == {"content": "4"}:
                await self.heard.wait()
        await answer.write(b"data: [DONE]\n\n")
        return answer


@pytest.mark.parametrize("api", ["chat", "responses"])
def test_a_stream_is_passed_on_while_the_engine_speaks(api: str) -> None:
    async def run() -> tuple[str, Json]:
        async with Speaking() as engine, Client({}) as client:
            given = {"base_url": engine.url, "model": "m"}
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            server = VLLMModel(config, name="policy_model", client=client)
            body = {"messages": [{"role": "user", "content": "?"}], "stream": True}
            pieces = (
                server.stream_chat_completions(body)
                if api == "chat"
                else server.stream_responses(QUESTION | {"stream": True})
            )
            told = ""
            async for piece in pieces:
                told += piece.decode()
                if '"4"' in told:
                    engine.heard.set()
            return told, engine.asked[0]

    told, asked = asyncio.run(run())
    assert asked["stream"] is True and asked["top_k"] == -1
    assert told.index('"4"') < told.index('"2"')
    assert told.endswith("data: [DONE]\n\n") if api == "chat" else "response.completed" in told


def test_a_stream_that_the_engine_has_no_room_for_is_cut_as_a_whole_answer_is() -> None:
    refusal = {"error": {"message": "This model's maximum context length is 8 tokens", "code": 400}}
    [(status, answer)] = ask_all(Engine(lambda _: (400, refusal)), [QUESTION])
    assert status == 200 and answer["status"] == "incomplete"

    async def run() -> str:
        async with Engine(lambda _: (400, refusal)) as engine, Client({}) as client:
            given = {"base_url": engine.url, "model": "m", "max_retries": 0}
            config = VLLMModel.config_class().from_mapping(given, where="policy_model")
            server = VLLMModel(config, name="policy_model", client=client)
            return b"".join([piece async for piece in server.stream_responses(QUESTION)]).decode()

    assert "response.incomplete" in asyncio.run(run())
