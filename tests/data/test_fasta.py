"""FASTA files give their sequences back; what is wrong with one is told by record, line and letter."""

import gzip
import zlib

import numpy as np
import pytest

from tost.data import fasta
from tost.data.fasta import ALPHABETS, encode, guess_alphabet, letters, read_fasta
from tost.data.sequences import IGNORE
from tost.data.sources import SequenceOptions, load_sequences

PARTS = ("train", "validation", "test")
TWO = b">one first protein\nMKV\nLLA\n\n>two|x\r\nacdefghiklmnpqrstvwyxbzuo*-\r\n"


def written(folder, data, name="a.fasta"):
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def texts(part, alphabet="protein"):
    return [letters(part[i]["x"], alphabet) for i in range(len(part))]


@pytest.mark.parametrize("packed", [False, True])
def test_records_come_back(tmp_path, packed):
    path = written(tmp_path, gzip.compress(TWO) if packed else TWO)  # told by the content, whatever the name
    first, second = read_fasta(path)
    assert (first.name, first.header, first.line) == ("one", "one first protein", 1)
    assert (second.name, second.line) == ("two|x", 5)
    assert letters(first.ids) == "MKVLLA" and letters(second.ids) == ALPHABETS["protein"]
    assert second.ids.tolist() == list(range(1, 28)) and second.ids.dtype == np.uint8


def test_nucleic_acids_and_labels_have_letters_of_their_own(tmp_path):
    [record] = read_fasta(written(tmp_path, ">r\nacguT\nNRYSWKMBDHV-\n"), "dna")
    assert letters(record.ids, "dna") == "ACGTTNRYSWKMBDHV-"
    [record] = read_fasta(written(tmp_path, ">r\nHhE.\n"), "labels")
    assert letters(record.ids, "labels") == "HhE."
    assert letters(encode("acgt", "dna"), "dna") == "ACGT"
    with pytest.raises(ValueError, match="knows the alphabets protein, dna, labels, got 'rna'"):
        next(read_fasta(written(tmp_path, TWO), "rna"))


@pytest.mark.parametrize(
    ("text", "alphabet"),
    [(">a\nACGTNNN\n", "dna"), (";c\n>a\n\nacgu\n", "dna"), (">a\nACGTE\n", "protein"), ("", "protein")],
)
def test_the_alphabet_is_told_from_the_first_sequence(tmp_path, text, alphabet):
    assert guess_alphabet(written(tmp_path, text)) == alphabet


def test_records_stream(tmp_path, monkeypatch):
    """The first record is there before the second is read, and lines longer than a read are put together."""
    monkeypatch.setattr(fasta, "LINE", 64)
    long = "".join(np.random.default_rng(0).choice(list("ACDEFGHIKL"), 10_000))
    path = written(tmp_path, f">long\n{long}\n>broken\nAC1\n")
    records = read_fasta(path)
    assert letters(next(records).ids) == long
    with pytest.raises(ValueError, match=r"record 'broken', line 4: '1' is none of the letters ACDE"):
        next(records)
    with pytest.raises(ValueError, match=r"line 1: a header of more than 64 bytes"):
        list(read_fasta(written(tmp_path, ">" + "x" * 100)))
    with pytest.raises(ValueError, match=r"line 2: '>' is none of the letters"):
        list(read_fasta(written(tmp_path, ">a\n" + "A" * 64 + ">A\n")))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no record in it"),
        (b"\n\n", "no record in it"),
        (b"MKV\n>a\nMK\n", "line 1: expected a header, >NAME, before the first letters"),
        (b">a\nMKV\n>b\n>c\nM\n", "record 'b', line 3: no residues"),
        (b">a\nMKV\n>b\n \n", "record 'b', line 3: no residues"),
        (b">\nMKV\n", "line 1: a header without a name"),
        (b">a b\nMK\nMJV\n", "record 'a', line 3: 'J' is none of the letters"),
        (">a\nMKé\n".encode(), "record 'a', line 2: 'é' is none of the letters"),
        (b">a\nMK\0\n", r"line 2: '\\x00' is none of the letters"),
        (bytes(range(200, 250)) * 10, "line 1: expected a header"),
    ],
    ids=["empty", "blank", "headless", "no residues", "blank residues", "no name", "J", "accent", "zero", "binary"],
)
def test_broken_files_are_named(tmp_path, data, message):
    with pytest.raises(ValueError, match=message) as told:
        list(read_fasta(written(tmp_path, data)))
    assert "\n" not in str(told.value) and "a.fasta" in str(told.value)


