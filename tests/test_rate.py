"""The rate of a provider: what may have gone out by when; tokens, estimated and corrected; the wait that is
told. And the queue that an engine tells."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.engine_queue import read_queue
from nemo_like.rate import BURST_S, QUEUED_FIELD, Bucket, Rate, RateConfig, queue_told
from nemo_like.types import Json

REQUESTS = st.lists(st.tuples(st.floats(0, 5), st.floats(0, 50), st.floats(-20, 20)), max_size=100)


@given(per_s=st.floats(0.1, 100), requests=REQUESTS)
def test_no_more_goes_out_than_a_seconds_worth_and_the_rate_and_none_overtakes(
    per_s: float, requests: list[tuple[float, float, float]]
) -> None:
    bucket, now, sent, last = Bucket(per_s, now=0.0), 0.0, 0.0, 0.0
    for step_s, amount, _ in requests:
        now += step_s
        out_at = now + bucket.take(amount, now)
        sent += amount
        assert sent <= per_s * (BURST_S + out_at) * (1 + 1e-9) + 1e-6
        assert out_at >= last - 1e-6
        last = out_at


@given(per_s=st.floats(0.1, 100), requests=REQUESTS)
def test_corrected_amounts_are_what_counts(per_s: float, requests: list[tuple[float, float, float]]) -> None:
    corrected, honest, now = Bucket(per_s, now=0.0), Bucket(per_s, now=0.0), 0.0
    for step_s, amount, used_more in requests:
        now += step_s
        honest.take(max(0.0, amount + used_more), now)
        corrected.take(amount, now)
        corrected.put_back(amount - max(0.0, amount + used_more))
    # What is put back into a full bucket is lost, so the corrected one never lets more out.
    assert corrected.take(0, now) >= honest.take(0, now) - 1e-6


def test_requests_wait_their_turn_and_the_wait_is_told() -> None:
    rate = Rate(RateConfig(requests_per_minute=120))

    async def ask(body: Json) -> Json:
        for _ in range(3):
            await rate.turn(body, 10)
        return {"output": []}

    answer = asyncio.run(queue_told(ask)({}))
    # A second's worth of two goes at once, the third half a second later.
    assert 0 < answer.pop(QUEUED_FIELD) <= 0.5
    assert answer == {"output": []}


def test_an_answer_that_did_not_wait_stays_as_it_is() -> None:
    async def ask(_: Json) -> Json:
        return {"output": []}

    assert asyncio.run(queue_told(ask)({})) == {"output": []}


@pytest.mark.parametrize(
    ("body", "estimated", "usage", "used"),
    [
        ({"max_output_tokens": 100}, 200, {"total_tokens": 500}, 500),
        ({"max_tokens": 50}, 150, {"input_tokens": 90, "output_tokens": 10}, 100),
        ({}, 356, {"prompt_tokens": 90, "completion_tokens": 10}, 100),
        ({}, 356, {}, 356),
    ],
)
def test_tokens_are_estimated_and_then_corrected_by_the_usage(
    body: Json, estimated: float, usage: Json, used: float
) -> None:
    async def run() -> float:
        # A second's worth of 600: what is left of it is what the next need not wait for.
        rate = Rate(RateConfig(tokens_per_minute=36_000))
        turn = await rate.turn(body, 400)
        assert turn.tokens == estimated
        turn.done({"usage": usage})
        return rate.left()

    # In the moment between, a little has come in again.
    assert 600 - used <= asyncio.run(run()) <= 600 - used + 100


@pytest.mark.parametrize(
    ("events", "used"),
    [
        ([{"choices": [{"delta": {"content": "a"}}]}] * 5, 105),
        ([{"choices": []}, {"choices": [], "usage": {"total_tokens": 300}}], 300),
        ([{"type": "response.completed", "response": {"usage": {"total_tokens": 300}}}], 300),
        ([], 100),
    ],
)
def test_a_stream_corrects_the_estimate_by_its_usage_or_by_its_events(
    events: list[Json], used: float
) -> None:
    async def run() -> float:
        rate = Rate(RateConfig(tokens_per_minute=36_000))
        turn = await rate.turn({}, 400)
        for event in events:
            turn.hear(event)
        turn.end()
        return rate.left()

    assert 600 - used <= asyncio.run(run()) <= 600 - used + 100


def test_workers_share_the_limit_and_no_limit_is_no_rate() -> None:
    assert Rate.of(RateConfig(), workers=4) is None
    assert Rate.of(RateConfig(tokens_per_minute=600), workers=2) is not None


@pytest.mark.parametrize(
    ("text", "queue"),
    [
        ('# HELP vllm:num_requests_waiting …\nvllm:num_requests_waiting{model_name="m"} 7.0\n', 7),
        ('vllm:num_requests_waiting{engine="0"} 2\nvllm:num_requests_waiting{engine="1"} 3e0\n', 5),
        ("llamacpp:requests_deferred 4\n", 4),
        ('sglang:num_queue_reqs{model_name="m"} 0.0\n', 0),
        ("vllm:num_requests_running 7\n", None),
        ('{"detail":"Not Found"}', None),
    ],
)
def test_the_queue_of_an_engine_is_read_from_its_metrics(text: str, queue: int | None) -> None:
    assert read_queue(text) == queue
