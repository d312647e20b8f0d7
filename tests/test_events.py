"""Answers in pieces: whichever API they come in and go out by, and wherever they are cut, nothing is lost."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletionChunk
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from nemo_like.chat import to_completion, to_response
from nemo_like.chunk_reader import ChunkReader, response_stream
from nemo_like.chunks import ChunkWriter, chunks_of
from nemo_like.errors import PartError
from nemo_like.message_events import MessageWriter
from nemo_like.messages import to_message, to_params
from nemo_like.response_events import events_of, failure_of, numbered, whole
from nemo_like.sse import DONE, Decoder, encoded
from nemo_like.types import Json

from .test_chat import answers, call, chat_call, completion, completions, optional, plain_words, says, thinks

EVENT = TypeAdapter[Any](ResponseStreamEvent)
HEAD: Json = {"id": "chatcmpl-7", "created": 1_700_000_000, "model": "m", "object": "chat.completion.chunk"}
GROWING = ("data", "transcript")
"""Of a spoken answer, what comes in pieces."""
SEARCH: Json = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "x"}}


def in_full(events: Iterable[Json]) -> list[Json]:
    """The events after `whole`."""

    async def given_events() -> AsyncIterator[Json]:
        for event in events:
            yield event

    async def run() -> list[Json]:
        return [event async for event in whole(given_events())]

    return asyncio.run(run())


def as_chunks(response: Json) -> list[Json]:
    writer = ChunkWriter(usage=True)
    return [chunk for event in in_full(events_of(response)) for chunk in writer.write(event)]


def as_message_events(response: Json, body: Json | None = None) -> list[Json]:
    writer = MessageWriter(body or {})
    return [told for event in in_full(events_of(response)) for told in writer.write(event)]


def read(chunks: Iterable[Json], params: Json | None = None) -> list[Json]:
    """The Responses events of chunks."""
    reader = ChunkReader(params or {})
    events = [event for chunk in chunks for event in reader.read(chunk)]
    return [*events, *reader.end()]


def put_together(chunks: list[Json]) -> Json:
    """The completion that chunks amount to, as a client puts it together."""
    message: Json = {}
    choice: Json = {"index": 0, "message": message}
    logprobs: list[Json] = []
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk)
        for part in chunk["choices"]:
            for key, value in part["delta"].items():
                if key == "tool_calls":
                    _put_calls_together(message.setdefault("tool_calls", []), value)
                elif isinstance(value, str) and key != "role":
                    message[key] = message.get(key, "") + value
                else:
                    message[key] = value
            logprobs += (part.get("logprobs") or {}).get("content") or []
            choice["finish_reason"] = part["finish_reason"]
    last = chunks[-1]
    choice["logprobs"] = {"content": logprobs} if logprobs else None
    whole: Json = {key: last[key] for key in ("id", "created", "model")} | {"object": "chat.completion"}
    return whole | {"choices": [choice], "usage": last.get("usage")}


def _put_calls_together(calls: list[Json], pieces: list[Json]) -> None:
    for piece in pieces:
        if piece["index"] == len(calls):
            new = copy.deepcopy(piece)
            del new["index"]
            calls.append(new)
        else:
            calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def without_empty(completion: Json) -> Json:
    """A completion in which an empty text is the same as none."""
    completion = copy.deepcopy(completion)
    message = completion["choices"][0]["message"]
    message["content"] = message.get("content") or None
    return completion


def accumulated(events: list[Json]) -> Json:
    """The message that the events of Messages amount to; each block begins, is said and stops in its turn."""
    start, *events, ending, stop = events
    assert (start["type"], ending["type"], stop) == (
        "message_start",
        "message_delta",
        {"type": "message_stop"},
    )
    blocks: list[Json] = []
    is_open = False
    for event in events:
        if event["type"] == "content_block_start":
            assert (event["index"], is_open) == (len(blocks), False)
            blocks.append(dict(event["content_block"]))
            written, is_open = "", True
        elif event["type"] == "content_block_delta":
            assert (event["index"], is_open) == (len(blocks) - 1, True)
            delta = event["delta"]
            kind = delta["type"]
            written += delta.get("partial_json", "")
            key = {"text_delta": "text", "thinking_delta": "thinking", "signature_delta": "signature"}.get(
                kind
            )
            if key:
                blocks[-1][key] += delta[key]
            if kind == "citations_delta":
                blocks[-1].setdefault("citations", []).append(delta["citation"])
        else:
            assert event == {"type": "content_block_stop", "index": len(blocks) - 1}
            is_open = False
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = written
    return start["message"] | ending["delta"] | {"usage": ending["usage"], "content": blocks}


@st.composite
def cut(draw: st.DrawFn, whole: st.SearchStrategy[Json]) -> tuple[Json, list[Json]]:
    """A completion, and its chunks as an engine streams them: every text in pieces of any length."""
    answer = draw(whole)
    (choice,) = answer["choices"]
    message = choice["message"]

    def pieces(text: str) -> list[str]:
        at = sorted(draw(st.lists(st.integers(0, len(text)), max_size=4)))
        return [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]

    deltas: list[Json] = [{"role": "assistant"}]
    for key in ("reasoning_content", "content", "refusal"):
        deltas += [{key: piece} for piece in pieces(message.get(key) or "")]
        if key == "content":
            deltas += [{"annotations": [annotation]} for annotation in message.get("annotations", [])]
    for key, value in message.get("audio", {}).items():
        deltas += [{"audio": {key: piece}} for piece in (pieces(value) if key in GROWING else [value])]
    for at, made in enumerate(message.get("tool_calls", [])):
        deltas.append(
            {"tool_calls": [{**made, "index": at, "function": made["function"] | {"arguments": ""}}]}
        )
        for piece in pieces(made["function"]["arguments"]):
            deltas.append({"tool_calls": [{"index": at, "function": {"arguments": piece}}]})
    chunks = [HEAD | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if choice["logprobs"]:
        spoken = next((chunk for chunk in chunks if "content" in chunk["choices"][0]["delta"]), chunks[-1])
        spoken["choices"][0]["logprobs"] = choice["logprobs"]
    tokens = {key: message[key] for key in message if key.endswith("_ids")}
    ends = {"index": 0, "delta": tokens, "finish_reason": choice["finish_reason"]}
    return answer, [*chunks, HEAD | {"choices": [ends]}, HEAD | {"choices": [], "usage": answer["usage"]}]


@given(cut(completions()))
def test_chunks_amount_to_the_same_response_wherever_they_are_cut(cut: tuple[Json, list[Json]]) -> None:
    answer, chunks = cut
    assert read(chunks)[-1]["response"] == to_response(answer, {})


def check_grammar(events: list[Json], output: list[Json]) -> None:
    """Every item and part is added, said and done, and what is said is what it is in the end."""
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    said: dict[tuple[int, int], str] = {}
    for event in events[2:-1]:
        kind = event["type"]
        place = (event["output_index"], event.get("content_index", event.get("summary_index", -1)))
        if kind.endswith(("item.added", "part.added")):
            assert place not in said
            said[place] = ""
        elif kind.endswith(".delta"):
            said[place] += event["delta"]
        elif kind.endswith("part.done"):
            part = event["part"]
            assert said[place] == part.get("text", part.get("refusal"))
        elif kind == "response.function_call_arguments.done":
            assert said[place] == event["arguments"]
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == output


@given(cut(completions()))
def test_chunks_are_told_in_events_as_they_come(cut: tuple[Json, list[Json]]) -> None:
    answer, chunks = cut
    check_grammar(read(chunks), to_response(answer, {})["output"])


@given(completions())
def test_a_finished_response_is_told_in_events_that_add_up_to_it(whole: Json) -> None:
    response = to_response(whole, {})
    events = list(events_of(response))
    check_grammar(events, response["output"])
    assert events[-1] == {"type": f"response.{response['status']}", "response": response}


def test_events_are_what_the_openai_sdk_knows() -> None:
    entry = {"token": "F", "logprob": -0.5, "bytes": [70], "top_logprobs": []}
    message = {"reasoning_content": "Hm.", "refusal": "No.", "tool_calls": [chat_call()]}
    response = to_response(completion(message, logprobs={"content": [entry]}), {})
    response["output"][0]["summary"] = [{"type": "summary_text", "text": "Hm."}]
    events = list(numbered(events_of(response)))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    for event in events:
        assert EVENT.validate_python(event).type == event["type"]


@given(completions())
def test_a_response_in_chunks_is_its_completion(whole: Json) -> None:
    response = to_response(whole, {})
    assert without_empty(put_together(as_chunks(response))) == without_empty(to_completion(response))


@given(answers())
def test_an_answer_in_chunks_is_its_completion(answer: Json) -> None:
    assert without_empty(put_together(as_chunks(answer))) == without_empty(
        to_completion(answer) | {"created": answer["created_at"]}
    )


@given(answers())
def test_an_answer_in_the_events_of_messages_is_its_message(answer: Json) -> None:
    message, expected = accumulated(as_message_events(answer)), to_message(answer, {})
    for block in [*message["content"], *expected["content"]]:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block["input"]) if isinstance(block["input"], str) else block["input"]
    assert message == expected


@given(completions())
def test_a_finished_completion_in_chunks_is_the_same(whole: Json) -> None:
    assert without_empty(put_together(list(chunks_of(whole, usage=True)))) == without_empty(whole)


@given(completions().map(lambda whole: to_response(whole, {})))
def test_a_response_in_the_events_of_messages_is_its_message(response: Json) -> None:
    message, expected = accumulated(as_message_events(response)), to_message(response, {})
    written = [item["arguments"] for item in response["output"] if item["type"] == "function_call"]
    uses = [block for block in expected["content"] if block["type"] == "tool_use"]
    for block, arguments in zip(uses, written, strict=True):
        block["input"] = arguments
    assert message == expected


@given(st.lists(completions(), max_size=3), st.data())
def test_events_are_the_same_wherever_their_bytes_are_cut(wholes: list[Json], data: st.DataObject) -> None:
    events = [event for whole in wholes for event in events_of(to_response(whole, {}))]
    stream = b": hello\r\n\r\n" + b"".join(encoded(event) for event in events) + DONE
    stream = data.draw(st.sampled_from([stream, stream.replace(b"\n", b"\r\n")]))
    at = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    decoder = Decoder()
    pieces = [stream[a:b] for a, b in zip([0, *at], [*at, len(stream)], strict=True)]
    assert [event for piece in pieces for event in decoder.feed(piece)] == events
    assert decoder.done


def streamed(pieces: list[str], finish: str = "stop") -> list[Json]:
    deltas = [HEAD | {"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    return read([*deltas, HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}])


@given(optional(before=st.just(" \n")), plain_words, plain_words, st.data())
def test_thinking_tags_are_split_off_wherever_they_are_cut(
    space: Json, thought: str, text: str, data: st.DataObject
) -> None:
    said = f"{space.get('before', '')}<think>\n{thought}\n</think>\n\n{text}"
    at = sorted(data.draw(st.lists(st.integers(0, len(said)), max_size=6)))
    pieces = [said[a:b] for a, b in zip([0, *at], [*at, len(said)], strict=True)]
    assert streamed(pieces)[-1]["response"] == to_response(completion({"content": said}), {})


def test_log_probabilities_of_what_might_be_a_tag_are_kept() -> None:
    entries = [
        {"token": token, "logprob": -0.5, "bytes": [], "top_logprobs": []} for token in ("<", "b>", "\n")
    ]
    chunks = [
        HEAD
        | {"choices": [{"index": 0, "delta": {"content": each["token"]}, "logprobs": {"content": [each]}}]}
        for each in entries
    ]
    (item,) = read([*chunks, end()])[-1]["response"]["output"]
    assert (item["content"][0]["text"], item["content"][0]["logprobs"]) == ("<b>\n", entries)


def test_white_space_before_a_call_is_said_before_it() -> None:
    deltas = [{"content": "\n"}, {"tool_calls": [chat_call() | {"index": 0}]}]
    chunks = [HEAD | {"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    output = read([*chunks, end("tool_calls")])[-1]["response"]["output"]
    assert output == to_response(completion({"content": "\n", "tool_calls": [chat_call()]}), {})["output"]


def test_white_space_before_a_refusal_is_said_before_it() -> None:
    chunks = [
        HEAD | {"choices": [{"index": 0, "delta": delta}]}
        for delta in ({"content": "\n"}, {"refusal": "No."})
    ]
    output = read([*chunks, end()])[-1]["response"]["output"]
    assert output == to_response(completion({"content": "\n", "refusal": "No."}), {})["output"]


def test_a_lone_tag_in_the_middle_is_text() -> None:
    assert streamed(["I ", "<think> so.</think>"])[-1]["response"]["output"][0]["content"][0]["text"] == (
        "I <think> so.</think>"
    )


def test_calls_that_are_all_number_0_are_told_apart_by_their_ids() -> None:
    calls = [[chat_call("a") | {"index": 0}], [chat_call("b", arguments="") | {"index": 0}]]
    chunks = [HEAD | {"choices": [{"index": 0, "delta": {"tool_calls": made}}]} for made in calls]
    output = read([*chunks, end()])[-1]["response"]["output"]
    assert [(item["call_id"], item["arguments"]) for item in output] == [("a", '{"a":1}'), ("b", "{}")]


def test_calls_whose_pieces_come_mixed_are_put_together() -> None:
    begun = [chat_call(name, arguments='{"x":') | {"index": at} for at, name in enumerate("ab")]
    rest = [{"index": at, "function": {"arguments": f"{at}}}"}} for at in range(2)]
    chunks = [HEAD | {"choices": [{"index": 0, "delta": {"tool_calls": made}}]} for made in (begun, rest)]
    output = read([*chunks, end()])[-1]["response"]["output"]
    assert [item["arguments"] for item in output] == ['{"x":0}', '{"x":1}']


def test_signed_reasoning_in_pieces_is_kept_for_the_way_back() -> None:
    pieces = [
        {"type": "reasoning.text", "index": 0, "text": "H"},
        {"type": "reasoning.text", "index": 0, "text": "m"},
    ]
    last = {"type": "reasoning.text", "index": 0, "signature": "s"}
    chunks = [
        HEAD
        | {"choices": [{"index": 0, "delta": {"reasoning": each.get("text"), "reasoning_details": [each]}}]}
        for each in (*pieces, last)
    ]
    item = read([*chunks, end()])[-1]["response"]["output"][0]
    assert item["content"][0]["text"] == "Hm"
    assert item["reasoning_details"] == [
        {"type": "reasoning.text", "index": 0, "text": "Hm", "signature": "s"}
    ]


def test_token_ids_of_the_pieces_follow_each_other() -> None:
    pieces = [{"content": "Fo", "prompt_token_ids": [1]}, {"content": "ur"}]
    chunks = [
        HEAD | {"choices": [{"index": 0, "delta": delta, "generation_token_ids": [at]}]}
        for at, delta in enumerate(pieces)
    ]
    (item,) = read([*chunks, end()])[-1]["response"]["output"]
    assert (item["prompt_token_ids"], item["generation_token_ids"]) == ([1], [0, 1])


def test_what_comes_late_is_in_the_response_all_the_same() -> None:
    link = {"url": "https://x", "title": "X", "start_index": 0, "end_index": 4}
    cited = [{"type": "url_citation", "url_citation": link}]
    entry = {"token": "}", "logprob": -0.5, "bytes": [125], "top_logprobs": []}
    deltas: list[Json] = [{"content": "Four."}, {"tool_calls": [chat_call() | {"index": 0}]}]
    chunks = [HEAD | {"choices": [{"index": 0, "delta": delta}]} for delta in deltas]
    late = {"index": 0, "delta": {"annotations": cited}, "logprobs": {"content": [entry]}}
    whole = completion(
        {"annotations": cited, "tool_calls": [chat_call()]}, "tool_calls", logprobs={"content": [entry]}
    )
    events = read([*chunks, HEAD | {"choices": [late]}, end("tool_calls")])
    assert events[-1]["response"] == to_response(whole, {})


def test_calls_of_a_namespace_are_named_so_in_a_stream() -> None:
    tool = {"type": "function", "name": "find"}
    params: Json = {"tools": [{"type": "namespace", "name": "crm", "description": "", "tools": [tool]}]}
    made = {"tool_calls": [chat_call(name="crm__find") | {"index": 0}]}
    events = read([HEAD | {"choices": [{"index": 0, "delta": made}]}, end("tool_calls")], params)
    (item,) = events[-1]["response"]["output"]
    assert (item["namespace"], item["name"]) == ("crm", "find")
    chunks = [chunk for event in in_full(events) for chunk in ChunkWriter(usage=False).write(event)]
    calls = [c for chunk in chunks for c in chunk["choices"][0]["delta"].get("tool_calls", [])]
    assert calls[0]["function"]["name"] == "crm__find"


@pytest.mark.parametrize("odd", [{"output_index": [0]}, {"delta": None}])
def test_nonsense_in_an_event_is_a_bad_response(odd: Json) -> None:
    with pytest.raises(PartError) as raised:
        in_full([{"type": "response.output_text.delta", "output_index": 0, "delta": "Fo"} | odd])
    assert raised.value.kind == "bad_response" and "as it should be" in raised.value.message


def end(finish: str = "stop") -> Json:
    return HEAD | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}


def test_a_stream_without_an_end_is_no_answer() -> None:
    with pytest.raises(PartError, match="ended before the answer did"):
        read([HEAD | {"choices": [{"index": 0, "delta": {"content": "Fo"}}]}])
    with pytest.raises(PartError, match="ended before the answer did"):
        in_full([{"type": "response.created", "response": {"id": "resp_1"}}])


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {}, "finish_reason": ["stop"]},
        {"delta": {"tool_calls": [{"index": [0], "id": "c", "function": {"name": "f"}}]}},
        {"delta": {"generation_token_ids": 7}},
        {"delta": "Fo"},
        {"delta": {}, "logprobs": [0.5]},
    ],
)
def test_nonsense_in_a_chunk_is_a_bad_response(choice: Json) -> None:
    async def chunks() -> AsyncIterator[Json]:
        yield HEAD | {"choices": [{"finish_reason": "stop"} | choice]}

    async def run() -> None:
        async for _ in response_stream(chunks(), {}):
            pass

    with pytest.raises(PartError) as raised:
        asyncio.run(run())
    assert raised.value.kind == "bad_response"


@pytest.mark.parametrize(
    ("event", "kind", "words"),
    [
        ({"error": {"message": "slow down", "code": 429}}, "rate_limited", "slow down"),
        ({"error": "no"}, "model_error", "no"),
        ({"type": "error", "code": "server_error", "message": "gone"}, "model_error", "server_error: gone"),
        (
            {"type": "response.failed", "response": {"error": {"code": "context_length_exceeded"}}},
            "context_overflow",
            "context_length_exceeded",
        ),
        ({"error": {"kind": "timeout", "message": "late", "status": 504}}, "timeout", "late"),
    ],
)
def test_an_event_that_tells_an_error_is_that_error(event: Json, kind: str, words: str) -> None:
    error = failure_of(event)
    assert error is not None
    assert error.kind == kind
    assert words in error.message


def test_items_that_no_api_but_responses_knows_survive_in_every_stream() -> None:
    secret = {"type": "reasoning", "id": "rs_9", "summary": [], "encrypted_content": "c2VjcmV0"}
    response = {
        "id": "resp_1",
        "status": "completed",
        "model": "m",
        "output": [secret, SEARCH, says("Found.")],
    }
    events = list(events_of(response))
    assert [event["item"] for event in events if event["type"].endswith("item.done")] == response["output"]
    message = put_together(as_chunks(response))["choices"][0]["message"]
    assert message["items"] == response["output"]
    content = accumulated(as_message_events(response))["content"]
    assert content == to_message(response, {})["content"]
    (_, *back, said) = to_params(
        {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]}
    )["input"]
    assert back == [secret, SEARCH]
    assert said["content"][0]["text"] == "Found."


def test_what_a_server_leaves_out_of_its_events_is_told_all_the_same() -> None:
    response = {"id": "resp_1", "status": "completed", "output": [says("I add."), thinks("Hm."), call()]}
    bare = [{"type": "response.created", "response": {"id": "resp_1"}}]
    bare.append({"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "I a"})
    bare.append({"type": "response.completed", "response": response})
    writer = MessageWriter({})
    told = [event for each in in_full(bare) for event in writer.write(each)]
    texts = {block["type"]: block for block in accumulated(told)["content"]}
    assert (texts["thinking"]["thinking"], texts["text"]["text"]) == ("Hm.", "I add.")
    assert texts["tool_use"]["input"] == '{"a":1}'
