"""The Hugging Face model server: small models with random weights, and the embedded model's own weights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Awaitable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from nemo_like.client import Client
from nemo_like.errors import ConfigError, PartError
from nemo_like.registry import load_file
from nemo_like.sse import decoded

from ..conftest import Project, write_jsonl

FOLDER = Path(__file__).parents[2] / "responses_api_models/hf_model"
app = load_file(FOLDER / "app.py")
answer = load_file(FOLDER / "answer.py")
batcher = load_file(FOLDER / "batcher.py")

Json = dict[str, Any]

TEMPLATE = (
    "{% if tools %}tools:{% for t in tools %}{{ t.function.name }}{% endfor %}|{% endif %}"
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% for c in m.tool_calls or [] %}"
    "{{ c.function.name }}({{ c.function.arguments | tojson }}){% endfor %}|{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}{% if enable_thinking %}<think>{% endif %}"
)
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
QUESTIONS = [
    "7",
    "What is 2 + 3?",
    "Amara has 12 apples and gives 4 of them to Ben. How many?",
    "Solve: 5*3=",
]

# On import, of a C extension that transformers' tokenizers bring along.
noisy = pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")


def save_model(folder: Path, *, seed: int = 0, template: str | None = TEMPLATE, **shape: Any) -> str:
    from ..sequence_processing import tiny

    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    model = tiny.model(seed=seed, **shape)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same model with other weights."""
    return save_model(tmp_path_factory.mktemp("trained"), seed=1)


class Model:
    """The server of a test, on an event loop of its own that lasts as long."""

    def __init__(self, path: str, **settings: Any) -> None:
        given = {"model": path, "return_token_id_information": True} | settings
        config = app.HFConfig.from_mapping(given, where="policy_model")
        self.server = app.HFModel(config, name="policy_model", client=Client({}))
        self.runner = asyncio.Runner()
        self.lifespan = self.server.lifespan()

    def run(self, work: Awaitable[Any]) -> Any:
        async def wait() -> Any:
            return await work

        return self.runner.run(wait())

    def __enter__(self) -> Model:
        try:
            self.run(self.lifespan.__aenter__())
        except BaseException:
            self.runner.close()
            raise
        self.server.state = "ready"
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

    def reload(self, **body: Any) -> Json:
        return self.run(self.server.reload_weights(body))


def request(messages: list[Json] | str, **body: Any) -> Json:
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    return {"messages": messages, "temperature": 0, "max_tokens": 12} | body


@pytest.fixture(scope="module")
def model(tiny_path: str) -> Iterator[Model]:
    with Model(tiny_path) as model:
        yield model


def message_of(completion: Json) -> Json:
    return completion["choices"][0]["message"]


def greedy(path: str, text: str, tokens: int = 12) -> tuple[list[int], list[float]]:
    """What a model says greedily to one prompt, and the log-probabilities: the slow obvious version."""
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)
    return greedy_after(path, tokenizer(f"user:{text}|assistant:")["input_ids"], tokens)


def greedy_after(path: str, ids: list[int], tokens: int = 12) -> tuple[list[int], list[float]]:
    """The same of a prompt's tokens."""
    import torch
    import transformers

    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path)
    plain: Any = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    said: list[int] = []
    logprobs: list[float] = []
    while len(said) < tokens and said[-1:] != [tokenizer.eos_token_id]:
        with torch.inference_mode():
            scores = plain(torch.tensor([ids + said])).logits[0, -1].log_softmax(0)
        said.append(int(scores.argmax()))
        logprobs.append(float(scores.max()))
    return said, logprobs


