"""`tost generate`: the text transformers' generate writes, states that go on another day, errors in one line."""

import functools
import io
import json
import signal

import pytest
import torch
from safetensors.torch import load_file

from tests.textmodels import TEXT, save_model
from tost.cli import main
from tost.generation import Sampling, generate_text, load_language
from tost.generation.conversation import load_conversation
from tost.models.language import ToSTForCausalLM, save_state

PROMPT = "the cat sat"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    return folder, *save_model(folder, position_mode="clamped")


@pytest.fixture
def run(saved, capsys):
    """Calls the command: (exit code, what it printed, what it said on standard error)."""

    def call(*options, folder=saved[0]):
        capsys.readouterr()
        code = main(["generate", str(folder), *map(str, options)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def greedy(saved, text, n, **options):
    _, model, words = saved
    ids = words(text, return_tensors="pt")["input_ids"]
    out = model.generate(ids, max_new_tokens=n, do_sample=False, pad_token_id=0, **options)[0]
    return words.decode(out[ids.shape[1] :], skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("stream", [[], ["--stream"]], ids=["whole", "stream"])
def test_prompt_and_greedy_text_are_printed(run, saved, stream):
    code, out, err = run("--prompt", PROMPT, "--max-new-tokens", 20, "--temperature", 0, *stream)
    assert (code, err) == (0, "")
    assert out == PROMPT + greedy(saved, PROMPT, 20) + "\n"


def test_beams_are_transformers(run, saved):
    code, out, _ = run("--prompt", PROMPT, "--max_new_tokens", 8, "--num_beams", 3)
    assert code == 0 and out == PROMPT + greedy(saved, PROMPT, 8, num_beams=3) + "\n"


def test_a_seed_repeats_the_text_and_leaves_the_generator_alone(run):
    def sample(*options):
        return run("--prompt", PROMPT, "--max_new_tokens", 12, *options)[1]

    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = sample("--seed", 1)
    assert first == sample("--seed", 1) and torch.equal(before, torch.get_rng_state())
    assert len({first, sample("--seed", 2), sample("--seed", 3)}) > 1
    assert len({sample() for _ in range(3)}) > 1
    assert sample("--seed", 1, "--top_k", 1) == sample("--temperature", 0)
    assert sample("--seed", 1, "--top-p", 1e-6) == sample("--temperature", 0)


def test_json_and_stats(run, saved):
    code, out, err = run("--prompt", PROMPT, "--max_new_tokens", 5, "--temperature", 0, "--json", "--stats")
    told = json.loads(out)
    assert code == 0 and told["text"] == greedy(saved, PROMPT, 5) and told["prompt"] == PROMPT
    assert (told["new_tokens"], told["finish"]) == (5, "length")
    assert told["state_bytes"] == 2 * 8 * (3 * (2 * 8 + 1) + 1)
    assert "5 tokens" in err and f"state {told['state_bytes']} bytes" in err


def test_text_ends_at_stop_and_at_the_end_of_text(saved):
    folder, model, words = saved
    whole = greedy(saved, PROMPT, 40)
    stop = whole[10:12]
    found = generate_text(model, words, PROMPT, Sampling(40, 0, stop=stop))
    assert found.finish == "stop" and stop in found.text and whole.startswith(found.text)
    assert found.new_tokens < 40
    ids = words(PROMPT, return_tensors="pt")["input_ids"]
    third = int(model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)[0, -1])
    before, model.generation_config.eos_token_id = model.generation_config.eos_token_id, third
    try:
        ended = generate_text(model, words, PROMPT, Sampling(40, 0))
        assert ended.finish == "end" and ended.new_tokens <= 3
    finally:
        model.generation_config.eos_token_id = before


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


def test_a_long_prompt_is_read_in_pieces(saved, monkeypatch):
    from tost.generation import text

    _, model, words = saved
    want = generate_text(model, words, TEXT, Sampling(6, 0))
    seen = []
    monkeypatch.setattr(text, "PREFILL", 16)
    hook = model.model.register_forward_pre_hook(
        lambda _, a, k: seen.append((a[0] if a else k["input_ids"]).shape[1]), with_kwargs=True
    )
    got = generate_text(model, words, TEXT, Sampling(6, 0))
    hook.remove()
    assert got.text == want.text and max(seen) == 16 and sum(seen) == want.prompt_tokens + 5


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


def test_the_prompt_may_come_from_standard_input(run, saved, monkeypatch):
    def given(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("--prompt", "-", "--max_new_tokens", 3, "--temperature", 0)

    assert given("Übung".encode())[1] == "Übung" + greedy(saved, "Übung", 3) + "\n"
    code, _, err = given(b"ab\xff")
    assert code == 2 and "not UTF-8 (byte 2)" in err


def test_a_state_of_save_state_goes_on_with_a_new_prompt(run, saved, tmp_path):
    _, model, words = saved
    with torch.no_grad():
        cache = model(torch.tensor([words(PROMPT)["input_ids"]])).past_key_values
    save_state(cache, tmp_path / "state", model)
    assert run("--state", tmp_path / "state")[0] == 2  # no token to begin with
    out = run("--prompt", " on", "--state", tmp_path / "state", "--temperature", 0, "--max_new_tokens", 4)[1]
    assert out == " on" + greedy(saved, PROMPT + " on", 4) + "\n"
    assert "tail" in load_file(tmp_path / "state")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "the prompt is empty"),
        (["--prompt", PROMPT, "--num_beams", "2", "--stream"], "nothing to stream"),
        (["--prompt", PROMPT, "--json", "--stream"], "nothing to --stream"),
        (["--prompt", PROMPT, "--temperature", "-1"], "temperature of at least 0"),
        (["--prompt", PROMPT, "--top-p", "0"], "top_p above 0"),
        (["--prompt", PROMPT, "--max-new-tokens", "0"], "max_new_tokens of at least 1"),
        (["--prompt", PROMPT, "--max-new-tokens", "ten"], "--max_new_tokens: expected int, got 'ten'"),
        (["--prompt", PROMPT, "--max-new-token", "1"], "did you mean --max_new_tokens"),
        (["--prompt", PROMPT, "--state", "damaged"], "not a whole safetensors file"),
        (["--prompt", PROMPT, "--state", "other"], "state of a model with other weights"),
        (["--prompt", PROMPT, "--state", "."], "got the folder ."),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_told_in_one_line(run, options, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged").write_bytes(b"1234567890")
    if "other" in options:
        save_model(tmp_path / "stranger", seed=7, position_mode="clamped")
        run("--prompt", PROMPT, "--max_new_tokens", 2, "--state", "other", folder=tmp_path / "stranger")
    code, out, err = run(*options)
    assert code == 2 and told in err and err.count("\n") == 1 and not out, err


def test_the_position_table_ends_with_the_way_out(run, tmp_path):
    save_model(tmp_path)  # 48 learned positions
    code, _, err = run("--prompt", TEXT, folder=tmp_path)
    assert code == 2 and "positions for 48" in err and "--position_mode clamped" in err
    code, _, err = run("--prompt", PROMPT, "--max_new_tokens", 60, folder=tmp_path)
    assert code == 2 and "leave room for" in err
    code, out, _ = run("--prompt", PROMPT, "--json", "--temperature", 0, folder=tmp_path)
    told = json.loads(out)
    assert told["prompt_tokens"] + told["new_tokens"] <= 49
    code, out, _ = run("--prompt", TEXT, "--max_new_tokens", 5, "--position_mode", "clamped", folder=tmp_path)
    assert code == 0 and out.startswith(TEXT)


def test_a_folder_that_is_no_language_model_is_refused(run, saved, tmp_path):
    folder, model, words = saved
    vision, unfinished, bare, broken = (tmp_path / name for name in ("vision", "unfinished", "bare", "broken"))
    for path, config in ((vision, "description: images\n"), (unfinished, "task: language\n")):
        path.mkdir()
        (path / "config.yaml").write_text(config)
    model.save_pretrained(bare)
    save_model(broken)
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-100])
    for path, told in (
        (tmp_path / "absent", "no such run"),
        (tmp_path, "not a run of `tost train`"),
        (vision, "is a vision run"),
        (unfinished, "is not finished"),
        (bare, "no tokenizer files"),
        (broken, "broken"),
    ):
        code, _, err = run("--prompt", PROMPT, folder=path)
        assert code == 2 and told in err and err.count("\n") == 1, err


def test_a_model_with_options_generates_and_keeps_its_state(run, tmp_path):
    options = {"mixer": ["tssa", "softmax"], "conv_width": 3, "half_lives": [4.0, 0.0], "position_mode": "rotary"}
    saved = (tmp_path / "model", *save_model(tmp_path / "model", **options))
    state = tmp_path / "state"
    first = run("--prompt", PROMPT, "--max_new_tokens", 5, "--temperature", 0, "--state", state, folder=saved[0])[1]
    more = run("--max_new_tokens", 6, "--temperature", 0, "--state", state, folder=saved[0])[1]
    assert first[:-1] + more == PROMPT + greedy(saved, PROMPT, 11) + "\n"


def test_load_language_gives_the_model_and_its_tokenizer(saved):
    folder, model, words = saved
    loaded, tokenizer = load_language(folder, position_mode="learned")
    assert loaded.config.position_mode == "learned" and not loaded.training
    assert tokenizer.get_vocab() == words.get_vocab()
    torch.testing.assert_close(loaded.model.embedding.weight.cpu(), model.model.embedding.weight)
