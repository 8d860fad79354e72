"""The Long Range Arena's tasks are what their publishers specify, split without overlap; broken files are named."""

import re
import statistics

import numpy as np
import pytest

from tost.data.long_range import listops
from tost.data.sources import SequenceOptions, load_sequences
from tost.data.splits import at_most, choose, set_apart

PARTS = ("train", "validation", "test")


def contents(part):
    return {bytes(part[i]["x"]) for i in range(len(part))}


# ListOps


def small(**changes):
    return SequenceOptions(**{"source": "listops", "samples": 300, "evaluated": 60, **changes})


def parsed_value(text):
    """An evaluator that shares nothing with the library: the string turned into a Python expression."""
    functions = {
        "MIN": lambda *a: min(a),
        "MAX": lambda *a: max(a),
        "MED": lambda *a: int(statistics.median(a)),
        "SM": lambda *a: sum(a) % 10,
    }
    code = re.sub(r"\[(\w+)", r"\1(", text.replace("]", "),"))
    code = re.sub(r"(\d)", r"\1,", code)
    return eval(code, functions)[0]


def words(ids):
    return " ".join(listops.TOKENS[i] for i in ids)


def test_values_are_those_of_the_parsed_strings():
    sets = load_sequences(small(min_length=20, max_length=150, samples=1000))
    seen = set()
    for i in range(len(sets.train)):
        item = sets.train[i]
        assert parsed_value(words(item["x"])) == item["label"] == listops.evaluate(item["x"])
        seen |= set(item["x"].tolist())
    assert seen == set(range(1, 16)), "every token comes, padding does not"
    assert sets.vocab_size == 16 and set(sets.train.labels.tolist()) == set(range(10))


@pytest.mark.parametrize(
    ("text", "value"),
    [("[MED 1 2 ]", 1), ("[MED 9 2 4 ]", 4), ("[SM 9 9 9 ]", 7), ("[MAX 2 [MIN 9 [MED 7 8 ] ] 1 ]", 7), ("5", 5)],
)
def test_the_definition(text, value):
    ids = [listops.TOKENS.index(word) for word in text.split()]
    assert listops.evaluate(ids) == value == parsed_value(text)


@pytest.mark.parametrize("text", ["", "]", "[MAX ]", "[MAX 2", "2 3", "[SM 1 ] ]", "[SM 1 ] 4"])
def test_what_is_no_expression_is_refused(text):
    with pytest.raises(ValueError, match="not an expression"):
        listops.evaluate([listops.TOKENS.index(word) for word in text.split()])


def test_published_settings_hold():
    sets = load_sequences(small())
    for part in PARTS:
        held = getattr(sets, part)
        lengths = np.diff(held.offsets)
        assert lengths.min() > 500 and lengths.max() < 2000
        for i in range(0, len(held), 7):
            depth = np.cumsum([{"[": 1, "]": -1}.get(listops.TOKENS[t][0], 0) for t in held[i]["x"]])
            assert depth.max() <= 9 and depth[-1] == 0, "nodes of depth 10 are digits"
    assert sets.facts["train"]["sequences"] == 300 and 0.1 < sets.facts["test"]["commonest"] < 0.3


def test_operators_have_two_to_ten_arguments_equally_often():
    sets = load_sequences(small(samples=500))
    counts, stack = [], []
    for token in np.concatenate([sets.train[i]["x"] for i in range(500)]):
        if listops.TOKENS[token] == "]":
            counts.append(stack.pop())
            if not stack:
                continue
        elif stack:
            stack[-1] += 1
        if listops.TOKENS[token].startswith("["):
            stack.append(0)
    shares = np.bincount(counts, minlength=11) / len(counts)
    assert shares[:2].sum() == 0 and len(shares) == 11
    assert shares[2:].min() > 0.07, "long expressions prefer many arguments, but none is missing"


def test_no_expression_twice_and_the_seed_tells():
    sets = load_sequences(small(min_length=2, max_length=8, samples=3000))  # so short that chance would repeat them
    held = [contents(getattr(sets, part)) for part in PARTS]
    assert [len(part) for part in held] == [3000, 60, 60]
    assert not held[0] & held[1] and not held[0] & held[2] and not held[1] & held[2]
    facts = load_sequences(small()).facts
    assert load_sequences(small()).facts == facts
    more = load_sequences(small(samples=400)).facts
    assert more["test"] == facts["test"] and more["validation"] == facts["validation"]
    other = load_sequences(small(seed=1)).facts
    assert all(other[part]["fingerprint"] != facts[part]["fingerprint"] for part in PARTS)


