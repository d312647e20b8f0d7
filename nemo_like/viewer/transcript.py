"""One rollout as a person reads it: the conversation as cards, the verdict, where the time went."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import orjson

from nemo_like.types import Json, content_text, parse_arguments
from nemo_like.viewer.formats import View, fields
from nemo_like.viewer.markup import LONG, card, cells, image, pretty, prose, tag, text

FOLD = 1500
"""Characters of a tool's output beyond which it is folded."""
STEPS = (("queue_s", "waiting"), ("model_s", "model"), ("tools_s", "tools"), ("verify_s", "verify"))
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """One card: `role` names it, `plain` is its text for comparing, `body` its markup."""

    role: str
    title: str
    plain: str
    body: str
    folded: bool = False


def blocks(items: Sequence[Json]) -> list[Block]:
    """The items of a conversation as cards; a tool's output belongs to its call."""
    outputs = {str(i.get("call_id")): i for i in items if i.get("type") == "function_call_output"}
    calls = {str(i.get("call_id")) for i in items if i.get("type") == "function_call"}
    cards: list[Block] = []
    for item in items:
        kind = str(item.get("type") or ("message" if "role" in item else "unknown"))
        if kind == "message":
            cards.extend(_message(item))
        elif kind == "reasoning":
            cards.append(_reasoning(item))
        elif kind == "function_call":
            cards.append(_call(item, outputs.get(str(item.get("call_id")))))
        elif kind == "function_call_output":
            if str(item.get("call_id")) not in calls:
                cards.append(_call(None, item))
        else:
            cards.append(Block(role="other", title=kind, plain=_dump(item), body=pretty(item)))
    return cards


def render(cards: Sequence[Block]) -> str:
    """The cards below each other, each with an anchor."""
    return "".join(_card(card, number) for number, card in enumerate(cards))


def aligned(left: Sequence[Block], right: Sequence[Block]) -> str:
    """Two conversations side by side, step by step, with what differs marked."""
    lines: list[str] = []
    matcher = difflib.SequenceMatcher(a=[b.role for b in left], b=[b.role for b in right], autojunk=False)
    for _, a0, a1, b0, b1 in matcher.get_opcodes():
        for at in range(max(a1 - a0, b1 - b0)):
            a = left[a0 + at] if a0 + at < a1 else None
            b = right[b0 + at] if b0 + at < b1 else None
            same = a is not None and b is not None and a.plain == b.plain
            lines.append(
                f'<div class="pair {"same" if same else "differs"}">{_side(a, b)}{_side(b, a)}</div>'
            )
    return "".join(lines)


def verdict(view: View) -> str:
    """What it earned, by components, and the expected answer beside the given one."""
    if view.kind == "malformed":
        said = f"{view.row['error']}\n\n{view.row['line']}"
        return card(tag("pre", text(said), css="wrap"), css="bad", title="this line can't be read")
    if view.failure:
        facts = "".join(f"<dt>{text(k)}</dt><dd>{text(v)}</dd>" for k, v in view.failure.items())
        return card(tag("dl", facts), css="bad", title=f"✗ failed: {view.failure.get('kind')}")
    state = "unscored" if view.reward is None else ("good" if view.success else "bad")
    sign = {"good": "✓ success", "bad": "✗ no success", "unscored": "not scored"}[state]
    shown = "\N{EN DASH}" if view.reward is None else f"{view.reward:.4g}"
    parts = "".join(
        tag("tr", tag("td", text(name)), cells("not scored" if value is None else f"{value:.4g}"))
        for name, value in view.components.items()
    )
    table = f"<table class=parts>{parts}</table>" if parts else ""
    answers = ""
    if view.expected is not None or view.given is not None:
        answers = (
            f'<div class="answers"><div><h4>expected</h4>{_answer(view.expected)}</div>'
            f"<div><h4>given</h4>{_answer(view.given)}</div></div>"
        )
    cut = '<p class="warn">⚠ truncated: the answer ends where the tokens did</p>' if view.truncated else ""
    return f'<section class="card {state}"><h3>{sign} · reward {shown}</h3>{cut}{table}{answers}</section>'


def waterfall(view: View) -> str:
    """Where the time went."""
    metadata = fields(view.row.get("metadata"))
    seconds = [
        (name, label, float(metadata[name]))
        for name, label in STEPS
        if isinstance(metadata.get(name), int | float)
    ]
    total = sum(s for _, _, s in seconds)
    if not total:
        return ""
    bars = "".join(
        f'<i class="{name}" style="width:{100 * s / total:.2f}%" title="{label}: {s:.3f} s"></i>'
        for name, label, s in seconds
    )
    legend = " ".join(f'<span><i class="{name}"></i>{label} {s:.3g} s</span>' for name, label, s in seconds)
    return card(tag("div", bars, css="fall"), tag("p", legend, css="legend"), title="time")


def _message(item: Json) -> list[Block]:
    role = ROLES.get(str(item.get("role")), "other")
    cards: list[Block] = []
    if item.get("reasoning_content"):
        cards.append(_thought(str(item["reasoning_content"])))
    content = item.get("content")
    said = content_text(content)
    if said or not item.get("tool_calls"):
        cards.append(
            Block(role=role, title=str(item.get("role") or "message"), plain=said, body=_content(content))
        )
    for call in cast(list[Any], item.get("tool_calls") or []):
        function = fields(fields(call).get("function"))
        cards.append(_call({"name": function.get("name"), "arguments": function.get("arguments")}, None))
    return cards


