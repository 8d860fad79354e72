"""A conversation goes on another day from its file, whatever ends it."""

import functools
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.textmodels import PROMPT, greedy, save_model
from tost.generation.conversation import load_conversation
from tost.models.language import ToSTForCausalLM, save_state


def test_a_conversation_goes_on_another_day(run, saved, tmp_path):
    state = tmp_path / "talk" / "state.safetensors"
    told = ["--temperature", 0, "--state", state, "--max_new_tokens"]
    first = run("--prompt", PROMPT, *told, 6)[1][:-1]
    second = run("--prompt", " and", *told, 5)[1][:-1]
    third = run(*told, 7)[1][:-1]
    _, model, words = saved
    ids = words(PROMPT)["input_ids"]
    with torch.no_grad():
        for new, more in ((6, " and"), (5, ""), (7, None)):
            ids = model.generate(torch.tensor([ids]), max_new_tokens=new, do_sample=False, pad_token_id=0)[0].tolist()
            ids += words(more)["input_ids"] if more else []
    assert first + second + third == words.decode(ids, clean_up_tokenization_spaces=False)
    cache, tail = load_conversation(state, model)
    assert cache.get_seq_length() == len(ids) - 1 and tail.tolist() == ids[-1:]
    assert [file.name for file in state.parent.iterdir()] == [state.name]  # no drafts are left


def test_beams_go_on_from_a_state_and_leave_the_best_beams(run, saved, tmp_path):
    _, model, words = saved
    state = tmp_path / "state"
    run("--prompt", PROMPT, "--max_new_tokens", 4, "--temperature", 0, "--state", state)
    begun = PROMPT + greedy(saved, PROMPT, 4)
    out = run("--prompt", " the", "--max_new_tokens", 6, "--num_beams", 3, "--state", state)[1]
    ids = torch.tensor([words(PROMPT)["input_ids"]])
    ids = model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0)
    ids = torch.cat([ids, torch.tensor([words(" the")["input_ids"]])], 1)
    want = model.generate(ids, max_new_tokens=6, num_beams=3, do_sample=False, pad_token_id=0)
    assert begun + out[:-1] == words.decode(want[0], clean_up_tokenization_spaces=False)
    cache, tail = load_conversation(state, model)
    with torch.no_grad():
        fresh = model(want[:, :-1]).past_key_values
    for layer, other in zip(cache.layers, fresh.layers):
        torch.testing.assert_close(layer.state.moment, other.state.moment, rtol=1e-5, atol=1e-7)


@pytest.fixture
def ctrl_c(monkeypatch):
    """Presses Ctrl-C so many times while the third token is computed."""

    def arm(times):
        forward, calls = ToSTForCausalLM.forward, []

        @functools.wraps(forward)
        def pressed(self, *args, **kwargs):
            calls.append(1)
            for _ in range(times if len(calls) == 3 else 0):
                signal.raise_signal(signal.SIGINT)
            return forward(self, *args, **kwargs)

        monkeypatch.setattr(ToSTForCausalLM, "forward", pressed)

    return arm


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["whole", "stream"])
def test_ctrl_c_prints_what_there_is_and_keeps_the_state(run, saved, tmp_path, ctrl_c, monkeypatch, stream):
    state, handler = tmp_path / "state", signal.getsignal(signal.SIGINT)
    ctrl_c(1)
    code, out, err = run("--prompt", PROMPT, "--temperature", 0, "--max_new_tokens", 40, "--state", state, *stream)
    monkeypatch.undo()
    assert code == 130 and signal.getsignal(signal.SIGINT) is handler
    assert out == PROMPT + greedy(saved, PROMPT, 3) + "\n"
    assert "interrupted after 3 tokens" in err and err.count("\n") == 1
    more = run("--temperature", 0, "--max_new_tokens", 5, "--state", state)[1]
    assert out[:-1] + more == PROMPT + greedy(saved, PROMPT, 8) + "\n"


def test_a_second_ctrl_c_leaves_the_old_state(run, tmp_path, ctrl_c):
    state = tmp_path / "state"
    run("--prompt", PROMPT, "--max_new_tokens", 3, "--state", state)
    before = state.read_bytes()
    ctrl_c(2)
    code, _, err = run("--prompt", " and", "--max_new_tokens", 9, "--state", state)
    assert code == 130 and "interrupted" in err and state.read_bytes() == before


def test_a_state_of_save_state_goes_on_with_a_new_prompt(run, saved, tmp_path):
    _, model, words = saved
    with torch.no_grad():
        cache = model(torch.tensor([words(PROMPT)["input_ids"]])).past_key_values
    save_state(cache, tmp_path / "state", model)
    assert run("--state", tmp_path / "state")[0] == 2  # no token to begin with
    out = run("--prompt", " on", "--state", tmp_path / "state", "--temperature", 0, "--max_new_tokens", 4)[1]
    assert out == " on" + greedy(saved, PROMPT + " on", 4) + "\n"
    assert "tail" in load_file(tmp_path / "state")


def test_a_model_with_options_generates_and_keeps_its_state(run, tmp_path):
    options = {"mixer": ["tssa", "softmax"], "conv_width": 3, "half_lives": [4.0, 0.0], "position_mode": "rotary"}
    saved = (tmp_path / "model", *save_model(tmp_path / "model", **options))
    state = tmp_path / "state"
    first = run("--prompt", PROMPT, "--max_new_tokens", 5, "--temperature", 0, "--state", state, folder=saved[0])[1]
    more = run("--max_new_tokens", 6, "--temperature", 0, "--state", state, folder=saved[0])[1]
    assert first[:-1] + more == PROMPT + greedy(saved, PROMPT, 11) + "\n"
