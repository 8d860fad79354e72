"""Text, retrieval and images of the Long Range Arena are read from files of the published form, bad ones named."""

import numpy as np
import pytest

from tost.data.sequences import collate
from tost.data.sources import SequenceOptions, load_sequences

PARTS = ("train", "validation", "test")


def contents(part):
    return sorted(bytes(part[i]["x"]) for i in range(len(part)))


def load(source, path, **changes):
    return load_sequences(SequenceOptions(**{"source": source, "path": str(path), "validation": 0.25, **changes}))


# text


def reviews(folder, count=8):
    for part in ("train", "test"):
        for name in ("pos", "neg", "unsup"):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                (folder / part / name / f"{i}_7.txt").write_text(f"{part} {name} {i} " + "é" * i, "utf-8")
    return folder


def test_reviews_are_bytes_of_their_class(tmp_path):
    sets = load("imdb", reviews(tmp_path))
    assert sets.classes == ["neg", "pos"] and sets.vocab_size == 256 and sets.max_length == 4096
    assert [len(getattr(sets, part)) for part in PARTS] == [12, 4, 16]
    texts = {}
    for part in PARTS:
        for item in (getattr(sets, part)[i] for i in range(len(getattr(sets, part)))):
            text = bytes(item["x"] - 1).decode()
            assert text.split()[1] == sets.classes[item["label"]]
            texts.setdefault(text.split()[0], []).append(text)
    assert {part: len(set(seen)) for part, seen in texts.items()} == {"train": 16, "test": 16}
    assert sets.facts["test_also_in_train"] == 0 and sets.facts["validation"]["commonest"] == 0.5
    assert contents(load("imdb", tmp_path, seed=5).validation) == contents(sets.validation)


def test_texts_are_cut_and_limited(tmp_path):
    sets = load("imdb", reviews(tmp_path), max_length=9, samples=6, evaluated=2)
    assert [len(getattr(sets, part)) for part in PARTS] == [6, 2, 2]
    assert bytes(sets.train[0]["x"] - 1) == b"train neg" and sets.facts["train"]["longest"] == 9


def test_empty_and_repeated_reviews_are_counted(tmp_path):
    reviews(tmp_path)
    (tmp_path / "train/pos/3_7.txt").write_text("")
    (tmp_path / "test/pos/3_7.txt").write_text((tmp_path / "train/neg/1_7.txt").read_text("utf-8"), "utf-8")
    facts = load("imdb", tmp_path).facts
    assert facts["empty"] == 1 and facts["test_also_in_train"] == 1 and facts["test"]["sequences"] == 16


def no_class(folder):
    (folder / "test/other").mkdir()
    return r"train/ has the classes \['neg', 'pos'\], test/ \['neg', 'other', 'pos'\]"


def not_text(folder):
    (folder / "train/pos/0_7.txt").write_bytes(b"caf\xff")
    return r"pos/0_7\.txt: byte 3 is 255, which no UTF-8 text has"


def emptied(folder):
    for path in (folder / "test/neg").iterdir():
        path.write_text("")
    return "test: a class without a text in it"


def no_folder(folder):
    (folder / "train").rename(folder / "elsewhere")
    return r"train: no such folder; texts are expected as .*train/CLASS/\*\.txt"


@pytest.mark.parametrize("spoil", [no_class, not_text, emptied, no_folder])
def test_broken_folders_of_text_are_named(tmp_path, spoil):
    reviews(tmp_path)
    message = spoil(tmp_path)
    with pytest.raises(ValueError, match=message):
        load("imdb", tmp_path)


@pytest.mark.parametrize("source", ["imdb", "aan", "cifar-grey"])
def test_sources_of_files_ask_for_a_path(source):
    with pytest.raises(ValueError, match=f"data.source {source} reads .*: set --data.path"):
        load_sequences(SequenceOptions(source))


# retrieval


def papers(folder, lines=None):
    texts = [f"paper {i} " + "token statistics " * i for i in range(6)]
    for part in ("train", "eval", "test"):
        rows = [f"{(i + j) % 2}.0\tA{i}\tB{j}\t{texts[i]}\t{texts[j]}" for i in range(6) for j in range(i)]
        rows = rows if lines is None else lines
        (folder / f"new_aan_pairs.{part}.tsv").write_text("".join(row + "\n" for row in rows), "utf-8")
    return texts


