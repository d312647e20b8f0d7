"""The viewer's page behind Gradio: one HTML component that shows a route, and what moves between routes.

The address of the page is the route. A click on a link, a form or a key sends a route to the server, which
answers the page of it. Everything is served from this machine: a policy in every answer forbids the browser
to fetch anything else, and where the page is not bound to the loopback, a token is needed to see it.
"""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from pydantic import Field

from nemo_like.errors import MissingExtra, UsageError
from nemo_like.settings import Settings
from nemo_like.viewer.catalog import Catalog
from nemo_like.viewer.pages import Site
from nemo_like.viewer.parquet import as_jsonl
from nemo_like.viewer.rollouts_page import selection_of

HERE = Path(__file__).parent
DEFAULT_PORT = 7860
PORTS = 100
LOOPBACK = ("127.0.0.1", "localhost", "::1")
FOLLOW_S = 2.0
FIRST_ROUTE = "() => location.search.slice(1) || 'view=overview'"
COOKIE = "ng_viewer_token"
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; connect-src 'self'; frame-src 'none'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)


class ViewerConfig(Settings):
    """What `ng_viewer` shows, and where."""

    jsonl_fpath: Path | list[Path]
    """A rollouts file, or several to compare: JSONL (or parquet) of this project, NeMo Gym, verl or TRL."""
    server_host: str = "127.0.0.1"
    """Address to bind to; anything but the loopback asks for the token that is printed."""
    server_port: int | None = Field(None, ge=1, le=65535)
    """Port; null is 7860 or the next free one."""


async def serve(config: ViewerConfig, on_ready: Callable[[str], None]) -> None:
    """Show the files until the task is cancelled; `on_ready` is told the address.

    Raises:
        UsageError: there is no such file, or the port is taken.
        MissingExtra: Gradio is not installed.
    """
    paths = config.jsonl_fpath if isinstance(config.jsonl_fpath, list) else [config.jsonl_fpath]
    for path in paths:
        if not path.is_file():
            raise UsageError(f"there is no file {path}; ng_collect_rollouts writes one")
    with ExitStack() as stack, _listener(config) as listener:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ng_viewer-")))
        catalogs = [stack.enter_context(Catalog(as_jsonl(path, folder))) for path in paths]
        token = "" if config.server_host in LOOPBACK else secrets.token_urlsafe(16)
        server = uvicorn.Server(
            uvicorn.Config(application(catalogs, token), log_level="warning", access_log=False)
        )
        host, port = listener.getsockname()[:2]
        query = f"?token={token}" if token else ""
        on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}/{query}")
        await server.serve(sockets=[listener])


def application(catalogs: list[Catalog], token: str = "") -> FastAPI:
    """The web application over some files."""
    site = Site(catalogs)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.middleware("http")
    async def guard(request: Request, answer: Callable[[Request], Awaitable[Response]]) -> Response:
        given = request.query_params.get("token") or request.cookies.get(COOKIE, "")
        if token and not secrets.compare_digest(given.encode(), token.encode()):
            return PlainTextResponse("the address that ng_viewer printed holds a token; open that one", 403)
        if not token and request.url.hostname not in LOOPBACK:
            # A name of somebody's own that leads to this machine (DNS rebinding).
            return PlainTextResponse("ng_viewer answers on the loopback address only", 403)
        if token and "token" in request.query_params:
            response = RedirectResponse(str(request.url.remove_query_params("token")))
            response.set_cookie(COOKIE, token, httponly=True, samesite="strict")
        else:
            response = await answer(request)
        response.headers["content-security-policy"] = POLICY
        response.headers["x-content-type-options"] = "nosniff"
        response.headers["referrer-policy"] = "no-referrer"
        return response

    @app.get("/export")
    def export(request: Request) -> Response:
        route = dict(request.query_params)
        catalog = site.catalog(route)
        try:
            lines: Iterator[bytes] = catalog.lines(selection_of(route))
            first = next(lines, b"")
        except UsageError as error:
            return PlainTextResponse(str(error), 400)

        def body() -> Iterator[bytes]:
            yield first
            yield from lines

        name = f"{catalog.path.stem}_selected.jsonl"
        headers = {"content-disposition": f'attachment; filename="{name}"'}
        return StreamingResponse(body(), media_type="application/jsonl", headers=headers)

    return _mounted(app, site)


def _mounted(app: FastAPI, site: Site) -> FastAPI:
    # Exactly this: anything else, and the server asks for the machine's place on the internet.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import gradio as gr  # takes two seconds, and only this command wants it
        from gradio.themes import Base
    except ModuleNotFoundError as error:
        raise MissingExtra("ng_viewer needs Gradio: pip install 'nemo-like[viewer]'") from error

    def show(address: str) -> tuple[str, str]:
        route = dict(parse_qsl(address.removeprefix("?")))
        return site.render(route), site.status(route)

    def follow(address: str, status: str) -> tuple[Any, Any]:
        unchanged = cast(Any, gr.skip())  # pyright: ignore[reportUnknownMemberType]  # half typed
        route = dict(parse_qsl(address.removeprefix("?")))
        now = site.status(route)
        if now == status:
            return unchanged, unchanged
        # A list or a rollout stays as it is under the reader's eyes.
        moves = route.get("view", "overview") == "overview"
        return (site.render(route) if moves else unchanged), now

    def note(message: str) -> str:
        said = orjson.loads(message)
        route = dict(parse_qsl(str(said["route"]).removeprefix("?")))
        try:
            site.note(route, str(said.get("mark", "")), str(said.get("remark", "")))
        except OSError as error:
            return site.render(route, f"the note can't be written: {error}")
        return site.render(route)

    with gr.Blocks(title="ng_viewer", analytics_enabled=False, fill_width=True) as demo:
        address = gr.Textbox(elem_id="ng-route", elem_classes="ng-hidden", show_label=False, container=False)
        message = gr.Textbox(elem_id="ng-note", elem_classes="ng-hidden", show_label=False, container=False)
        status = gr.HTML(elem_id="ng-status")
        page = gr.HTML('<p class="viewer empty">loading…</p>', elem_id="ng-page")
        quiet: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        demo.load(None, None, address, js=FIRST_ROUTE)
        address.change(show, address, [page, status], trigger_mode="always_last", **quiet)
        message.change(note, message, page, **quiet)
        gr.Timer(FOLLOW_S).tick(follow, [address, status], [page, status], **quiet)
    return gr.mount_gradio_app(  # pyright: ignore[reportUnknownMemberType]  # half typed
        *(app, demo),
        path="/",
        css=(HERE / "page.css").read_text(),
        head=f"<script>{(HERE / 'page.js').read_text()}</script>",
        theme=Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        allowed_paths=[],
        ssr_mode=False,
        enable_monitoring=False,
        footer_links=[],
        show_error=False,
    )


def _listener(config: ViewerConfig) -> socket.socket:
    """A listening socket on the port asked for, or on the next free one from 7860 on."""
    family = socket.AF_INET6 if ":" in config.server_host else socket.AF_INET
    ports = [config.server_port] if config.server_port else range(DEFAULT_PORT, DEFAULT_PORT + PORTS)
    for port in ports:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.server_host, port))
            listener.listen(128)
        except OSError:
            listener.close()
        else:
            return listener
    raise UsageError(
        f"{config.server_host}:{config.server_port or f'{DEFAULT_PORT} and the next {PORTS}'} is in use"
    )
