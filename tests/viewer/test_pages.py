"""What the pages say, and that nothing in a rollout ever becomes markup."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nemo_like.viewer.catalog import Selection
from nemo_like.viewer.formats import read
from nemo_like.viewer.markup import prose
from nemo_like.viewer.notes import Notes
from nemo_like.viewer.pages import Site
from nemo_like.viewer.transcript import blocks, render, verdict, waterfall

from .rows import failure, opened, rollout, some_rollouts, write

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "<iframe src='https://example.com'></iframe>",
    "<style>body{display:none}</style>",
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "[a](javascript:alert(1))",
    "[a](https://example.com)",
    "<https://example.com>",
    "![a](https://example.com/x.png)",
    "![a](javascript:alert(1))",
    "![a](data:text/html;base64,PHNjcmlwdD4=)",
    "![a](data:image/svg+xml;base64,PHN2Zz4=)",
    "```html\n<script>alert(1)</script>\n```",
    "```<script>\nx\n```",
    "$\\href{javascript:alert(1)}{x}$",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$$\\style{position:fixed}{x}$$",
    "\\(<script>alert(1)</script>\\)",
    "<details open ontoggle=alert(1)>",
    "<a href='javascript:alert(1)'>x</a>",
    "<base href='https://example.com/'>",
    "<meta http-equiv=refresh content='0;url=https://example.com'>",
    "<form action='https://example.com'><button>x",
    "<math><mtext><script>alert(1)</script>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "{{7*7}} ${alert(1)} <%= 7*7 %>",
    "\ue0000\ue001 \ue000999\ue001",
    "<x onclick=alert(1) style=position:fixed>",
    "<think><script>alert(1)</script></think><b>x</b>",
    "\x00<script\x00>alert(1)</script>",
    "\ud800<script>alert(1)</script>",
    "</pre></div></main><script>alert(1)</script>",
]
ALLOWED_ATTRIBUTES = {
    *(
        "class",
        "id",
        "title",
        "href",
        "data-go",
        "data-key",
        "data-form",
        "data-note",
        "aria-label",
        "colspan",
    ),
    *(
        "scope",
        "alt",
        "src",
        "style",
        "name",
        "value",
        "type",
        "placeholder",
        "spellcheck",
        "inputmode",
        "size",
    ),
    *("selected", "role", "download", "xmlns", "display", "mathvariant", "stretchy", "fence", "form", "open"),
    *(
        "separator",
        "width",
        "linethickness",
        "accent",
        "displaystyle",
        "scriptlevel",
        "height",
        "depth",
        "start",
    ),
    *(
        "lspace",
        "rspace",
        "columnalign",
        "movablelimits",
        "columnspacing",
        "rowspacing",
        "largeop",
        "minsize",
    ),
    *("maxsize", "symmetric", "mathsize"),
}
HARMFUL = {
    "script",
    "iframe",
    "object",
    "embed",
    "base",
    "meta",
    "link",
    "svg",
    "style",
    "video",
    "audio",
    "source",
}


class Reader(HTMLParser):
    """Collects what would be alive in a browser."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in HARMFUL:
            self.alive.append(tag)
        for name, value in attrs:
            if name not in ALLOWED_ATTRIBUTES:
                self.alive.append(f"{tag} {name}={value}")
            if name == "href" and not str(value).startswith(("?", "export?")):
                self.alive.append(f"href={value}")
            if name == "src" and not str(value).startswith("data:image/png;base64,"):
                self.alive.append(f"src={value}")
            if name == "style" and not re.fullmatch(r"(height|width):[\d.]+%", str(value)):
                self.alive.append(f"style={value}")


def alive(html: str) -> list[str]:
    reader = Reader()
    reader.feed(html)
    return reader.alive


