"""`tost app`."""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from tost.app.gate import LOOPBACK
from tost.extras import require
from tost.training.parsing import parse_with

SUMMARY = "look inside a trained model in the browser"
PORT = 7860
PORTS = 100  # tried, from the given one on
DESCRIPTION = f"""{SUMMARY}, on this machine alone.

Image: a picture's class, who holds which patch in every layer, where the class is read, the compression rate.
Text:  what a language model writes, what it keeps between two tokens, who holds each token.
Speed: time and memory of the operator beside softmax attention, measured while you watch.

Without RUN the page shows two small models that come with tost: flowers (photographs) and stdlib (Python source).
"""
EXAMPLES = """examples:
  tost app                          the shipped models
  tost app runs/vision-digits       a vision run, beside the shipped language model
  tost app runs/A runs/B            a vision and a language run
  tost app --port 8080              at another port

Ctrl-C ends it. Nothing is sent anywhere: the page loads from this machine alone, uploads stay in a temporary folder
that goes when the page does.
"""


def app(arguments: Sequence[str]) -> None:
    """Parse the command line and serve the page until Ctrl-C."""
    from jsonargparse import ArgumentParser, DefaultHelpFormatter

    class Formatter(DefaultHelpFormatter):
        """Keeps the lines of the description and the examples."""

        def _fill_text(self, text: str, width: int, indent: str) -> str:
            return text

    parser = ArgumentParser(
        prog="tost app", description=DESCRIPTION, epilog=EXAMPLES, formatter_class=Formatter, exit_on_error=False
    )
    parser.add_argument(
        "run", nargs="*", default=[], help="folder of a finished run: one vision run, one language run, or both"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen at; the default answers this machine alone"
    )
    parser.add_argument("--port", type=int, default=PORT, help="port to listen at (0: any; in use: the next free one)")
    given = parse_with(parser, arguments)
    serve(given["run"] or [], given["host"], given["port"])


def serve(runs: Sequence[str], host: str, port: int) -> None:
    """Load the models, open the page, tell its address, and wait for Ctrl-C."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is a number from 0 to 65535, got {port}")
    require("PIL", extra="app")
    require("transformers", extra="app")
    for name in [name for name in os.environ if name.startswith("GRADIO_")]:
        del os.environ[name]  # such as a list of folders to serve
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="tost-app-") as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        require("gradio", extra="app")  # reads them
        from tost.app.models import choose_runs, open_text, open_vision
        from tost.app.page import build

        vision, language = choose_runs(runs)
        print(f"loading {vision} and {language} ...", flush=True)
        blocks = build(open_vision(vision), open_text(language))
        chosen = free_port(host, port)
        if port not in (0, chosen):
            print(f"port {port} is in use, so the page is at {chosen}", flush=True)
        try:
            launch(blocks, host, chosen)
            print(f"the page is at http://{address(host)}:{chosen} (Ctrl-C ends it)", flush=True)
            wait()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("the page is closed") from None
        finally:
            close(blocks)


def launch(blocks: Any, host: str, port: int) -> None:
    """Serve the page in a thread: no link to it from outside, no files but its own, no pages but itself."""
    from starlette.middleware import Middleware

    from tost.app.gate import Gate
    from tost.app.limits import MAX_BYTES
    from tost.app.page import theme
    from tost.app.palette import style

    hosts = LOOPBACK if host in LOOPBACK else None
    blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        quiet=True,
        prevent_thread_lock=True,
        show_error=False,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        max_file_size=MAX_BYTES,
        max_threads=8,
        state_session_capacity=32,
        enable_monitoring=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        root_path="",
        app_kwargs={"middleware": [Middleware(Gate, hosts=hosts)], "docs_url": None, "redoc_url": None},
        theme=theme(),
        css=style(),
    )


def close(blocks: Any) -> None:
    """End the server without waiting for the streams that open pages hold."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)  # which would call that an error
    if getattr(blocks, "server", None) is not None:
        blocks.server.force_exit = True
    blocks.close(verbose=False)


def end(*_: Any) -> None:
    """What a request to end does: as an exception it lets the temporary files be removed."""
    raise SystemExit(128 + signal.SIGTERM)


def wait() -> None:
    """Until Ctrl-C or a request to end."""
    while not threading.Event().wait(1):  # a wait without end would not hear Ctrl-C on Windows
        pass


def free_port(host: str, port: int) -> int:
    """The first port from `port` on that can be listened at (0: any); ValueError if none of PORTS can."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    reason: OSError | None = None
    for candidate in range(port, min(port + PORTS, 65536)) if port else (0,):
        with socket.socket(family, socket.SOCK_STREAM) as trial:
            if os.name != "nt":
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host, candidate))
                return trial.getsockname()[1]
            except OSError as error:
                reason = error
    raise ValueError(f"cannot listen at {host}, ports {port} to {port + PORTS - 1}: {reason}; choose another --port")


def address(host: str) -> str:
    """The host as a browser wants it."""
    if host in ("0.0.0.0", "::"):
        return "localhost"
    return f"[{host}]" if ":" in host else host
