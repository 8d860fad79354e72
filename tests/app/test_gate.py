"""The server answers the page's own requests and no others."""

import asyncio
import json

import pytest

from tost.app import gate
from tost.app.gate import Gate, names_address, refused

OWN = [(b"host", b"127.0.0.1:7860")]


def ask(method, path, headers=OWN, body=b"", pieces=1):
    """(status, body the page behind the gate got) of a request through the gate."""
    got, sent = [], []

    async def page(scope, receive, send):
        more = method == "POST"
        data = b""
        while more:
            message = await receive()
            data += message["body"]
            more = message["more_body"]
        got.append(data)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    size = max(1, -(-len(body) // pieces))
    parts = [body[i : i + size] for i in range(0, len(body), size)] or [b""]
    waiting = [{"type": "http.request", "body": p, "more_body": i + 1 < len(parts)} for i, p in enumerate(parts)]

    async def receive():
        return waiting.pop(0)

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Gate(page)(scope, receive, send))
    return sent[0]["status"], got[0] if got else None


def with_length(body, headers=OWN):
    return [*headers, (b"content-length", str(len(body)).encode())]


@pytest.mark.parametrize(
    "path", ["/", "/config", "/theme.css", "/assets/index.js", "/gradio_api/queue/data", "/gradio_api/file=x"]
)
def test_what_the_page_loads_is_open(path):
    assert ask("GET", path)[0] == ask("HEAD", path)[0] == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/gradio_api/proxy=http://a.b/c"), ("GET", "/monitoring"),
        ("GET", "/gradio_api/stream/a/b/c/playlist.m3u8"), ("POST", "/gradio_api/call/show"), ("PUT", "/"),
        ("GET", "/gradio_api/runs"), ("POST", "/gradio_api/run/predict"), ("POST", "/gradio_api/component_server"),
        ("DELETE", "/config"), ("POST", "/gradio_api/process_recording"), ("POST", "/login"), ("POST", "/"),
        ("GET", "/gradio_api/upload"),
    ],
)  # fmt: skip
def test_everything_else_is_closed(method, path):
    assert ask(method, path, with_length(b""))[0] == 404


@pytest.mark.parametrize("host", ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", ""])
def test_a_foreign_name_gets_nothing(host):
    assert ask("GET", "/", [(b"host", host.encode())])[0] == 403
    scope = {"method": "GET", "path": "/", "headers": [(b"host", host.encode())]}
    assert refused(scope, None) is None  # bound to another address, the machine has names that nobody knows


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:7860", "127.0.0.1"])
def test_the_loopback_names_are_right(host):
    assert ask("GET", "/", [(b"host", host.encode())])[0] == 200


def test_a_body_passes_whole(monkeypatch):
    body = json.dumps({"data": ["def ", 3]}).encode()
    for pieces in (1, 4):
        assert ask("POST", "/gradio_api/queue/join", with_length(body), body, pieces) == (200, body)


def test_bodies_are_bounded(monkeypatch):
    monkeypatch.setattr(gate, "BODY_BYTES", 100)
    body = json.dumps("x" * 200).encode()
    path = "/gradio_api/queue/join"
    assert ask("POST", path, with_length(body), body)[0] == 413
    assert ask("POST", path, OWN, body)[0] == 411
    assert ask("POST", path, with_length(b"1"), body, 10) == (413, None)  # longer than it says
    assert ask("POST", path, with_length(b"{"), b"{")[0] == 400
    assert ask("POST", "/gradio_api/upload", [*OWN, (b"content-length", b"99999999999")])[0] == 413


def test_deeply_nested_json_is_refused_or_read():
    body = b"[" * 100_000 + b"]" * 100_000
    assert ask("POST", "/gradio_api/queue/join", with_length(body), body)[0] in (200, 400)


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        ({"data": [{"path": "http://a.example/x.png", "meta": {"_type": "gradio.FileData"}}]}, True),
        ({"data": [[{"a": {"path": "file:///etc/passwd"}}]]}, True),
        ({"data": [{"path": "/tmp/a/x.png", "url": "http://127.0.0.1/x.png"}]}, False),
        ({"data": ["see http://a.example"]}, False),
        (None, False),
    ],
)
def test_files_are_uploaded_not_fetched(told, wrong):
    assert names_address(told) == wrong
    body = json.dumps(told).encode()
    assert ask("POST", "/gradio_api/queue/join", with_length(body), body)[0] == (400 if wrong else 200)
