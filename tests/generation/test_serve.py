"""`tost serve` answers the client of the OpenAI protocol: whole, streamed, as a chat, and says why it refuses."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from tests.textmodels import PROMPT, TEXT, save_model
from tost.cli import main
from tost.generation import Sampling, generate_text

pytest.importorskip("uvicorn")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "my-run"
    return folder, *save_model(folder)


@pytest.fixture(scope="module")
def server(saved):
    """The address of a real server in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tost", "serve", str(saved[0]), "--port", str(port)]
    with subprocess.Popen(command, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, stdout=subprocess.PIPE) as process:
        try:
            address = f"http://127.0.0.1:{port}"
            for _ in range(1200):
                assert process.poll() is None, "the server has ended"
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    time.sleep(0.1)
            yield f"{address}/v1"
        finally:
            process.terminate()
            process.communicate(timeout=60)


@pytest.fixture(scope="module")
def client(server):
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=server, api_key="none", max_retries=0) as client:
        yield client


def wanted(saved, prompt, n):
    return generate_text(saved[1], saved[2], prompt, Sampling(n, 0)).text


def test_the_model_is_listed(client):
    assert [model.id for model in client.models.list()] == ["my-run"]


def test_a_prompt_is_completed(client, saved):
    answer = client.completions.create(model="my-run", prompt=PROMPT, max_tokens=12, temperature=0)
    assert answer.choices[0].text == wanted(saved, PROMPT, 12)
    assert answer.usage.completion_tokens == 12 and answer.choices[0].finish_reason == "length"


def test_a_completion_streams(client, saved):
    chunks = client.completions.create(model="my-run", prompt=PROMPT, max_tokens=12, temperature=0, stream=True)
    text = "".join(chunk.choices[0].text or "" for chunk in chunks)
    assert text == wanted(saved, PROMPT, 12).rstrip("\ufffd")  # half a character at the end is not sent


def test_samples_differ_by_seed(client):
    texts = [client.completions.create(model="my-run", prompt=PROMPT, max_tokens=8, seed=s) for s in (1, 1, 2)]
    first, same, other = (answer.choices[0].text for answer in texts)
    assert first == same != other


def test_a_chat_is_its_messages_line_by_line(client, saved):
    messages = [{"role": "system", "content": "the mat"}, {"role": "user", "content": PROMPT}]
    whole = client.chat.completions.create(model="my-run", messages=messages, max_tokens=9, temperature=0)
    want = wanted(saved, f"the mat\n{PROMPT}\n", 9)
    assert whole.choices[0].message.content == want
    chunks = client.chat.completions.create(model="my-run", messages=messages, max_tokens=9, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == want


def test_the_server_goes_past_the_position_table(client, saved):
    answer = client.completions.create(model="my-run", prompt=TEXT, max_tokens=4, temperature=0)  # the table has 48
    assert answer.usage.prompt_tokens > 48 and answer.usage.completion_tokens == 4


@pytest.mark.parametrize(
    ("body", "told"),
    [({"prompt": "", "model": "my-run"}, "empty prompt"), ({"prompt": "a", "model": "other"}, "my-run")],
    ids=["empty", "other-model"],
)
def test_a_request_that_cannot_be_answered_is_refused(server, body, told):
    request = urllib.request.Request(
        f"{server}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    with refused.value as answer:
        assert answer.code == 400 and told in answer.read().decode()


def test_no_run_no_server(tmp_path, capsys):
    assert main(["serve", str(tmp_path / "absent")]) == 2
    assert "no such run" in capsys.readouterr().err
