"""What of the web server is open: the routes that the page itself uses, with bodies of bounded size."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tost.app.limits import MAX_BYTES

ROUTES = {
    "GET": (
        "/assets/", "/static/", "/svelte/", "/config", "/theme.css", "/gradio_api/theme.css", "/favicon.ico",
        "/gradio_api/info", "/gradio_api/app_id", "/gradio_api/heartbeat/", "/gradio_api/queue/data",
        "/gradio_api/upload_progress", "/gradio_api/file=", "/gradio_api/startup-events",
    ),
    "POST": ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/cancel", "/gradio_api/reset"),
}  # fmt: skip
UPLOAD = "/gradio_api/upload"
BODY_BYTES = 2**18  # of any other request: sliders, a prompt, the names of files
FORM_BYTES = 2**16  # around an uploaded file
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """ASGI middleware that answers 404 for other routes, 413 for too large a body, 400 for a file that is an address.

    hosts: names by which the page may be asked for, or None for any; on the loopback address no other name is right,
    and a foreign site that points its own name there gets nothing.
    """

    def __init__(self, app: Any, hosts: tuple[str, ...] | None = LOOPBACK) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        status = refused(scope, self.hosts)
        if status is None and scope["method"] == "POST" and not scope["path"].startswith(UPLOAD):
            body, status = await read_body(receive)
            receive = replay(body, receive)
        if status is not None:
            await answer(send, *status)
            return
        await self.app(scope, receive, send)


def refused(scope: Scope, hosts: tuple[str, ...] | None) -> tuple[int, str] | None:
    """Status and words for a request that is turned away by its head, or None."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    if hosts is not None and host_name(headers.get("host", "")) not in hosts:
        return 403, "this page answers its own address alone"
    path, method = scope["path"], "GET" if scope["method"] == "HEAD" else scope["method"]
    if not path.startswith(ROUTES.get(method, ())) and (method, path) != ("GET", "/"):
        return 404, "there is nothing here"
    if method == "POST":
        length, most = headers.get("content-length", ""), BODY_BYTES
        if path.startswith(UPLOAD):
            most = MAX_BYTES + FORM_BYTES
        if not length.isdigit():
            return 411, "the request does not say how long it is"
        if int(length) > most:
            return 413, f"the request is larger than {most:,} bytes"
    return None


def host_name(host: str) -> str:
    """The name in a Host header, without port and brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


async def read_body(receive: Receive) -> tuple[bytes, tuple[int, str] | None]:
    """The body, and why it is turned away if it is: too long, or it names a file by an address to fetch it from."""
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return body, (400, "the request ended early")
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > BODY_BYTES:
            return body, (413, f"the request is larger than {BODY_BYTES:,} bytes")
    try:
        told = json.loads(body or b"null")
    except (ValueError, RecursionError):
        return body, (400, "the request is not JSON")
    return body, (400, "files are uploaded, not fetched") if names_address(told) else None


def names_address(told: Any) -> bool:
    """Whether a file anywhere in a request is given as an address."""
    todo = [told]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            path = item.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            todo += item.values()
        elif isinstance(item, list):
            todo += item
    return False


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out a body that was read, then what comes after it."""
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> MutableMapping[str, Any]:
        return waiting.pop() if waiting else await receive()

    return again


async def answer(send: Send, status: int, words: str) -> None:
    """A short answer in plain text."""
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