@noisy
@pytest.mark.slow
class TestAnswers:
    def test_requests_asked_together_are_answered_as_if_alone(self, model: Model, tiny_path: str) -> None:
        before = model.server._batcher.batches
        completions = model.ask_all([request(text) for text in QUESTIONS * 2])
        assert model.server._batcher.batches == before + 1
        for text, completion in zip(QUESTIONS * 2, completions, strict=True):
            tokens, logprobs = greedy(tiny_path, text)
            message = message_of(completion)
            assert message["generation_token_ids"] == tokens
            assert message["generation_log_probs"] == pytest.approx(logprobs, abs=1e-4)
            decode = model.server._model.decode
            assert decode(message["generation_token_ids"]) == message["content"]
            assert decode(message["prompt_token_ids"]) == f"user:{text}|assistant:"
            assert completion["usage"]["completion_tokens"] == len(tokens)

    def test_a_sample_depends_on_its_seed_and_not_on_its_company(self, model: Model) -> None:
        seeded = request("What is 2 + 3?", temperature=1.0, seed=7)
        [alone] = model.ask_all([seeded])
        others = [request(text, temperature=0.5, top_p=0.8, top_k=20, seed=1) for text in QUESTIONS]
        same, *_, again, other = model.ask_all([seeded, *others, seeded, seeded | {"seed": 8}])
        tokens = [message_of(each)["generation_token_ids"] for each in (alone, same, again, other)]
        assert tokens[0] == tokens[1] == tokens[2] != tokens[3]

    def test_without_a_seed_samples_differ(self, model: Model) -> None:
        completions = model.ask_all([request("7", temperature=1.0)] * 4)
        assert len({str(message_of(each)["generation_token_ids"]) for each in completions}) == 4

    def test_top_k_and_top_p_and_min_p_leave_the_likeliest(self, model: Model) -> None:
        [likeliest] = model.ask_all([request("7")])
        limits: list[Json] = [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}]
        limited = model.ask_all([request("7", temperature=1.0, **limit) for limit in limits])
        assert {str(message_of(each)["content"]) for each in limited} == {message_of(likeliest)["content"]}

    def test_a_request_without_a_bound_has_the_configured_one(self, tiny_path: str) -> None:
        with Model(tiny_path, max_output_tokens=3) as model:
            completion = model.ask("7", max_tokens=None, temperature=0.5, seed=0)
        assert completion["usage"]["completion_tokens"] == 3
        assert completion["choices"][0]["finish_reason"] == "length"

    def test_a_stop_text_ends_the_answer_and_its_tokens_stay(self, model: Model) -> None:
        whole = message_of(model.ask("What is 2 + 3?"))
        stop = whole["content"][4:6]
        stopped = model.ask("What is 2 + 3?", stop=[stop, "never said"])
        message = message_of(stopped)
        assert message["content"] == whole["content"].partition(stop)[0]
        assert stopped["choices"][0]["finish_reason"] == "stop"
        said = message["generation_token_ids"]
        assert said == whole["generation_token_ids"][: len(said)]
        assert len(said) < len(whole["generation_token_ids"])
        assert stop in model.server._model.decode(said)

    def test_logprobs_come_with_as_many_candidates_as_asked_for(self, model: Model) -> None:
        one, three, none = model.ask_all(
            [request("7", logprobs=True), request("7", logprobs=True, top_logprobs=3), request("7")]
        )
        content = three["choices"][0]["logprobs"]["content"]
        assert [entry["id"] for entry in content] == message_of(three)["generation_token_ids"]
        assert all(entry["top_logprobs"][0]["logprob"] == entry["logprob"] for entry in content)
        assert {len(entry["top_logprobs"]) for entry in content} == {3}
        assert one["choices"][0]["logprobs"]["content"][0]["top_logprobs"] == []
        assert none["choices"][0]["logprobs"] is None

    def test_log_probabilities_can_be_those_of_what_was_sampled_from(self, tiny_path: str) -> None:
        asked = request("7", temperature=0.5, top_k=2, seed=1, logprobs=True, top_logprobs=3)
        with Model(tiny_path, logprobs_mode="processed_logprobs") as model:
            processed = model.ask_all([asked])[0]["choices"][0]["logprobs"]["content"]
        with Model(tiny_path) as model:
            raw = model.ask_all([asked])[0]["choices"][0]["logprobs"]["content"]
        assert [entry["id"] for entry in raw] == [entry["id"] for entry in processed]
        for old, new in zip(raw, processed, strict=True):
            first, second, _ = (2 * top["logprob"] for top in old["top_logprobs"])
            total = math_logaddexp(first, second)
            assert new["logprob"] == pytest.approx(2 * old["logprob"] - total, abs=1e-3)

    def test_a_conversation_that_leaves_no_room_is_a_context_overflow(self, model: Model) -> None:
        with pytest.raises(PartError, match="model's context 192") as refused:
            model.ask("apples " * 300)
        assert refused.value.kind == "context_overflow"

    def test_an_answer_ends_with_the_context(self, tiny_path: str) -> None:
        with Model(tiny_path, context_tokens=30) as model:
            completion = model.ask("7", max_tokens=4000, temperature=0.5, seed=0)
        assert completion["usage"]["total_tokens"] == 30
        assert completion["choices"][0]["finish_reason"] == "length"

    def test_a_request_that_is_given_up_makes_room_at_once(self, tiny_path: str) -> None:
        async def give_up_and_ask(server: Any) -> Json:
            endless = request("7", max_tokens=150, temperature=1.0, seed=0)
            given_up = [asyncio.ensure_future(server.chat_completions(endless)) for _ in range(4)]
            await server._batcher.busy.wait()
            for each in given_up:
                each.cancel()
            await asyncio.gather(*given_up, return_exceptions=True)
            return await server.chat_completions(request("7"))

        with Model(tiny_path, max_batch_rows=1) as model:
            assert model.run(give_up_and_ask(model.server))["usage"]["completion_tokens"]
            # The first was running, or over already; those that waited were never begun.
            assert model.server._batcher.batches in (2, 3)

    def test_it_stops_although_requests_are_being_answered(self, tiny_path: str) -> None:
        async def stop_busy(server: Any) -> list[Any]:
            endless = request("7", max_tokens=150, temperature=1.0, seed=0)
            async with server.lifespan():
                busy = [asyncio.ensure_future(server.chat_completions(endless)) for _ in range(6)]
                await server._batcher.busy.wait()
            return await asyncio.gather(*busy, return_exceptions=True)

        answers = asyncio.run(stop_busy(Model(tiny_path, max_batch_rows=2).server))
        # The two of the first batch may have been answered by then.
        assert sum(isinstance(each, asyncio.CancelledError) for each in answers) >= 4