def everywhere(attack: str) -> dict[str, Any]:
    """A rollout that holds an attack in every place where text can stand."""
    row = rollout(1, answer=attack, tools=(attack,))
    params = row["responses_create_params"]
    params["input"] = [
        {"role": attack, "content": attack},
        {
            "role": "user",
            "content": [{"type": "input_image", "image_url": attack}, {"type": attack, attack: attack}],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"function": {"name": attack, "arguments": attack}}],
        },
    ]
    params |= {"model": attack, "tools": [{"type": "function", "name": attack, "description": attack}]}
    row["response"]["output"] += [
        {"type": "function_call", "name": attack, "arguments": attack, "call_id": attack},
        {"type": "function_call_output", "call_id": attack, "output": attack},
        {"type": "function_call_output", "call_id": "lost", "output": json.dumps({"x": attack})},
        {"type": attack, "value": attack},
        {
            "type": "message",
            "role": "assistant",
            "content": [
                {"type": "output_text", "text": attack, "logprobs": [{"token": attack, "logprob": -1.0}]}
            ],
        },
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": attack}, attack]},
    ]
    row |= {
        "expected_answer": attack,
        "extracted_answer": {attack: attack},
        "reward_components": {attack: 0.5},
    }
    return row | {"agent_ref": {"name": attack}, "_ng_task_key": attack, attack: attack}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with opened(write(tmp_path / "r.jsonl", [*some_rollouts(), failure(3), b"no json\n"])) as catalog:
        yield Site([catalog])


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_rollout_is_ever_alive(tmp_path: Path, attack: str) -> None:
    # What can't be said in UTF-8 can't be in a file; it can still be in what a page is asked for.
    attack = attack.replace("\ud800", "")
    row = everywhere(attack)
    bad = failure(2, attack) | {"_ng_task_key": attack}
    with opened(
        write(tmp_path / "r.jsonl", [row, bad, {attack: attack}, attack.encode("utf-8", "replace") + b"\n"])
    ) as catalog:
        site = Site([catalog])
        site.note({"id": "1"}, "", attack)
        routes: list[dict[str, str]] = [
            {"view": name} for name in ("overview", "rollouts", "tasks", "compare")
        ]
        routes += [{"view": "rollout", "id": str(i)} for i in range(1, catalog.count() + 1)]
        routes += [
            {"view": "compare", "a": "1", "b": "2"},
            {"view": "rollouts", "q": attack, "s": attack, "agent": attack},
        ]
        routes += [
            {"view": attack, "q": attack, "sort": attack, "file": attack, "after": attack, "id": attack}
        ]
        for route in routes:
            assert alive(site.render(route)) == [], route


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            [*ATTACKS, "**", "`", "```", "\n", "|a|b|\n|-|-|\n", "$", "$$", "\\(", "\\)", "<think>", "x"]
        )
    ).map("".join)
)
def test_no_mixture_of_them_is(text: str) -> None:
    assert alive(prose(text)) == []
    assert alive(render(blocks([{"role": "user", "content": text}]))) == []


def test_prose_is_rendered_as_a_person_reads_it() -> None:
    html = prose(
        "# Title\n\n**bold** and $x^2$, costs $5 and $6\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n"
        "```python\nprint(1)\n```"
    )
    assert "<h1>Title</h1>" in html
    assert "<strong>bold</strong>" in html
    assert html.count("<math") == 1
    assert "costs $5 and $6" in html
    assert "<td>1</td>" in html
    assert 'class="nb">print' in html


def test_formulas_in_code_stay_code_and_broken_ones_stay_text() -> None:
    assert "<math" not in prose("`$x^2$` and\n```\n$$y$$\n```")
    assert "<math" in prose(r"\[ \frac{1}{2} \]") and "<math" in prose(r"\(\alpha\)")
    assert "frac" in prose(r"$\frac{$ x$")


def test_pictures_that_the_rollout_holds_are_shown_and_others_are_named() -> None:
    shown = render(
        blocks(
            [
                {
                    "role": "user",
                    "content": [{"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}"}],
                }
            ]
        )
    )
    assert "<img" in shown
    named = render(
        blocks(
            [{"role": "user", "content": [{"type": "input_image", "image_url": "https://example.com/a.png"}]}]
        )
    )
    assert "<img" not in named and "https://example.com/a.png" in named