def _content(content: Any) -> str:
    if isinstance(content, str):
        return _thinking(content)
    if not isinstance(content, list):
        return pretty(content) if content is not None else '<p class="empty">empty</p>'
    shown: list[str] = []
    for part in cast(list[Any], content):
        if not isinstance(part, dict):
            shown.append(pretty(part))
            continue
        part = cast(Json, part)
        kind = str(part.get("type", ""))
        if part.get("logprobs"):
            shown.append(_logprobs(part))
        elif "text" in part or "refusal" in part:
            refused = "<p class=warn>refusal</p>" if part.get("refusal") else ""
            shown.append(refused + _thinking(str(part.get("text") or part.get("refusal") or "")))
        elif "image" in kind:
            url = part.get("image_url")
            url = cast(Json, url).get("url") if isinstance(url, dict) else url
            shown.append(image(str(url or ""), kind))
        else:
            shown.append(pretty(part))
    return "".join(shown)


def _thinking(said: str) -> str:
    """Text, with what stands between `<think>` tags folded."""
    before, tag, rest = said.partition("<think>")
    if not tag:
        return prose(said) if said.strip() else '<p class="empty">empty</p>'
    thought, _, after = rest.partition("</think>")
    folded = f"<details class=inner><summary>reasoning</summary>{prose(thought)}</details>"
    return (prose(before) if before.strip() else "") + folded + (prose(after) if after.strip() else "")


def _logprobs(part: Json) -> str:
    """Tokens shaded by how unlikely they were; the toggle shows the text instead."""
    tokens: list[str] = []
    for entry in cast(list[Any], part["logprobs"]):
        if not isinstance(entry, dict):
            continue
        token, logprob = cast(Json, entry).get("token", ""), cast(Json, entry).get("logprob")
        known = isinstance(logprob, int | float) and math.isfinite(logprob)
        shade = min(9, int(-1.8 * cast(float, logprob))) if known and cast(float, logprob) < 0 else 0
        tokens.append(f'<span class="lp{shade}" title="{text(logprob)}">{text(token)}</span>')
    plain = _thinking(str(part.get("text") or ""))
    return tag("div", *tokens, css="tokens") + tag(
        "details", "<summary>as text</summary>", plain, css="inner"
    )


def _reasoning(item: Json) -> Block:
    parts = [*cast(list[Any], item.get("summary") or []), *cast(list[Any], item.get("content") or [])]
    thought = "\n\n".join(str(fields(part).get("text", "")) for part in parts)
    return _thought(thought or "(encrypted or empty)")


def _thought(thought: str) -> Block:
    return Block(
        role="reasoning",
        title=f"reasoning, {len(thought):,} characters",
        plain=thought,
        body=prose(thought),
        folded=True,
    )


def _call(call: Json | None, output: Json | None) -> Block:
    """A tool call with its arguments and its result as one card."""
    name = str(call.get("name")) if call else "a call that is not here"
    arguments = call.get("arguments") if call else None
    parsed = parse_arguments(arguments)
    given = (
        pretty(parsed)
        if parsed is not None
        else f'<p class="warn">no JSON object</p><pre class="wrap">{text(arguments)}</pre>'
    )
    said = _output(output.get("output")) if output else '<p class="empty">no result</p>'
    body = f'<div class="io"><h4>arguments</h4>{given if call else ""}<h4>result</h4>{said}</div>'
    said_plainly = _dump(output.get("output")) if output else ""
    plain = f"{name} {_dump(arguments if parsed is None else parsed)} {said_plainly}"
    return Block(role="tool", title=f"tool · {name}", plain=plain, body=body)


def _output(output: Any) -> str:
    shown = output
    if isinstance(output, str):
        try:
            shown = orjson.loads(output)
        except orjson.JSONDecodeError:
            shown = output
    if isinstance(shown, str):
        body, size = f'<pre class="wrap">{text(shown)}</pre>', len(shown)
    else:
        body, size = pretty(shown), len(_dump(shown))
    return (
        f"<details class=inner><summary>{size:,} characters</summary>{body}</details>"
        if size > FOLD
        else body
    )


def _answer(value: Any) -> str:
    if value is None:
        return '<p class="empty">\N{EN DASH}</p>'
    return f'<pre class="wrap">{text(value)}</pre>' if isinstance(value, str | int | float) else pretty(value)


def _card(card: Block, number: int) -> str:
    head = f'<span class="role">{text(card.title)}</span>'
    if card.folded:
        return (
            f'<details class="item {card.role}" id="i{number}"><summary>{head}</summary>{card.body}</details>'
        )
    return f'<article class="item {card.role}" id="i{number}"><header>{head}</header>{card.body}</article>'


def _side(card: Block | None, other: Block | None) -> str:
    if card is None:
        return '<div class="item none"><p class="empty">no such step</p></div>'
    head = f'<header><span class="role">{text(card.title)}</span></header>'
    if other is None or card.plain == other.plain or max(len(card.plain), len(other.plain)) > LONG:
        return f'<div class="item {card.role}">{head}{card.body}</div>'
    mine, theirs = card.plain.split(" "), other.plain.split(" ")
    matcher = difflib.SequenceMatcher(a=theirs, b=mine, autojunk=len(mine) > 2000)
    marked = "".join(
        f"{text(' '.join(mine[b0:b1]))} "
        if kind == "equal"
        else f"<mark>{text(' '.join(mine[b0:b1]))}</mark> "
        for kind, _, _, b0, b1 in matcher.get_opcodes()
        if b1 > b0
    )
    return f'<div class="item {card.role}">{head}<pre class="wrap">{marked}</pre></div>'


def _dump(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value, default=str).decode()