def math_logaddexp(a: float, b: float) -> float:
    import math

    return max(a, b) + math.log1p(math.exp(-abs(a - b)))


@noisy
@pytest.mark.slow
class TestConversations:
    def prompt(self, model: Model, messages: list[Json], **body: Any) -> str:
        message = message_of(model.ask(messages, max_tokens=1, **body))
        return model.server._model.decode(message["prompt_token_ids"])

    def test_tools_and_calls_go_into_the_template(self, model: Model) -> None:
        call = {
            "id": "1",
            "type": "function",
            "function": {"name": "get_weather", "arguments": '{"city": "Rome"}'},
        }
        messages: list[Json] = [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "Sunny"},
        ]
        said = 'system:Be brief.|assistant:get_weather({"city": "Rome"})|tool:Sunny|assistant:'
        assert self.prompt(model, messages, tools=[WEATHER]) == f"tools:get_weather|{said}"
        assert self.prompt(model, messages, tools=[WEATHER], tool_choice="none") == said

    def test_a_template_without_a_place_for_tools_says_so(self, tiny_path: str, tmp_path: Path) -> None:
        template = tmp_path / "plain.jinja"
        template.write_text(TEMPLATE.partition("{% endif %}")[2])
        with (
            Model(tiny_path, chat_template=str(template)) as model,
            pytest.raises(PartError, match="no place for tools"),
        ):
            model.ask("7", tools=[WEATHER])

    def test_what_a_template_refuses_is_a_bad_request(self, tiny_path: str, tmp_path: Path) -> None:
        template = tmp_path / "strict.jinja"
        template.write_text("{{ raise_exception('only one message') }}")
        with (
            Model(tiny_path, chat_template=str(template)) as model,
            pytest.raises(PartError, match="only one message") as refused,
        ):
            model.ask("7")
        assert refused.value.kind == "bad_request"

    def test_thinking_that_the_prompt_opens_is_reasoning(self, model: Model) -> None:
        asked = request("7", chat_template_kwargs={"enable_thinking": True})
        message = message_of(model.ask_all([asked])[0])
        assert message["reasoning_content"] and not message["content"]

    def test_the_responses_api_has_tokens_and_version_on_its_last_item(self, model: Model) -> None:
        params = {"input": "What is 2 + 3?", "temperature": 0, "max_output_tokens": 6}
        response = model.run(model.server.responses(params))
        last = response["output"][-1]
        assert len(last["generation_token_ids"]) == len(last["generation_log_probs"]) == 6
        assert response["weights_version"] == last["weights_version"] == 0
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        assert model.run(model.server.count_tokens(params)) == response["usage"]["input_tokens"]

    @pytest.mark.parametrize(
        ("body", "said"),
        [
            ({"messages": []}, "messages: List should have at least 1 item"),
            ({"temperature": -1}, "temperature: should be greater than or equal to 0"),
            ({"n": 2}, "n is not supported"),
            ({"min_tokens": 3}, "min_tokens is not supported"),
            ({"bad_words": ["a"]}, "bad_words is not supported"),
            ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
            ({"response_format": {"type": "json_schema"}}, "response_format json_schema is not supported"),
            ({"tool_choice": "required"}, "tool_choice: should be auto or none"),
            ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "such as image_url"),
        ],
    )
    def test_what_it_cannot_do_is_refused_with_the_reason(self, model: Model, body: Json, said: str) -> None:
        with pytest.raises(PartError) as refused:
            model.ask_all([request("7") | body])
        assert refused.value.kind == "bad_request"
        assert said in refused.value.message


