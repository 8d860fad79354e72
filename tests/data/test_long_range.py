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


# Pathfinder


def drawn(source="pathfinder", **changes):
    return load_sequences(SequenceOptions(**{"source": source, "samples": 400, "evaluated": 100, **changes}))


def chains(images, index):
    """Which dashes hang together, told by a graph of those nearer than a gap, from points along every dash."""
    from scipy.sparse.csgraph import connected_components
    from scipy.spatial.distance import cdist

    dashes, marks, margin = images.curves(index)
    points = np.linspace(dashes[:, :2], dashes[:, 2:], 9, axis=1)
    distances = cdist(points.reshape(-1, 2), points.reshape(-1, 2)).reshape(len(points), 9, len(points), 9)
    near = distances.min(axis=(1, 3)) < 2 * margin + images.drawing.thickness / 2
    _, chain = connected_components(near)
    return chain, [np.abs(points - mark).sum(-1).min(1).argmin() for mark in (marks[:2], marks[2:])]


@pytest.mark.parametrize(("source", "name"), [("pathfinder", "hard"), ("pathfinder", "easy"), ("pathx", "hard")])
def test_circles_are_on_one_path_where_the_label_says_so(source, name):
    images = drawn(source, name=name).train
    for index in range(60):
        chain, ends = chains(images, index)
        assert (chain[ends[0]] == chain[ends[1]]) == images[index]["label"]
        sizes = sorted(np.bincount(chain), reverse=True)
        assert sizes[:2] == [images.contour] * 2 and set(sizes[2:]) <= {images.contour // 3}, "no chain touches another"
        assert ends[0] < 2 <= 2 * images.contour - 2 <= ends[1] < 2 * images.contour


def test_pixels_say_the_same_as_the_curves():
    """Drawn six times as large and grown until gaps along a path close, but not those between paths."""
    from scipy import ndimage

    from tost.data.long_range.pathfinder_curves import draw

    images = drawn("pathx").train
    for index in range(40):
        dashes, marks, margin = images.curves(index)
        large, drawing = np.zeros((768, 768), dtype=np.uint8), images.drawing
        places = tuple(6 * mark + 2.5 for mark in marks)
        draw(6 * dashes + 2.5, places, 6 * drawing.thickness, drawing.contrast, 6 * drawing.radius, large)
        grown = ndimage.distance_transform_edt(large < 100) < 6 * margin - 2
        label, _ = ndimage.label(grown)
        first, second = (label[round(places[i + 1]), round(places[i])] for i in (0, 2))
        assert first and second and (first == second) == index % 2
        small = large.reshape(128, 6, 128, 6).mean((1, 3))
        assert np.abs(small - images.image(index)).mean() < 1, "the image itself is the large one, shrunk"


def test_images_are_the_same_for_a_seed_and_differ_otherwise():
    sets = drawn()
    again, other, more = drawn(), drawn(seed=1), drawn(samples=500)
    assert np.array_equal(sets.train[7]["x"], again.train[7]["x"]) and again.facts == sets.facts
    assert not np.array_equal(sets.train[7]["x"], other.train[7]["x"])
    assert np.array_equal(sets.train[399]["x"], more.train[399]["x"])
    seen = {bytes(part[i]["x"]) for part in (sets.train, sets.validation, sets.test) for i in range(100)}
    assert len(seen) == 300, "no image twice, whichever part"
    assert [sets.train[i]["label"] for i in range(4)] == [0, 1, 0, 1] and sets.facts["train"]["commonest"] == 0.5


@pytest.mark.parametrize("source", ["pathfinder", "pathx"])
def test_only_the_path_tells_the_class(source):
    """How far the circles are apart, how many dashes there are and how bright the image is tell next to nothing."""
    images = drawn(source).train
    told = []
    for index in range(400):
        dashes, marks, _ = images.curves(index)
        told.append((np.hypot(marks[0] - marks[2], marks[1] - marks[3]), len(dashes), images.image(index).mean()))
    for values in np.asarray(told).T:
        apart, connected = values[0::2], values[1::2]
        wins = (connected[:, None] > apart).mean() + 0.5 * (connected[:, None] == apart).mean()
        assert 0.4 < wins < 0.6


def test_drawing_is_coverage():
    """A thick dash and a circle have the area they should, and brightness is the contrast."""
    from tost.data.long_range import pathfinder_curves

    image = np.zeros((40, 40), dtype=np.uint8)
    pathfinder_curves.draw(np.array([[8.3, 9.1, 28.3, 9.1]]), (20.0, 28.0, 20.0, 28.0), 3.0, 0.5, 5.0, image)
    dash, circle = image[:18] / 255, image[18:] / 255
    assert dash.max() == pytest.approx(0.5, abs=0.01) and dash.sum() == pytest.approx(0.5 * (20 * 3 + 7), rel=0.05)
    assert circle.max() == 1 and circle.sum() == pytest.approx(np.pi * 25, rel=0.02)


def test_settings_are_the_published_ones():
    sets = {size: drawn("pathfinder", size=size, samples=2, evaluated=2) for size in (32, 64, 128, 256)}
    assert [(size, s.max_length, len(s.train[0]["x"])) for size, s in sets.items()] == [
        (size, size * size, size * size) for size in sets
    ]
    assert len(drawn("pathx", samples=None, evaluated=None).train) == 160_000
    with pytest.raises(ValueError, match=r"published settings for data\.size 32, 64, 128, 256, got 48"):
        drawn(size=48)
    with pytest.raises(ValueError, match=r"data\.name easy, intermediate, hard, got 'simple'"):
        drawn(name="simple")


def pathfinder_folder(folder, count=30, side=32, form="text"):
    """Files as released: two listings, images numbered within each."""
    image_of = pytest.importorskip("PIL.Image")
    images, root = drawn(size=side).train, folder / "curv_contour_length_14"
    (root / "metadata").mkdir(parents=True)
    for batch in (0, 10):
        (root / "imgs" / str(batch)).mkdir(parents=True)
        rows = []
        for i in range(count):
            image_of.fromarray(images.image(i)).save(root / "imgs" / str(batch) / f"sample_{i}.png")
            settings = ["1.0", "14", "4", "2", "0.5", "1", "1"]
            rows.append([f"imgs/{batch}", f"sample_{i}.png", str(i), str(images[i]["label"]), *settings])
        listing = root / "metadata" / f"{batch}.npy"
        if form == "text":
            listing.write_text("".join(" ".join(row) + "\n" for row in rows))
        else:
            np.save(listing, np.array(rows, dtype=object if form == "pickle" else None))
    return root


@pytest.mark.parametrize("form", ["text", "strings"])
def test_released_images_are_read_and_bad_ones_counted(tmp_path, form, capsys):
    root = pathfinder_folder(tmp_path, form=form)
    (root / "imgs/0/sample_3.png").write_bytes(b"")
    whole = (root / "imgs/0/sample_4.png").read_bytes()
    (root / "imgs/0/sample_4.png").write_bytes(whole[: len(whole) // 2])
    (root / "imgs/10/sample_5.png").unlink()
    sets = load_sequences(SequenceOptions("pathfinder", path=str(tmp_path)))
    assert sets.facts["left_out"] == {"empty": 1, "broken": 1, "missing": 1}
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "left out 3 of 60 images (1 broken, 1 empty, 1 missing)" in told
    assert [len(p) for p in (sets.train, sets.validation, sets.test)] == pytest.approx([48, 6, 6], abs=3)
    images, count = drawn().train, 0
    by_content = {bytes(images[i]["x"]): images[i]["label"] for i in range(30)}
    for part in (sets.train, sets.validation, sets.test):
        for i in range(len(part)):
            assert by_content[bytes(part[i]["x"])] == part[i]["label"]
            count += 1
    assert count == 57
    files = [set(part.files.tolist()) for part in (sets.train, sets.validation, sets.test)]
    assert len(set.union(*files)) == 57, "every file is in one part alone"
    fewer = load_sequences(SequenceOptions("pathfinder", path=str(root), samples=10, evaluated=2))
    assert len(fewer.train) <= 10 and set(fewer.test.files.tolist()) <= files[2]


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"expected curv_contour_length_14/ with metadata/N\.npy and imgs"):
        load_sequences(SequenceOptions("pathfinder", path=str(tmp_path)))
    root = pathfinder_folder(tmp_path)
    with pytest.raises(ValueError, match=r"no image of 128 x 128 pixels for every part \(60 32 x 32\)"):
        load_sequences(SequenceOptions("pathx", path=str(tmp_path)))
    (root / "metadata/10.npy").write_text("imgs/10 sample_0.png 0\n")
    with pytest.raises(ValueError, match=r"10\.npy, row 1: expected .*class 0 or 1, got 'imgs/10 sample_0.png 0'"):
        load_sequences(SequenceOptions("pathfinder", path=str(tmp_path)))


def test_pickles_are_not_read(tmp_path):
    pathfinder_folder(tmp_path, count=2, form="pickle")
    with pytest.raises(ValueError, match=r"0\.npy: not a table of strings \(Object arrays cannot be loaded"):
        load_sequences(SequenceOptions("pathfinder", path=str(tmp_path)))