def test_a_call_and_its_result_are_one_card_and_what_is_unknown_is_json() -> None:
    view = read(json.dumps(rollout(3, tools=("search", "fetch"))).encode())
    view.output += [
        {"type": "function_call_output", "call_id": "lost", "output": "here"},
        {"type": "news", "x": 1},
    ]
    cards = blocks([*view.prompt, *view.output])
    assert [card.role for card in cards] == [
        "user",
        "reasoning",
        "tool",
        "tool",
        "assistant",
        "tool",
        "other",
    ]
    assert "found" in cards[2].body and "search" in cards[2].title
    assert "here" in cards[5].body
    assert cards[1].folded and "thought 3" in cards[1].body


def test_a_verdict_has_its_components_and_both_answers() -> None:
    view = read(json.dumps(rollout(3, 1, 0.5) | {"reward_components": {"form": 0.2, "other": None}}).encode())
    html = verdict(view)
    for words in ("no success", "reward 0.5", "form", "0.2", "other", "not scored", "expected", "given"):
        assert words in html
    assert "model 0.4 s" in waterfall(view)


def test_tokens_are_shaded_by_how_unlikely_they_were() -> None:
    logprobs = [
        {"token": "sure", "logprob": -0.01},
        {"token": "odd", "logprob": -5.0},
        {"token": "?", "logprob": None},
    ]
    part = {"type": "output_text", "text": "sure odd ?", "logprobs": logprobs}
    html = render(blocks([{"type": "message", "role": "assistant", "content": [part]}]))
    assert '<span class="lp0" title="-0.01">sure</span>' in html
    assert '<span class="lp9" title="-5.0">odd</span>' in html


def test_the_overview_counts_what_is_there_and_its_bars_are_filters(site: Site) -> None:
    html = site.render({})
    assert "<b>0.5</b>" in html and "± " in html
    assert re.search(r"failed attempts</dt><dd>1<", html)
    assert re.search(r"10 tasks: 1 never right, 1 always right", html)
    for query in re.findall(r'href="\?view=rollouts&amp;q=([^"]*)"', html):
        assert query
    some = site.render({"view": "overview", "q": "task == 'key1'"})
    assert "<b>1</b>" in some


def test_a_component_of_a_rubric_can_be_asked_for(tmp_path: Path) -> None:
    rows = [rollout(i, 0, 1.0, reward_components={"form": i / 10, "other": None}) for i in range(10)]
    with opened(write(tmp_path / "r.jsonl", rows)) as catalog:
        html = Site([catalog]).render({})
        assert "reward_components%2Fform+%3C+0.9" in html
        assert catalog.count(Selection(query="reward_components/form < 0.5")) == 5


def test_filters_select_and_are_kept(site: Site) -> None:
    html = site.render({"view": "rollouts", "rmax": "0.5", "agent": "agent_1", "state": "no success"})
    assert "<b>4</b> selected" in html
    assert 'value="agent_1" selected' in html


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ({"view": "rollouts", "q": "reward >"}, "the query can&#x27;t be read"),
        ({"view": "rollouts", "rmin": "many"}, "reward ≥ takes a number (got many)"),
        ({"view": "rollout", "id": "999"}, "there is no such rollout"),
        ({"view": "rollout", "task": "nothing"}, "there is no such rollout"),
        ({"view": "compare", "a": "999", "b": "1"}, "there is no rollout 999"),
    ],
)
def test_a_mistake_in_an_address_is_said_on_the_page(site: Site, route: dict[str, str], words: str) -> None:
    assert words in site.render(route)


@pytest.mark.parametrize(
    "odd", ["²", "9" * 30, "-1", "1e3", "", "x", '[{"x": 1}, 2]', "[1]", "[99999999999999999999, 1]", "nan"]
)
def test_whatever_is_typed_as_an_address_a_page_answers(site: Site, odd: str) -> None:
    for name in (
        "id",
        "file",
        "repeat",
        "task",
        "a",
        "fa",
        "after",
        "sort",
        "desc",
        "back",
        "q",
        "s",
        "rmin",
        "tool",
    ):
        for view in ("overview", "rollouts", "rollout", "tasks", "compare"):
            assert '<main id="main">' in site.render({"view": view, "a": "1", "b": "2", name: odd})


