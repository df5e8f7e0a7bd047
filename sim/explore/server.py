"""The local server of the explorer: one page, and answers to what is moved on it. Starlette on uvicorn.

It listens on the loopback alone, answers requests that name this machine alone, and takes questions as JSON alone, so
that pages of others cannot ask.

Public: `serve`, `application`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sim.errors import OutputError, Problem
from sim.explore.desk import Desk, Reply

HOST = "127.0.0.1"
LARGEST = 1_000_000  # bytes of a question
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:"


def application(first: str, desk: Desk, searcher: Desk) -> Starlette:
    """The server as an ASGI application; `first` is the experiment that the page opens with."""

    async def page(request: Request) -> Response:
        return HTMLResponse(page_text(first), headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-store"})

    async def answer(request: Request) -> Response:
        question = await _question(request)
        if question is None:
            return _refused()
        reply = await _patient(request, desk, question)
        return JSONResponse(reply)

    async def plan(request: Request) -> Response:
        question = await _question(request)
        if question is None:
            return _refused()
        return StreamingResponse(_lines(searcher.ask("plan", question)), media_type="application/x-ndjson")

    async def cancel(request: Request) -> Response:
        if await _question(request) is None:
            return _refused()
        searcher.cancel()
        return JSONResponse({"cancelled": True})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        desk.start()
        yield
        desk.close()
        searcher.close()

    routes = [
        Route("/", page),
        Route("/answer", answer, methods=["POST"]),
        Route("/plan", plan, methods=["POST"]),
        Route("/cancel", cancel, methods=["POST"]),
    ]
    guard = Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])
    return Starlette(routes=routes, middleware=[guard], lifespan=lifespan)


def page_text(first: str) -> str:
    """The page with its style and script inside."""
    here = files("sim.explore")
    parts = {name: here.joinpath(name).read_text(encoding="utf-8") for name in ("page.html", "page.js", "page.css")}
    shared = files("sim.report.page").joinpath("page.css").read_text(encoding="utf-8")
    start = json.dumps({"base": first}).replace("<", "\\u003c")
    text = parts["page.html"].replace("/* style */", shared + parts["page.css"])
    return text.replace("/* start */", f"const START = {start};").replace("/* script */", parts["page.js"])


async def _question(request: Request) -> dict[str, Any] | None:
    """What was asked; None where it is no JSON mapping, or too much."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        return None
    size = request.headers.get("content-length", "")
    if not size.isdigit() or int(size) > LARGEST:
        return None
    try:
        found = await request.json()
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _refused() -> Response:
    return JSONResponse({"problems": ["a question is a JSON mapping of at most 1 MB"]}, status_code=400)


async def _patient(request: Request, desk: Desk, question: dict[str, Any]) -> Reply:
    """The answer; the work stops when whoever asked has gone, as with a slider that moves on."""
    reply: Reply = {}
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(0.02)
            desk.cancel()

        group.start_soon(watch)
        reply = await anyio.to_thread.run_sync(lambda: list(desk.ask("answer", question))[-1])
        group.cancel_scope.cancel()
    return reply


async def _lines(replies: Iterator[Reply]) -> AsyncIterator[str]:
    """Replies as they come, a line of JSON each."""
    done = object()
    while (reply := await anyio.to_thread.run_sync(next, replies, done)) is not done:
        yield json.dumps(reply) + "\n"


def serve(first: str, port: int, told: Callable[[str], None]) -> None:
    """Serve until interrupted; `told` gets the address once the page can be opened. Raises OutputError."""
    listening = _socket(port)
    address = f"http://{HOST}:{listening.getsockname()[1]}/"
    server = uvicorn.Server(uvicorn.Config(application(first, Desk(), Desk()), log_level="warning", lifespan="on"))
    told(address)
    server.run(sockets=[listening])


def _socket(port: int) -> socket.socket:
    """A listening socket of this machine alone; with port 0 any that is free."""
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((HOST, port))
    except OSError as error:
        made.close()
        raise OutputError(
            Problem("--port", "", f"{port}: {error.strerror}", "leave it out to take a free one")
        ) from None
    made.listen()
    return made
