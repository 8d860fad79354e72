"""The Text tab writes what the model writes, keeps what the model keeps, and paints every token by its own shares."""

import re

import pytest
import torch
from torch.testing import assert_close

pytest.importorskip("transformers")
from tests.textmodels import PROMPT, TEXT, full_nats, greedy, save_model, tokenizer
from tost.app.painted import key, painted, tint
from tost.app.stream import Text, Watch, begin, choose, empty_cache, key_value_bytes, open_language, write
from tost.models.language import state_nbytes
from tost.rates import record_memberships


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text") / "run"
    return folder, *save_model(folder)


@pytest.fixture(scope="module")
def language(saved):
    return open_language(str(saved[0]))


def written(language, prompt, count, temperature=0.0, seed=0):
    text = begin(*language, prompt)
    for _ in write(*language, text, count, temperature, seed):
        pass
    return text


def test_without_a_temperature_it_writes_what_generate_writes(saved, language):
    text = written(language, PROMPT, 20)
    assert "".join(text.pieces[text.given :]) == greedy(saved, PROMPT, 20)
    assert "".join(text.pieces[: text.given]) == PROMPT
    assert len(text.times) == len(text.kept) == 20 == len(text.ids) - text.given


def test_it_goes_on_past_the_position_table_and_keeps_no_more(language):
    text = written(language, TEXT[:150], 60)  # the table has 48
    assert len(text.ids) > 60 and len(set(text.kept)) == 1
    cache = empty_cache(language[0])
    language[0](torch.tensor([text.ids[:5]]), past_key_values=cache)
    assert text.kept[0] == state_nbytes(cache)


def test_seeds_and_bounds(language):
    first, same, other = (written(language, PROMPT, 25, 1.0, seed).ids for seed in (1, 1, 2))
    assert first == same != other
    with pytest.raises(ValueError, match="a few characters"):
        begin(*language, "")


def test_a_text_that_ends_is_not_written_on(tmp_path):
    model, words = save_model(tmp_path)
    first = written((model, words), PROMPT, 1).ids[-1]
    model.generation_config.eos_token_id = first
    assert written((model, words), PROMPT, 5).times == []


def test_choose_takes_of_the_likeliest_alone():
    logits = torch.tensor([0.90, 0.06, 0.04]).log()
    generator = torch.Generator().manual_seed(0)
    taken = [choose(logits, 1.0, generator) for _ in range(400)]
    assert set(taken) == {0, 1} and 340 < taken.count(0) < 395  # 0.90 of 0.96; the third lies beyond 0.95
    assert choose(logits, 0.0, generator) == 0


def test_a_character_of_several_tokens_is_shown_whole():
    words, text = tokenizer(), Text()
    ids = words("aé漢 b")["input_ids"]
    for token in ids:
        text.spell(words, [token])
        assert "\ufffd" not in "".join(text.pieces)
    assert "".join(text.pieces) == "aé漢 b" and len(text.pieces) == len(ids) > 5


@pytest.mark.parametrize("every", [1, 7, 100])
def test_watching_in_parts_gives_the_shares_of_the_whole(language, every):
    model = language[0]
    text = begin(*language, PROMPT)
    watch = Watch(model, text)
    for index, _ in enumerate(write(*language, text, 20, 0.0)):
        if index % every == 0:
            watch.catch_up()
    watch.catch_up()
    whole = record_memberships(model, {"input_ids": torch.tensor([text.ids])})
    assert whole.keys() == text.shares.keys()
    for name, pi in whole.items():
        assert_close(text.shares[name], pi[0], atol=1e-5, rtol=0)


def test_watching_does_not_change_the_text(saved, language):
    assert full_nats(language[0], torch.tensor(written(language, PROMPT, 20).ids)).isfinite().all()
    model, text = language[0], begin(*language, PROMPT)
    watch = Watch(model, text)
    for _ in write(*language, text, 20, 0.0):
        watch.catch_up()
    assert text.ids == written(language, PROMPT, 20).ids


def test_a_softmax_model_is_written_with_and_not_painted(tmp_path):
    save_model(tmp_path, mixer="softmax")
    model, words = open_language(str(tmp_path))
    text = written((model, words), PROMPT, 6)
    watch = Watch(model, text)
    watch.catch_up()
    assert text.shares == {} and text.kept[-1] > text.kept[0]
    grown = (text.kept[-1] - text.kept[0]) / 5
    assert key_value_bytes(model.config, 10) - key_value_bytes(model.config, 9) <= grown


def test_markup_in_a_text_is_shown_and_does_not_run():
    evil = "<script>alert('1')</script>&\""
    text = Text(ids=[1, 2], pieces=[evil, "\n"], given=1, shares={"a": torch.tensor([[0.1, 0.9], [0.5, 0.5]])})
    page = painted(text)
    assert "<script" not in page and "&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&amp;&quot;" in page
    assert re.findall(r"title='([^']*)'", page) == ["head 1: 10%, head 2: 90%", "head 1: 50%, head 2: 50%"]
    assert page.count("class='given'") == 1


def test_colours_say_whose_a_token_is_and_how_much():
    assert "213,94,0,0.75" in tint(torch.tensor([0.0, 1.0])) and ",0.00)" in tint(torch.tensor([0.5, 0.5]))
    text = Text(ids=[1], pieces=["x"], shares={"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 1.0]])})
    pages = []
    for text.layer in (0, 1, 99, -1):
        pages.append(painted(text))
    assert pages[0] != pages[1] == pages[2] == pages[3]
    assert "style" not in painted(Text(ids=[1], pieces=["x"]))


def test_the_key_tells_the_half_lives():
    from types import SimpleNamespace

    told = key(SimpleNamespace(half_lives=[4, 0]), 3)
    assert told.count("half-life 4 tokens") == 2 and told.count("never forgets") == 1
    assert "<em>" not in key(SimpleNamespace(half_lives=None), 2)


def test_times_are_medians_of_nine():
    text = Text(times=[9.0, 9.0, *([0.002] * 20), 7.0])
    assert text.milliseconds() == [2.0] * 23
    assert Text(times=[0.001, 0.003, 0.002]).milliseconds() == [2.0] * 3 and Text().milliseconds() == []