@noisy
@pytest.mark.slow
class TestWeights:
    def test_reloaded_weights_answer_from_then_on(self, tiny_path: str, trained_path: str) -> None:
        with Model(tiny_path) as model:
            before = model.ask("7")
            assert model.reload(path=trained_path) == {"version": 1, "path": trained_path}
            after = model.ask("7")
            assert model.server.health()["weights"] == {"version": 1, "path": trained_path}
            assert model.reload(path=tiny_path, version=120)["version"] == 120
            again = model.ask("7")
        assert [each["weights_version"] for each in (before, after, again)] == [0, 1, 120]
        tokens = [message_of(each)["generation_token_ids"] for each in (before, after, again)]
        assert tokens == [greedy(path, "7")[0] for path in (tiny_path, trained_path, tiny_path)]

    def test_a_batch_that_runs_ends_with_the_weights_it_began_with(
        self, tiny_path: str, trained_path: str
    ) -> None:
        async def reload_meanwhile(server: Any) -> tuple[Json, Json]:
            long = asyncio.ensure_future(server.chat_completions(request("7", max_tokens=100)))
            await server._batcher.busy.wait()
            reloading = asyncio.ensure_future(server.reload_weights({"path": trained_path}))
            old = await long
            await reloading
            return old, await server.chat_completions(request("7"))

        with Model(tiny_path) as model:
            old, new = model.run(reload_meanwhile(model.server))
        assert (old["weights_version"], new["weights_version"]) == (0, 1)
        assert message_of(old)["generation_token_ids"] == greedy(tiny_path, "7", 100)[0]
        assert message_of(new)["generation_token_ids"] == greedy(trained_path, "7")[0]

    def test_weights_that_do_not_fit_are_refused_and_the_old_ones_stay(
        self, tiny_path: str, tmp_path: Path
    ) -> None:
        (tmp_path / "empty").mkdir()
        other = save_model(tmp_path / "other", vocabulary=400)
        broken = save_model(tmp_path / "broken")
        (tmp_path / "broken/model.safetensors").write_bytes(b"torn")
        refusals = {
            str(tmp_path / "nowhere"): "there is no folder",
            str(tmp_path / "empty"): "can't be loaded",
            other: r"its weights .* are \[400, 32\], and not \[340, 32\]",
            broken: "can't be loaded",
        }
        with Model(tiny_path) as model:
            before = model.ask("7")
            for path, said in refusals.items():
                with pytest.raises(PartError, match=rf"{said}.*version 0 from .* stays") as refused:
                    model.reload(path=path)
                assert refused.value.kind == "bad_request"
            with pytest.raises(PartError, match="should be"):
                model.reload(folder=tiny_path)
            after = model.ask("7")
        assert message_of(before) == message_of(after)

    def test_a_model_that_cannot_be_loaded_is_named(self, tiny_path: str, tmp_path: Path) -> None:
        for path, said in (
            (str(tmp_path / "nowhere"), "there is no such folder"),
            (save_model(tmp_path / "base", template=None), "has no chat template"),
        ):
            with pytest.raises(ConfigError, match=said), Model(path):
                pass
        with pytest.raises(ConfigError, match="num_workers: should be 1"):
            Model(tiny_path, num_workers=2)