@pytest.mark.parametrize("cut", [5, 30, 60])
def test_a_gzip_file_that_is_cut_off_is_refused(tmp_path, cut):
    packed = gzip.compress(TWO * 20)
    with pytest.raises(ValueError, match="not a whole gzip file"):
        list(read_fasta(written(tmp_path, packed[:cut])))
    spoilt = bytearray(packed)
    spoilt[cut // 2 + 10] ^= 0xFF
    with pytest.raises(ValueError, match=r"not a whole gzip file|none of the letters"):
        list(read_fasta(written(tmp_path, bytes(spoilt))))


@pytest.mark.parametrize("filling", [b"A", b"A" * 79 + b"\n", b"\n"], ids=["one line", "lines", "blank"])
def test_a_gzip_bomb_is_bounded(tmp_path, filling):
    import tracemalloc

    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(b">a\n") + b"".join(packer.compress(filling * (2**22 // len(filling))) for _ in range(16))
    path = written(tmp_path, bomb + packer.flush())
    assert path.stat().st_size < 2**18
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"more than 1,000,000 residues; split the file, or raise max_residues"):
        list(read_fasta(path, max_residues=1_000_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**24, "64 MB were never in memory"


# tasks


def proteins(count=60):
    generator = np.random.default_rng(0)
    return ["".join(generator.choice(list("ACDEFGHIKL"), generator.integers(5, 40))) for _ in range(count)]


def in_headers(sequences):
    return "".join(f">p{i} label={('no', 'yes')[i % 2]} more\n{s}\n" for i, s in enumerate(sequences))


def load(path, **changes):
    return load_sequences(SequenceOptions(**{"source": "fasta", "path": str(path), "validation": 0.2, **changes}))


def test_a_single_file_is_split_by_content(tmp_path):
    sequences = proteins()
    copies = [*sequences, *sequences[:20]]
    sets = load(written(tmp_path, in_headers(copies)))
    assert sets.classes == ["no", "yes"] and sets.vocab_size == 28 and not sets.per_token
    held = {part: texts(getattr(sets, part)) for part in PARTS}
    assert sorted(text for part in PARTS for text in held[part]) == sorted(copies)
    assert not set(held["train"]) & set(held["validation"]) and not set(held["test"]) & set(held["train"])
    assert not set(held["test"]) & set(held["validation"])
    assert {part: len(set(found)) for part, found in held.items()} == {"train": 42, "validation": 12, "test": 6}
    for part in PARTS:
        labels = [sequences.index(text) % 2 for text in held[part]]
        assert getattr(sets, part).labels.tolist() == labels
    turned = "".join(f">{record}" for record in in_headers(copies).split(">")[:0:-1])
    assert sorted(texts(load(written(tmp_path, turned)).test)) == sorted(held["test"]), "whatever the order"
    assert load(tmp_path / "a.fasta", max_length=7).facts["train"]["longest"] == 7
    few = load(written(tmp_path, in_headers(copies)), samples=10, evaluated=3)
    assert [len(getattr(few, part)) for part in PARTS] == [10, 3, 3] and set(texts(few.test)) <= set(held["test"])


@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_labels_from_a_table(tmp_path, form):
    sequences, mark = proteins(), {"tsv": "\t", "csv": ","}[form]
    path = written(tmp_path, "".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))
    rows = ["name" + mark + "label", *(f"p{i}{mark}{9 + i % 2}" for i in range(60)), f"unknown{mark}9", ""]
    table = written(tmp_path, "\n".join(rows), f"labels.{form}")
    sets = load(path, labels=str(table))
    assert sets.classes == ["9", "10"], "numbers in their order"
    assert all(sets.train[i]["label"] == sequences.index(t) % 2 for i, t in enumerate(texts(sets.train)))


def test_a_folder_with_its_own_split(tmp_path):
    for part, name in (("train", "train.fasta"), ("validation", "validation.fa"), ("test", "test.faa.gz")):
        data = in_headers(proteins(10 + len(part))).encode()
        written(tmp_path, gzip.compress(data) if name.endswith("gz") else data, name)
    sets = load(tmp_path)
    assert [len(getattr(sets, part)) for part in PARTS] == [15, 20, 14]
    (tmp_path / "validation.fa").unlink()
    with pytest.raises(ValueError, match=r"expected train\.fasta, .* missing \['validation'\]"):
        load(tmp_path)


def test_a_class_for_every_residue(tmp_path):
    sequences = proteins(30)
    path = written(tmp_path, "".join(f">p{i}\n{s}\n" for i, s in enumerate(sequences)))
    states = ["".join("h" if letter < "E" else "." if letter == "F" else "e" for letter in s) for s in sequences]
    told = written(tmp_path, "".join(f">p{i}\n{s}\n" for i, s in enumerate(states)), "states.fasta")
    sets = load(path, labels=str(told))
    assert sets.per_token and sets.classes == ["e", "h"]
    for item in (sets.train[i] for i in range(len(sets.train))):
        expected = [{"h": 1, "e": 0, ".": IGNORE}[c] for c in states[sequences.index(letters(item["x"]))]]
        assert item["label"].tolist() == expected
    assert len(load(path, labels=str(told), max_length=6).train[0]["label"]) <= 6
    written(tmp_path, told.read_text().replace("\n", "h\n", 2), "states.fasta")
    with pytest.raises(ValueError, match=r"record 'p0' has|no label for the record 'p0'"):
        load(path, labels=str(told))


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (">a\nMK\n>b label=x\nMK\n", None, "record 'a', line 1: no label; write label=CLASS"),
        (">a label=x\nMK\n>b label=x\nMKV\n", None, r"at least two classes, got \['x'\]"),
        (">a label=x\nMK\n>a label=y\nMKV\n", None, "record 'a', line 3: another label than before"),
        (in_headers(["MK", "MV", "MA", "MC"]), None, "class 0 has 2 different sequences, too few to split"),
        (in_headers(proteins(9)), "p0\tx\n", "no label for the record 'p1'"),
        (in_headers(proteins(9)), "p0\tx\np1\n", "line 2: expected a name and a label, got 'p1'"),
        (in_headers(proteins(9)), "p0\tx\np0\ty\n", "line 2: 'p0' is 'y' here, 'x' before"),
    ],
)
def test_broken_labels_are_named(tmp_path, data, labels, message):
    table = None if labels is None else str(written(tmp_path, labels, "labels.tsv"))
    with pytest.raises(ValueError, match=message):
        load(written(tmp_path, data), labels=table)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.fasta: no such file; expected FASTA"):
        load(tmp_path / "nothing.fasta", name="protein")
    with pytest.raises(ValueError, match=r"nothing\.fasta: no such file; expected FASTA"):
        load(tmp_path / "nothing.fasta")
    with pytest.raises(ValueError, match=r"--data\.labels .*none\.tsv: no such file"):
        load(written(tmp_path, in_headers(proteins(9))), labels=str(tmp_path / "none.tsv"))


def test_peptides_are_split_without_duplicates():
    pytest.importorskip("modlamp")
    sets = load_sequences(SequenceOptions("peptides"))
    held = [texts(getattr(sets, part)) for part in PARTS]
    assert [len(part) for part in held] == [3234, 462, 924] and len(set().union(*held)) == 4620
    assert sets.classes == ["UniProt", "AMP"] and sets.facts["repeated"] == 558 and sets.facts["both"] == 22
    from modlamp.datasets import load_AMPvsUniProt

    told = load_AMPvsUniProt()
    label = {str(text).strip(): int(target) for text, target in zip(told.sequences, told.target)}
    assert all(sets.test[i]["label"] == label[text] for i, text in enumerate(held[2]))
    other = load_sequences(SequenceOptions("peptides", validation=0.2, seed=3))
    assert texts(other.test) == held[2], "the test set is always the same"