def test_pairs_are_read_and_texts_kept_once(tmp_path):
    texts = papers(tmp_path)
    sets = load("aan", tmp_path)
    assert sets.pair and len(sets.train) == len(sets.test) == 15 and sets.facts["texts"] == 6
    pairs = [(i, j) for i in range(6) for j in range(i)]
    for (i, j), item in zip(pairs, (sets.train[k] for k in range(15))):
        assert [bytes(item[name] - 1).decode() for name in ("x", "other")] == [texts[i], texts[j]]
        assert item["label"] == (i + j) % 2
    batch = collate([sets.train[0], sets.train[5]])
    assert len(batch["cu_seqlens"]) == 5 and batch["labels"].tolist() == [
        sets.train[0]["label"],
        sets.train[5]["label"],
    ]
    lengths = sorted(len(texts[k]) for pair in pairs for k in pair)
    assert sets.facts["train"]["tokens"] == sum(lengths) and sets.facts["train"]["longest"] == lengths[-1]
    few = load("aan", tmp_path, max_length=7, samples=4)
    assert len(few.train) == 4 and bytes(few.train[0]["x"] - 1)[:6] == b"paper " and few.facts["train"]["longest"] == 7


def test_the_released_folder_and_empty_texts(tmp_path):
    (tmp_path / "tsv_data").mkdir()
    papers(tmp_path / "tsv_data", ["1.0\ta\tb\tone\ttwo\twith a tab", "0.0\ta\tb\tone\t", "0\ta\tb\tone\tthree\r"])
    sets = load("aan", tmp_path)
    assert sets.facts["empty"] == 3 and len(sets.train) == 2
    assert bytes(sets.train[0]["other"] - 1) == b"two\twith a tab" and bytes(sets.train[1]["other"] - 1) == b"three"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], r"train\.tsv: no pair of texts in it"),
        (["1.0\ta\tb\tone"], r"train\.tsv, line 1: expected label \(0 or 1\), two names and two texts"),
        (["1.0\ta\tb\tone\ttwo", "2.0\ta\tb\tone\ttwo"], "line 2: expected label"),
    ],
)
def test_broken_pairs_are_named(tmp_path, lines, message):
    papers(tmp_path, lines)
    with pytest.raises(ValueError, match=message):
        load("aan", tmp_path)


def test_missing_pairs_are_named(tmp_path):
    papers(tmp_path)
    (tmp_path / "new_aan_pairs.eval.tsv").unlink()
    with pytest.raises(ValueError, match=r"new_aan_pairs\.eval\.tsv: no such file"):
        load("aan", tmp_path)


# images


def binary_cifar(folder, images=20):
    generator = np.random.default_rng(0)
    tables = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows = generator.integers(0, 256, (images, 3073), dtype=np.uint8)
        rows[:, 0] = np.arange(images) % 10
        rows.tofile(folder / name)
        tables[name] = rows
    return tables


def test_cifar_in_grey_is_the_definition(tmp_path):
    rows = binary_cifar(tmp_path)["test_batch.bin"]
    sets = load("cifar-grey", tmp_path)
    assert sets.max_length == 1024 and sets.vocab_size == 256 and len(sets.classes) == 10
    assert [len(getattr(sets, part)) for part in PARTS] == [80, 20, 20]  # of 10 in a class round(2.5) is 2
    for i, row in enumerate(rows):
        red, green, blue = row[1:].reshape(3, 1024).astype(float)
        assert np.abs(sets.test[i]["x"] - (0.2989 * red + 0.587 * green + 0.114 * blue)).max() <= 0.5 + 1e-4
        assert sets.test[i]["label"] == row[0]
    few = load("cifar-grey", tmp_path, samples=30, evaluated=5)
    assert [len(getattr(few, part)) for part in PARTS] == [30, 5, 5]
    assert set(contents(few.train)) <= set(contents(sets.train)) and set(contents(few.test)) <= set(contents(sets.test))


def test_folders_of_images_are_read(tmp_path):
    image_of = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    kept = {}
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(8):
                pixels = generator.integers(0, 256, (32, 32), dtype=np.uint8)
                image_of.fromarray(np.stack([pixels] * 3, -1)).save(tmp_path / part / name / f"{i}.png")
                kept[bytes(pixels)] = (part, name)
    sets = load("cifar-grey", tmp_path)
    for part in PARTS:
        for item in (getattr(sets, part)[i] for i in range(len(getattr(sets, part)))):
            assert kept[bytes(item["x"])] == ("test" if part == "test" else "train", sets.classes[item["label"]])
    assert [len(getattr(sets, part)) for part in PARTS] == [12, 4, 16]
    assert load("cifar-grey", tmp_path, size=8).max_length == 64


def test_pickled_cifar_is_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"\x80\x02")
    with pytest.raises(ValueError, match="pickles that could run any code"):
        load("cifar-grey", tmp_path)
    with pytest.raises(ValueError, match=r"data\.validation is a share of the training sequences, above 0"):
        load("cifar-grey", tmp_path, validation=0.0)