@noisy
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["colocate=true", "colocate=false"])
def test_a_run_collects_rollouts_with_token_ids(project: Project, tiny_path: str, layout: str) -> None:
    params = {"input": "What is 2 + 3?", "max_output_tokens": 5}
    write_jsonl(Path("tasks.jsonl"), [{"responses_create_params": params, "expected_answer": "5"}])
    setting = "+policy_model.responses_api_models.hf_model.return_token_id_information=true"
    arguments = ("model=hf", "env=arithmetic", layout, f"+policy_model_path={tiny_path}", setting)
    files = ("+input_jsonl_fpath=tasks.jsonl", "+output_jsonl_fpath=r.jsonl", "+num_repeats=3")
    done = project.run("ng_collect_rollouts", *arguments, *files, timeout_s=110)
    assert done.returncode == 0, done.stderr
    rows = project.rows("r.jsonl")
    assert len(rows) == 3
    for row in rows:
        last = row["response"]["output"][-1]
        # Its end may be drawn before, by chance.
        assert 0 < len(last["generation_token_ids"]) == len(last["generation_log_probs"]) <= 5
        assert row["response"]["weights_version"] == 0


class TestReading:
    def test_thinking_and_calls_are_told_from_text(self) -> None:
        call = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>'
        text = f"<think>\nhm {call}\n</think>\n\nLet me see.\n{call}\n{call}"
        message = answer.read_answer(text, thinking=False, tools=True)
        assert message["reasoning_content"] == f"hm {call}"
        assert message["content"] == "Let me see."
        functions = [each["function"] for each in message["tool_calls"]]
        assert functions == [{"name": "f", "arguments": '{"a": 1}'}] * 2
        assert len({each["id"] for each in message["tool_calls"]}) == 2

    @pytest.mark.parametrize(
        ("text", "thinking", "reasoning", "content"),
        [
            ("yes", False, None, "yes"),
            ("hm</think>yes", False, "hm", "yes"),
            ("hm</think>yes", True, "hm", "yes"),
            ("hm", True, "hm", None),
            ("<think>hm", False, "hm", None),
            ("say <think>hm</think>", False, None, "say <think>hm</think>"),
            ("<think></think>yes", False, None, "yes"),
            ("", False, None, ""),
        ],
    )
    def test_where_thinking_begins_and_ends(
        self, text: str, thinking: bool, reasoning: str | None, content: str | None
    ) -> None:
        message = answer.read_answer(text, thinking=thinking, tools=False)
        assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)

    @pytest.mark.parametrize(
        "text",
        [
            '<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>',
            '<tool_call>{"arguments": {}}</tool_call>',
            '<tool_call>{"name": "f"}',
            '{"name": "f", "arguments": {}}',
        ],
    )
    def test_what_is_no_call_stays_text(self, text: str) -> None:
        message = answer.read_answer(text, thinking=False, tools=True)
        assert (message["content"], "tool_calls" in message) == (text, False)

    def test_no_call_is_read_where_no_tool_was_shown(self) -> None:
        text = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
        assert answer.read_answer(text, thinking=False, tools=False)["content"] == text


