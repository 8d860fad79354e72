"""`tost generate`: the text transformers' generate writes, and errors in one line."""

import io
import json

import pytest
import torch

from tests.textmodels import PROMPT, TEXT, greedy, save_model
from tost.generation import Sampling, generate_text, load_language


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
    stop = next(whole[i : i + 2] for i in range(4, len(whole)) if whole[i : i + 2].isascii())
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


def test_the_prompt_may_come_from_standard_input(run, saved, monkeypatch):
    def given(data):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data)))
        return run("--prompt", "-", "--max_new_tokens", 3, "--temperature", 0)

    assert given("Übung".encode())[1] == "Übung" + greedy(saved, "Übung", 3) + "\n"
    code, _, err = given(b"ab\xff")
    assert code == 2 and "not UTF-8 (byte 2)" in err


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


def test_load_language_gives_the_model_and_its_tokenizer(saved):
    folder, model, words = saved
    loaded, tokenizer = load_language(folder, position_mode="learned")
    assert loaded.config.position_mode == "learned" and not loaded.training
    assert tokenizer.get_vocab() == words.get_vocab()
    torch.testing.assert_close(loaded.model.embedding.weight.cpu(), model.model.embedding.weight)
