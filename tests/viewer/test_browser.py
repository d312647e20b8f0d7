"""The viewer in a real browser: every view, link, filter and key; a file that grows; attacks."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ..conftest import BIN
from .rows import failure, rollout, some_rollouts, write
from .test_pages import ATTACKS, everywhere

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or "/usr/bin/chromium"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@contextmanager
def viewer(*arguments: str, folder: Path) -> Iterator[str]:
    """`ng_viewer` as a person starts it; its address."""
    command = [str(BIN / "ng_viewer"), *arguments]
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http"), process.stderr.read()
        try:
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
            assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer")
    write(folder / "r.jsonl", [*some_rollouts(), failure(3)])
    write(folder / "other.jsonl", [row | {"reward": 1.0, "success": True} for row in some_rollouts()])
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with viewer("+jsonl_fpath=[r.jsonl,other.jsonl]", folder=folder) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.set_default_timeout(20_000)
        outside: list[str] = []
        broken: list[str] = []
        page.on("request", lambda request: outside.append(request.url) if is_outside(request.url) else None)
        page.on("dialog", lambda dialog: broken.append(dialog.message))
        page.on("pageerror", lambda error: broken.append(str(error)))
        yield page
        assert (outside, broken) == ([], [])


def is_outside(url: str) -> bool:
    return not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:", url)


def test_a_person_goes_from_the_overview_to_a_rollout_and_on_by_keys(page: Page, address: str) -> None:
    page.goto(address)
    expect(page.get_by_label("metrics")).to_contain_text("success")
    page.get_by_label(re.compile("^reward = 0")).click()
    expect(page.locator(".tools")).to_contain_text("15 selected")
    assert "q=reward+%3D%3D+0.0" in page.url
    page.locator("table.list a.open").first.click()
    expect(page.locator("h2")).to_contain_text("task key0 · repeat 0")
    page.keyboard.press("j")
    expect(page.locator("h2")).to_contain_text("task key0 · repeat 1")
    page.keyboard.press("k")
    expect(page.locator("h2")).to_contain_text("task key0 · repeat 0")
    page.keyboard.press("n")
    expect(page.locator("h2")).to_contain_text("task key0 · repeat 1")
    page.keyboard.press("u")
    expect(page.locator(".tools")).to_contain_text("15 selected")
    page.go_back()
    expect(page.locator("h2")).to_contain_text("task key0 · repeat 1")


def test_every_view_has_an_address_that_opens_it(page: Page, address: str) -> None:
    for route, words in (
        ("?view=rollouts&sort=tokens&desc=1", "31 selected"),
        ("?view=rollouts&q=tool+%3D%3D+%22search%22+and+reward+%3C+0.5", "8 selected"),
        ("?view=tasks", "hardest first"),
        ("?view=rollout&task=key4&repeat=1", "task key4 · repeat 1"),
        ("?view=compare&a=1&b=2", "task key0 · repeat 1"),
        ("?view=compare", "9 won"),
        ("?view=overview&file=1", "other.jsonl"),
    ):
        page.goto(address + route)
        expect(page.locator("#main")).to_contain_text(words)


def test_a_query_and_a_search_are_typed_and_mistakes_are_said(page: Page, address: str) -> None:
    page.goto(address + "?view=rollouts")
    page.locator("input[name=q]").fill('task == "key5" and success')
    page.keyboard.press("Enter")
    expect(page.locator(".tools")).to_contain_text("2 selected")
    page.locator("input[name=q]").fill("reward >")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("the query can't be read")
    page.goto(address + "?view=rollouts")
    page.locator("#main .list").wait_for()
    page.keyboard.press("/")
    page.keyboard.type('"question 7"')
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_contain_text("selected")
    for _ in range(20):
        if page.locator(".tools").inner_text().startswith("3 selected"):
            break
        page.wait_for_timeout(250)
        page.reload()
        page.locator(".tools").wait_for()
    expect(page.locator(".tools")).to_contain_text("3 selected")


def test_a_column_head_sorts(page: Page, address: str) -> None:
    page.goto(address + "?view=rollouts")
    page.get_by_role("link", name="tokens").click()
    expect(page.locator("tbody tr").first).to_contain_text("902")
    page.get_by_role("link", name="tokens").click()
    expect(page.locator("tbody tr").first).to_contain_text("timeout")


def test_what_is_selected_is_downloaded_byte_for_byte(
    page: Page, address: str, folder: Path, tmp_path: Path
) -> None:
    page.goto(address + "?view=rollouts&q=task+%3D%3D+%22key5%22")
    with page.expect_download() as download:
        page.get_by_role("link", name="export as JSONL").click()
    download.value.save_as(tmp_path / "subset.jsonl")
    lines = (folder / "r.jsonl").read_bytes().splitlines(keepends=True)
    assert (tmp_path / "subset.jsonl").read_bytes() == b"".join(lines[15:18])


def test_a_remark_is_kept(page: Page, address: str, folder: Path) -> None:
    page.goto(address + "?view=rollout&task=key6&repeat=0")
    page.locator("input[name=remark]").fill("looks odd <b>")
    page.get_by_role("button", name="? odd").click()
    expect(page.locator(".notes")).to_contain_text("looks odd <b>")
    [note] = [json.loads(line) for line in (folder / "r.notes.jsonl").read_text().splitlines()]
    assert (note["_ng_task_key"], note["mark"]) == ("key6", "odd")


def test_a_file_that_grows_is_followed_without_moving_what_is_read(page: Page, tmp_path: Path) -> None:
    path = write(tmp_path / "live.jsonl", [rollout(0)])
    with viewer("+jsonl_fpath=live.jsonl", folder=tmp_path) as address:
        page.goto(address)
        expect(page.locator("#ng-status")).to_contain_text("1 rows")
        write(path, [rollout(1), json.dumps(rollout(2)).encode()[:40]])
        expect(page.locator("#ng-status")).to_contain_text("2 rows")
        expect(page.locator("#main .facts")).to_contain_text("2")
        page.goto(address + "?view=rollout&task=key0&repeat=0")
        page.locator("summary", has_text="reasoning").click()
        expect(page.get_by_text("thought 0", exact=True)).to_be_visible()
        write(path, [json.dumps(rollout(2)).encode()[40:] + b"\n"])
        expect(page.locator("#ng-status")).to_contain_text("3 rows")
        expect(page.get_by_text("thought 0", exact=True)).to_be_visible()


def test_attacks_are_inert_in_the_browser(page: Page, tmp_path: Path) -> None:
    rows: list[Any] = [everywhere(attack.replace("\ud800", "")) for attack in ATTACKS]
    write(tmp_path / "bad.jsonl", rows)
    with viewer("+jsonl_fpath=bad.jsonl", folder=tmp_path) as address:
        for route in (
            "",
            "?view=rollouts",
            "?view=tasks",
            *(f"?view=rollout&id={i + 1}" for i in range(0, len(rows), 3)),
        ):
            page.goto(address + route)
            page.locator("#main").wait_for()
            page.wait_for_timeout(50)
            assert (
                page.locator("#main script, #main iframe, #main svg, #main style, #main form[action]").count()
                == 0
            )
            assert "49 " not in page.locator("#main").inner_text()


def test_no_other_file_is_served_and_no_other_name_answered(address: str, folder: Path) -> None:
    (folder / "secret.txt").write_text("secret")
    for path in (
        f"gradio_api/file={folder}/secret.txt",
        f"file={folder}/secret.txt",
        "gradio_api/file=/etc/passwd",
        "../secret.txt",
    ):
        try:
            with urlopen(address + path, timeout=10) as answer:
                body = answer.read()
        except OSError:
            continue
        assert b"secret" not in body and b"root:" not in body
    with pytest.raises(OSError, match="403"):
        urlopen(Request(address, headers={"host": "rebound.example.com"}), timeout=10)


def test_another_address_than_the_loopback_wants_the_token(page: Page, folder: Path) -> None:
    with viewer("+jsonl_fpath=r.jsonl", "+server_host=0.0.0.0", folder=folder) as printed:
        address = printed.replace("0.0.0.0", "127.0.0.1")
        bare = address.partition("?")[0]
        for path in ("", "export?view=rollouts", "config"):
            with pytest.raises(OSError, match="403"):
                urlopen(bare + path, timeout=10)
        page.goto(address)
        expect(page.get_by_label("metrics")).to_contain_text("success")
        assert "token" not in page.url


@pytest.mark.parametrize(
    ("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]
)
def test_every_page_fits_its_width_and_is_readable(
    browser: Browser, address: str, width: int, scheme: Any
) -> None:
    with browser.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme) as context:
        page = context.new_page()
        for route in (
            "",
            "?view=rollouts",
            "?view=tasks",
            "?view=rollout&id=9",
            "?view=compare&a=1&b=2",
            "?view=compare",
        ):
            page.goto(address + route)
            page.locator("#main").wait_for()
            assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, route
            assert page.evaluate(CONTRAST) >= 4.5, route


CONTRAST = """() => {
  const channel = (v) => (v /= 255, v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0.99) return c; }
    return [255, 255, 255]; };
  let least = 21;
  for (const e of document.querySelectorAll("#main *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    if (e.closest(".off, .same, .code")) continue;
    const a = light(parse(getComputedStyle(e).color)), b = light(behind(e));
    least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
  }
  return least;
}"""