ENDED = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def ended_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("ended"), template=ENDED)


@noisy
class TestPrefix:
    """What an earlier turn said stays the tokens that it was, whatever the template makes of its text."""

    @staticmethod
    def second(first: Json, said: list[int], text: str = "4") -> Json:
        """The request after an answer of those tokens."""
        told = {"prompt_token_ids": message_of(first)["prompt_token_ids"], "generation_token_ids": said}
        earlier = {"role": "assistant", "content": text} | told
        return request([{"role": "user", "content": "7"}, earlier, {"role": "user", "content": "8"}])

    def test_the_next_prompt_begins_with_the_tokens_of_the_step_before(self, ended_path: str) -> None:
        with Model(ended_path) as model:
            first = model.ask("7")
            end = model.server._model.tokenizer.eos_token_id
            # Tokens that no tokenizer would take for "4", ended as the template ends it.
            said = [70, 71, 72, end]
            completion = model.run(model.server.chat_completions(self.second(first, said)))
            message = message_of(completion)
            past = message_of(first)["prompt_token_ids"] + said
            assert message["prompt_token_ids"][: len(past)] == past
            rest = model.server._model.tokenizer.decode(message["prompt_token_ids"][len(past) :])
            assert rest == "user:8<|end|>assistant:"
            assert "prompt_diverges_at" not in completion
            tokens, logprobs = greedy_after(ended_path, message["prompt_token_ids"])
            assert message["generation_token_ids"] == tokens
            assert message["generation_log_probs"] == pytest.approx(logprobs, abs=1e-4)

    def test_a_past_that_can_not_be_kept_is_told(self, ended_path: str) -> None:
        with Model(ended_path) as model:
            first = model.ask("7")
            # It ended with what the template does not put there; of another model; not wanted.
            for said, settings in (
                ([70, 71], {}),
                ([70, 99_999], {}),
                ([70, 0], {"keep_prompt_prefix": False}),
            ):
                with Model(ended_path, **settings) as other:
                    completion = other.run(other.server.chat_completions(self.second(first, said)))
                at = len(message_of(first)["prompt_token_ids"])
                assert completion["prompt_diverges_at"] == at
                ids = message_of(completion)["prompt_token_ids"]
                assert ids[:at] == message_of(first)["prompt_token_ids"] and ids[at] != said[0]

    def test_a_template_that_refuses_what_is_asked_beside_costs_no_answer(
        self, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        refuses = "{% if not add_generation_prompt %}{{ raise_exception('no') }}{% endif %}"
        path = save_model(tmp_path_factory.mktemp("refuses"), template=ENDED + refuses)
        with Model(path) as model:
            first = model.ask("7")
            completion = model.run(model.server.chat_completions(self.second(first, [70, 0])))
        assert completion["prompt_diverges_at"] == len(message_of(first)["prompt_token_ids"])

    @pytest.mark.parametrize("streamed", [False, True])
    def test_where_it_leaves_the_past_stands_on_the_item(self, ended_path: str, streamed: bool) -> None:
        user = {"role": "user", "content": "7"}
        said = {"type": "message", "role": "assistant", "content": "4", "generation_token_ids": [70, 71]}
        with Model(ended_path) as model:
            prompt = message_of(model.ask("7"))["prompt_token_ids"]
            params = {"input": [user, said | {"prompt_token_ids": prompt}, user], "temperature": 0}
            params |= {"max_output_tokens": 4}
            if streamed:
                response = model.run(last_event(model.server.stream_responses(params)))["response"]
            else:
                response = model.run(model.server.responses(params))
        assert response["output"][-1]["prompt_diverges_at"] == len(prompt)
        assert response["output"][-1]["weights_version"] == 0


async def last_event(pieces: AsyncIterable[bytes]) -> Json:
    return [event async for event in decoded(pieces)][-1]


PIECES = ["<think>", "</think>", "hm ", "so 4", "\n\n", " ", "STOP", "ST", "é", "<tool", "<"]
CALL = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'


class TestSpeaking:
    @example(parts=["\n\n", "hm ", CALL, "<think>"], sizes=[1], thinking=False, tools=True, stops=False)
    @given(
        parts=st.lists(st.sampled_from([*PIECES, CALL]), max_size=8),
        sizes=st.lists(st.integers(1, 5), min_size=1),
        thinking=st.booleans(),
        tools=st.booleans(),
        stops=st.booleans(),
    )
    def test_what_is_said_as_the_text_grows_is_what_is_said_of_the_whole(
        self, parts: list[str], sizes: list[int], thinking: bool, tools: bool, stops: bool
    ) -> None:
        text = "".join(parts)
        # A lone tag in a later place comes too late for a stream, and so does one behind white space.
        assume(thinking or "</think>" not in text or text.startswith("<think>"))
        assume(not (thinking and "<think>" in text))
        stop = ["STOP"] if stops else []
        whole = text[: text.find("STOP")] if stops and "STOP" in text else text
        message = answer.read_answer(whole, thinking=thinking, tools=tools)
        spoken = answer.Spoken(thinking=thinking, tools=tools, stop=stop)
        said = {"reasoning_content": "", "content": ""}
        for end in range(0, len(text) + 1, sizes[0]):
            for delta in spoken.feed(text[:end]):
                for key, piece in delta.items():
                    said[key] += piece
        rest = spoken.rest(message)
        for key in said:
            told = said[key] + rest.get(key, "")
            # White space before a call may have been said before it was known that a call follows.
            assert (
                told.strip() == (message.get(key) or "").strip()
                if tools
                else told == (message.get(key) or "")
            )
        assert rest.get("tool_calls") == message.get("tool_calls")


@noisy
class TestStreams:
    @pytest.mark.parametrize("sampled", [False, True])
    def test_a_stream_says_what_the_whole_answer_says(self, model: Model, sampled: bool) -> None:
        bodies = [
            request(question, temperature=float(sampled), seed=5, max_tokens=20 + n)
            for n, question in enumerate(QUESTIONS)
        ]

        async def ask() -> tuple[list[Json], list[list[Json]]]:
            streams = [model.server.stream_chat_completions(body) for body in bodies]
            told = await asyncio.gather(*map(chunks_in, streams))
            return [await model.server.chat_completions(body) for body in bodies], told

        for whole, chunks in zip(*model.run(ask()), strict=True):
            deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
            message = message_of(whole)
            assert "".join(delta.get("content", "") for delta in deltas) == message["content"]
            [tokens] = [delta["generation_token_ids"] for delta in deltas if "generation_token_ids" in delta]
            assert tokens == message["generation_token_ids"]
            assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]

    def test_the_stream_of_responses_ends_with_the_same_response(self, model: Model) -> None:
        params = {"input": "What is 2 + 3?", "temperature": 0, "max_output_tokens": 6}

        async def ask() -> tuple[Json, list[Json]]:
            events = decoded(model.server.stream_responses(params))
            return await model.server.responses(params), [event async for event in events]

        whole, events = model.run(ask())
        kinds = [event["type"] for event in events]
        assert "response.output_text.delta" in kinds
        assert [event["sequence_number"] for event in events] == [*range(len(events))]
        last = events[-1]["response"]
        for told in (last, whole):
            told["output"][-1].pop("id")
        for key in ("output", "usage", "status", "incomplete_details", "weights_version"):
            assert last[key] == whole[key]

    def test_pieces_come_while_the_batch_runs_and_a_caller_that_goes_away_ends_its_row(
        self, tiny_path: str
    ) -> None:
        async def listen_and_leave(server: Any) -> bool:
            endless = request("7", max_tokens=150, temperature=1.0, seed=0)
            async with aclosing(server.stream_chat_completions(endless)) as stream:
                await anext(stream)
                return server._batcher.busy.is_set()

        with Model(tiny_path, max_batch_rows=1) as model:
            # A machine that is busy elsewhere may have drawn all before anybody could listen.
            assert any(model.run(listen_and_leave(model.server)) for _ in range(20))
            assert model.ask("7")["usage"]["completion_tokens"]

    def test_what_is_wrong_is_said_before_the_first_piece(self, model: Model) -> None:
        with pytest.raises(PartError) as refused:
            model.run(chunks_in(model.server.stream_chat_completions(request("7", n=2))))
        assert refused.value.kind == "bad_request"


