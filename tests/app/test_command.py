"""`tost app`: mistakes in one line before anything is loaded, the next free port, errors of the page in a sentence."""

import socket
import sys

import pytest

from tost.app.command import address, free_port
from tost.cli import main


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["/absent/run"], "/absent/run: no such run"),
        (["--port", "70000"], "0 to 65535"),
        (["--port", "http"], "--port: expected int"),
        (["--share"], "unknown option --share"),
        (["--prt", "1"], "did you mean --port"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told, capsys):
    pytest.importorskip("gradio")
    assert main(["app", *arguments]) == 2
    printed = capsys.readouterr().err
    assert told in printed and printed.count("\n") == 1 and printed.startswith("tost app: ")


def test_the_help_teaches(capsys):
    assert main(["app", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("Image:", "Text:", "Speed:", "Ctrl-C", "tost app runs/A runs/B", "--host", "--port"):
        assert word in printed


def test_without_gradio_the_extra_is_named(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["app"]) == 2
    assert "pip install 'tost-transformer[app]'" in capsys.readouterr().err


def test_a_port_in_use_is_passed_over():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port("127.0.0.1", port) < port + 100
    assert free_port("127.0.0.1", 0) > 0


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(ValueError, match=r"cannot listen at 192\.0\.2\.1"):
        free_port("192.0.2.1", 8000)


def test_addresses_as_a_browser_wants_them():
    assert [address(host) for host in ("127.0.0.1", "0.0.0.0", "::1")] == ["127.0.0.1", "localhost", "[::1]"]


def test_errors_are_told_kindly(capsys):
    gr = pytest.importorskip("gradio")
    from tost.app.errors import kindly

    def fails(error):
        raise error

    def begins(error):
        yield 1
        raise error

    for error, told in (
        (ValueError("too <b>large</b>"), "too &lt;b&gt;large&lt;/b&gt;"),
        (MemoryError(), "not enough memory"),
        (KeyError("secret"), "the terminal says what"),
    ):
        for call in (lambda e: kindly(fails)(e), lambda e: list(kindly(begins)(e))):
            with pytest.raises(gr.Error) as caught:
                call(error)
            assert told in caught.value.message and "secret" not in caught.value.message
            assert caught.value.print_exception is False
    assert capsys.readouterr().err.count("tost app: KeyError: 'secret'") == 2
    assert list(kindly(lambda: iter([1, 2]))()) == [1, 2]