def test_a_note_that_can_not_be_written_is_said(site: Site, tmp_path: Path) -> None:
    (tmp_path / "r.notes.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        site.note({"view": "rollout", "id": "1"}, "bad", "")
    assert 'role="alert">the note' in site.render({"view": "overview"}, "the note can't be written")


def test_a_rollout_leads_to_its_neighbours_and_to_its_repeats(site: Site) -> None:
    html = site.render({"view": "rollout", "task": "key4", "repeat": "1", "q": "reward < 1"})
    keys = {key: to for to, key in re.findall(r'<a data-go href="\?([^"]*)" data-key="(.)"', html)}
    assert set(keys) >= {"j", "k", "n", "u"}
    assert all("q=reward+%3C+1" in route for route in keys.values())
    assert html.count('class="cell') == 3


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").touch()
    with opened(tmp_path / "r.jsonl") as catalog:
        assert "there is nothing here yet" in Site([catalog]).render({})
        assert "nothing is selected" in Site([catalog]).render({"view": "rollouts"})


def test_two_runs_are_compared_by_task(tmp_path: Path) -> None:
    better = [row | {"reward": 1.0, "success": True} for row in some_rollouts()]
    with (
        opened(write(tmp_path / "a.jsonl", some_rollouts())) as a,
        opened(write(tmp_path / "b.jsonl", better)) as b,
    ):
        html = Site([a, b]).render({"view": "compare"})
        assert "<b>9 won</b>, <b>0 lost</b>, 1 tied" in html
        assert "+0.5000 ±" in html
        sides = Site([a, b]).render({"view": "compare", "a": "1", "b": "2", "fa": "0", "fb": "1"})
        assert "<mark>" in sides and 'class="pair same"' in sides


def test_notes_go_to_a_file_beside_the_rollouts(site: Site, tmp_path: Path) -> None:
    before = (tmp_path / "r.jsonl").read_bytes()
    route = {"view": "rollout", "task": "key4", "repeat": "1"}
    site.note(route, "bad", "  wrong unit ")
    site.note(route, "nonsense", "")
    site.note({"view": "rollout", "id": "999"}, "bad", "nowhere")
    assert "wrong unit" in site.render(route)
    [note, empty] = [json.loads(line) for line in (tmp_path / "r.notes.jsonl").read_text().splitlines()]
    assert (note["_ng_task_key"], note["_ng_rollout_index"], note["mark"], note["remark"]) == (
        "key4",
        1,
        "bad",
        "wrong unit",
    )
    assert (empty["mark"], empty["remark"]) == ("", "")
    assert (tmp_path / "r.jsonl").read_bytes() == before
    with (tmp_path / "r.notes.jsonl").open("a") as file:
        file.write("torn")
    assert len(Notes(tmp_path / "r.jsonl").of("key4", 1)) == 2


def test_the_rows_of_a_large_page_are_all_links(tmp_path: Path) -> None:
    rows = [rollout(task, repeat) for task in range(40) for repeat in range(3)]
    with opened(write(tmp_path / "r.jsonl", rows)) as catalog:
        site = Site([catalog])
        seen: list[str] = []
        route: dict[str, str] = {"view": "rollouts", "sort": "tokens"}
        while True:
            html = site.render(route)
            seen += re.findall(r"<tr><td>(\d+)</td>", html)
            following = re.search(r'href="\?([^"]*)" data-key="j"', html)
            if following is None:
                break
            route = dict(pair.split("=", 1) for pair in unescaped(following[1]).split("&"))
        assert len(seen) == len(set(seen)) == 120


def unescaped(address: str) -> str:
    from html import unescape
    from urllib.parse import unquote_plus

    return unquote_plus(unescape(address))