async def chunks_in(stream: AsyncIterable[bytes]) -> list[Json]:
    return [chunk async for chunk in decoded(stream)]


SIZES = st.lists(
    st.builds(batcher.Size, prompt=st.integers(1, 50), answer=st.integers(1, 50)), min_size=1, max_size=12
)


class TestBatches:
    @given(SIZES, st.integers(1, 8), st.integers(1, 400))
    def test_as_many_fit_as_are_within_the_bounds_and_one_always(
        self, sizes: list[Any], rows: int, tokens: int
    ) -> None:
        def fits(n: int) -> bool:
            first = sizes[:n]
            longest = max(s.prompt for s in first) + max(s.answer for s in first)
            return n == 1 or (n <= rows and n * longest <= tokens)

        n = batcher.fitting(sizes, rows=rows, tokens=tokens)
        assert n == max(k for k in range(1, len(sizes) + 1) if fits(k))

    @given(st.lists(st.integers(0, 99), max_size=40), st.integers(1, 5))
    def test_everyone_gets_their_own_answer(self, items: list[int], rows: int) -> None:
        seen: list[list[int]] = []

        def work(batch: Any) -> list[Any]:
            seen.append([*batch])
            return [ValueError(str(i)) if i % 7 == 3 else -i for i in batch]

        async def ask_all() -> list[Any]:
            async with batcher.Batcher(work, rows=rows, tokens=10**6, wait_s=0) as gathering:
                size = batcher.Size(prompt=1, answer=1)
                asked = (gathering.ask(item, size) for item in items)
                return await asyncio.gather(*asked, return_exceptions=True)

        answers = asyncio.run(ask_all())
        for item, got in zip(items, answers, strict=True):
            assert str(got) == str(item) if item % 7 == 3 else got == -item
        assert [item for batch in seen for item in batch] == items
        assert all(len(batch) <= rows for batch in seen)

    def test_work_that_fails_as_a_whole_is_told_to_all_and_the_next_batch_runs(self) -> None:
        def work(batch: Any) -> list[Any]:
            if "bad" in batch:
                raise RuntimeError("the device is gone")
            return [*batch]

        async def run() -> list[Any]:
            size = batcher.Size(prompt=1, answer=1)
            async with batcher.Batcher(work, rows=2, tokens=100, wait_s=0) as gathering:
                asked = (gathering.ask(item, size) for item in ("bad", "one", "two"))
                return await asyncio.gather(*asked, return_exceptions=True)

        first, second, third = asyncio.run(run())
        assert str(first) == str(second) == "the device is gone"
        assert third == "two"


class TestBytes:
    @noisy
    @pytest.mark.parametrize("alphabet", ["of GPT-2", "of SentencePiece"])
    def test_the_bytes_of_tokens_are_those_of_the_text_also_within_a_character(self, alphabet: str) -> None:
        from nemo_like.local_model import bytes_of

        from ..exporting import tokenizer

        tokens = tokenizer() if alphabet == "of GPT-2" else byte_fallback()
        text = "日本語 é 😀 a"
        ids = tokens.encode(text, add_special_tokens=False)
        assert len(ids) > len(text)
        assert b"".join(bytes_of(tokens, token) for token in ids).decode() == text


def byte_fallback() -> Any:
    """A letter or two a token, and a byte a token where it knows no letter."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", " "]
    model = models.BPE(
        {piece: at for at, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True
    )
    made = Tokenizer(model)
    made.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>")