def test_lengths_that_no_expression_has_are_refused():
    with pytest.raises(ValueError, match=r"only \d+ of 3000 different expressions of more than 3 and fewer than 5"):
        load_sequences(small(min_length=3, max_length=5, samples=3000, evaluated=3000))
    with pytest.raises(ValueError, match="got 500, 500"):
        load_sequences(small(min_length=500, max_length=500))


def released(folder, lines, part="train"):
    text = "\r\n".join(["Source\tTarget", *lines]) + "\r\n"
    for name in listops.FILES.values():
        (folder / name).write_bytes(b"Source\tTarget\r\n( ( ( [MAX 3 ) 4 ) ] )\t4\r\n")
    (folder / listops.FILES[part]).write_bytes(text.encode())
    return small(path=str(folder))


def test_released_files_are_read(tmp_path):
    lines = ["( ( ( [MIN 3 ) ( ( ( [MED 1 ) 2 ) ] ) ) ] )\t1", "", "( ( ( ( [SM 9 ) 9 ) 3 ) ] )\t1"]
    sets = load_sequences(released(tmp_path, lines))
    assert [words(sets.train[i]["x"]) for i in range(2)] == ["[MIN 3 [MED 1 2 ] ]", "[SM 9 9 3 ]"]
    assert sets.train.labels.tolist() == [1, 1] and sets.test[0]["label"] == 4


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("( [MIN 3 ) ] )\t3x", r"basic_train.tsv, line 3: expected an expression of ListOps"),
        ("( [FIRST 3 ) ] )\t3", "line 3: expected an expression"),
        ("\t3", "line 3: expected an expression"),
        ("( ( [MIN 3 ) ] )", "line 3: expected an expression"),
        ("( ( ( [MIN 3 ) 2 ) ] )\t3", "line 3: the expression is 2, the file says"),
        ("( ( ( [MIN 3 ) 2 )\t3", "line 3: not an expression"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, message):
    with pytest.raises(ValueError, match=message):
        load_sequences(released(tmp_path, ["( ( ( [MIN 3 ) 2 ) ] )\t2", line]))


def test_broken_folders_are_named(tmp_path):
    with pytest.raises(ValueError, match="no line after the header"):
        load_sequences(released(tmp_path, [], "test"))
    (tmp_path / "basic_val.tsv").unlink()
    with pytest.raises(ValueError, match=r"basic_val\.tsv: no such file"):
        load_sequences(small(path=str(tmp_path)))
    (tmp_path / "basic_train.tsv").write_text("text\tlabel\n")
    with pytest.raises(ValueError, match="line 1: expected the header"):
        load_sequences(small(path=str(tmp_path)))


# parts of sets


def test_parts_keep_their_sequences_and_labels():
    whole = load_sequences(small(min_length=5, max_length=40, samples=200)).train
    order = np.random.default_rng(0).permutation(200)[:50]
    part = choose(whole, order)
    for place, index in enumerate(order):
        assert np.array_equal(part[place]["x"], whole[index]["x"]) and part[place]["label"] == whole[index]["label"]
    kept, apart = set_apart(whole, 0.25)
    assert len(kept) + len(apart) == 200 and not contents(kept) & contents(apart)
    assert abs(np.bincount(apart.labels, minlength=10) / np.bincount(whole.labels, minlength=10) - 0.25).max() < 0.1
    few = at_most(whole, 20, seed=3)
    assert len(few) == 20 and contents(few) <= contents(whole) and contents(few) != contents(at_most(whole, 20, seed=4))
    assert at_most(whole, 1000) is whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "listop"}, "unknown source of sequences 'listop'; expected one of listops, imdb"),
        ({"samples": 0}, "data.samples is a number from 1 on, got 0"),
        ({"validation": 1.0}, "data.validation is a share"),
        ({"gaps": "drop"}, "data.gaps is refuse or fill, got 'drop'"),
    ],
)
def test_bad_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        load_sequences(small(**changes))
