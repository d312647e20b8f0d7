"""Each engine is started once; what the tests find is printed as a table at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engines.engines import KINDS, WANTED, Running, running

FOUND: dict[str, dict[str, str]] = {}
"""Check → engine → what was found."""


@pytest.fixture(scope="session", params=WANTED)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    here = Path.cwd()
    os.chdir(tmp_path_factory.mktemp(request.param))
    try:
        with running(request.param) as engine:
            yield engine
    finally:
        os.chdir(here)


@pytest.fixture
def note(engine: Running) -> Callable[[str, str], None]:
    """Puts a finding into the table."""
    return lambda check, value: FOUND.setdefault(check, {}).__setitem__(engine.name, value)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not FOUND:
        return
    engines = [name for name in KINDS if any(name in row for row in FOUND.values())]
    write = terminalreporter.write_line
    write("")
    write(f"| | {' | '.join(engines)} |")
    write("|---|" + "---|" * len(engines))
    for check, row in FOUND.items():
        write(f"| {check} | {' | '.join(row.get(name, '-') for name in engines)} |")
