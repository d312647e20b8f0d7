"""The window: what it never does, whatever happens; where it settles, before endpoints that have a limit; and
a number of workers that changes."""

from __future__ import annotations

import asyncio
import heapq
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nemo_like.window import DEBOUNCE_S, FULL, SHRINK, Load, Window, heeding
from nemo_like.workers import for_each

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["finished", "finished", "finished", "refused", "queued"]),
        st.floats(0, 3),
        st.floats(0, 1.5),
        st.integers(0, 400),
    ),
    max_size=400,
)


@given(start=st.integers(1, 64), largest=st.integers(1, 256), events=EVENTS)
def test_it_stays_within_bounds_grows_only_when_full_and_shrinks_once_for_a_cause(
    start: int, largest: int, events: list[tuple[str, float, float, int]]
) -> None:
    window, now, last_cut = Window(start=start, largest=largest), 0.0, -DEBOUNCE_S
    for kind, step_s, share, number in events:
        now += step_s
        before, in_flight, cuts = window.size, int(share * window.size), window.cuts
        if kind == "finished":
            window.finished(in_flight, now)
        elif kind == "refused":
            window.refused(number, in_flight, now)
        else:
            window.queued(number, in_flight, now)
        assert 1 <= window.size <= largest
        if window.size > before:
            assert kind == "finished" and in_flight >= FULL * before
            assert now >= last_cut + DEBOUNCE_S
        if window.cuts > cuts:
            assert window.size == max(1, int(before * SHRINK))
            assert in_flight <= before
            assert now >= last_cut + DEBOUNCE_S
            last_cut = now
    assert window.highest <= largest and window.summary()["settled_at"] == window.size


def simulated(*, capacity: int, refuses: bool, n: int = 40_000, tells_queue: bool = False) -> Window:
    """A run against an endpoint that serves `capacity` at once; what is beyond is refused, or waits in it."""
    rng = random.Random(0)
    window, now, polled, refused = Window(), 0.0, 0.0, 0
    served: list[float] = []
    waiting = in_flight = done = 0

    def begin() -> None:
        nonlocal waiting
        if len(served) < capacity:
            heapq.heappush(served, now + rng.lognormvariate(0, 0.5))
        else:
            waiting += 1

    while done < n:
        while in_flight < window.size:
            in_flight += 1
            begin()
            # One that is refused asks again later: it waits outside, and is counted.
            refused += refuses and waiting > 0
        now = heapq.heappop(served)
        if waiting:
            waiting -= 1
            begin()
        window.finished(in_flight, now)
        in_flight, done = in_flight - 1, done + 1
        if now - polled >= 1:
            window.refused(refused + (waiting if refuses else 0), in_flight, now)
            window.queued(waiting if tells_queue else 0, in_flight, now)
            polled, refused = now, 0
    return window


@pytest.mark.parametrize("capacity", [3, 20, 100, 300])
def test_it_settles_near_the_capacity_of_an_endpoint_that_refuses_more(capacity: int) -> None:
    window = simulated(capacity=capacity, refuses=True)
    assert 0.7 * capacity <= window.size <= 1.1 * capacity + 1
    assert window.throttled > 0


@pytest.mark.parametrize("capacity", [50, 300])
def test_it_settles_near_the_capacity_of_an_engine_that_tells_its_queue(capacity: int) -> None:
    assert capacity <= simulated(capacity=capacity, refuses=False, tells_queue=True).size <= 1.6 * capacity


@pytest.mark.parametrize("capacity", [20, 100, 300])
def test_it_stops_growing_before_an_endpoint_that_only_gets_slower(capacity: int) -> None:
    assert 0.8 * capacity <= simulated(capacity=capacity, refuses=False).size <= 3 * max(capacity, 32)


def test_it_grows_to_the_largest_where_nothing_limits() -> None:
    assert simulated(capacity=10_000, refuses=False).size == 1024


def test_what_the_model_servers_say_is_heard_from_its_beginning_on() -> None:
    window = Window()
    asyncio.run(listen(window, [Load(7), Load(7), Load(9)]))
    assert window.throttled == 2 and window.cuts == 1


async def listen(window: Window, loads: list[Load]) -> None:
    answers, heard = iter(loads), asyncio.Event()

    async def ask() -> Load:
        answer = next(answers, None)
        if answer is None:
            heard.set()
            await asyncio.Event().wait()
            raise AssertionError
        return answer

    async with heeding(window, ask, lambda: 1, every_s=0):
        await heard.wait()


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30),
    jobs=st.integers(0, 60),
)
def test_workers_follow_a_number_that_changes_and_each_job_is_done_once(sizes: list[int], jobs: int) -> None:
    done: list[int] = []
    running, wanted, most = 0, sizes[0], 0

    async def work(job: int) -> None:
        nonlocal running, wanted, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(job)
        wanted = sizes[len(done) % len(sizes)]

    asyncio.run(for_each(range(jobs), work, lambda: wanted))
    assert sorted(done) == [*range(jobs)]
    assert most <= max(sizes)


def test_a_smaller_number_is_reached_as_jobs_end() -> None:
    running, seen = 0, list[int]()

    async def work(job: int) -> None:
        nonlocal running
        running += 1
        await asyncio.sleep(0)
        seen.append(running)
        running -= 1

    asyncio.run(for_each(range(200), work, lambda: 8 if len(seen) < 100 else 2))
    assert seen[0] == 8 and max(seen[120:]) == 2
