"""Text becomes rows and comes back whole; what is held out stays held out; bad files are refused in one line."""

import json

import numpy as np
import pytest
import torch

from tost.data.packing import IGNORE, MemoryDocuments, PackedText, collate
from tost.data.text import TextOptions, content_hash, held_out_text, load_text, split_documents
from tost.data.texts import read_documents, sections, standard_library
from tost.data.tokens import EOS, byte_tokenizer, encode, load_tokenizer, save_tokenizer, token_bytes, train_bpe

SAMPLE = ["def main():\n    return 1\n", "naïve café ☕\r\n\ttabs  and   spaces ", "x", f"not the end: {EOS} of it"]


def files(folder, documents, suffix="txt"):
    folder.mkdir(exist_ok=True)
    for i, document in enumerate(documents):
        (folder / f"{i:03}.{suffix}").write_bytes(document.encode())
    return str(folder)


def many(count=40):
    return [f"document {i}: " + "lorem ipsum dolor " * (i % 7 + 1) for i in range(count)]


def options(path, **changes):
    return TextOptions(**{"source": "files", "path": path, "tokenizer": "bytes", "context": 16, **changes})


@pytest.mark.parametrize("make", [byte_tokenizer, lambda: train_bpe(many() + SAMPLE, 300)], ids=["bytes", "bpe"])
def test_tokens_give_the_text_back_byte_by_byte(make, tmp_path):
    tokenizer = make()
    save_tokenizer(tokenizer, tmp_path)
    read, sizes = load_tokenizer(str(tmp_path)), token_bytes(tokenizer)
    for text, ids in zip(SAMPLE, encode(tokenizer, SAMPLE)):
        assert ids[-1] == tokenizer.eos_token_id and (ids[:-1] != tokenizer.eos_token_id).all()
        assert tokenizer.decode(ids[:-1]) == read.decode(ids[:-1]) == text
        assert sizes[ids].sum() == len(text.encode())
    assert read.get_vocab() == tokenizer.get_vocab() and read.eos_token == EOS


def test_a_byte_is_its_own_id():
    assert encode(byte_tokenizer(), ["aé"])[0].tolist() == [*"aé".encode(), 256]


def test_a_bpe_is_learned_from_the_training_text_alone(tmp_path):
    documents = [chr(0x4E00 + i) * 50 for i in range(60)]  # each with a character of its own: three bytes, one token
    sets = load_text(options(files(tmp_path / "t", documents), tokenizer="bpe", vocab_size=2000, test=0.2))
    _, held_out = held_out_text(options(str(tmp_path / "t"), test=0.2))
    lengths = {d[0]: len(encode(sets.tokenizer, [d[0]])[0]) - 1 for d in documents}
    assert len(set(held_out)) == 12
    assert {c for c, n in lengths.items() if n > 1} >= set(held_out)
    assert all(n == 1 for c, n in lengths.items() if c not in held_out and c not in watched(sets))


def watched(sets):
    return sets.tokenizer.decode(torch.cat([sets.validation[i]["ids"] for i in range(len(sets.validation))]))


def test_the_split_is_by_content_disjoint_and_complete(tmp_path):
    documents = [*many(50), *many(50)[:10]]  # ten copies under other names
    hashes = np.asarray([content_hash(d) for d in documents], dtype=np.int64)
    sizes = np.asarray([len(d) for d in documents])
    parts = split_documents(hashes, sizes, 0.2, 0.1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(60))
    contents = [{documents[i] for i in part} for part in parts]
    assert not contents[0] & contents[1] and not contents[0] & contents[2] and not contents[1] & contents[2]
    assert 0.02 < sizes[parts[2]].sum() / sizes.sum() < 0.2
    order = np.random.default_rng(0).permutation(60)
    again = split_documents(hashes[order], sizes[order], 0.2, 0.1)
    assert [{documents[order[i]] for i in part} for part in again] == contents


def test_no_validation_leaves_more_to_train_on():
    hashes, sizes = np.arange(10, dtype=np.int64), np.ones(10)
    train, validation, test = split_documents(hashes, sizes, 0.0, 0.2)
    assert len(validation) == 0 and len(test) == 2 and len(train) == 8


@pytest.mark.parametrize("context", [2, 7, 16, 1000])
def test_packing_gives_the_documents_back(context):
    generator = np.random.default_rng(0)
    documents = [generator.integers(1, 50, n).astype(np.uint16) for n in (1, 7, 3, 40, 7, 16, 1, 2)]
    order = np.array([3, 0, 7, 5, 2, 6])
    rows = PackedText(MemoryDocuments(documents), order, context, fill=0)
    stream = np.concatenate([documents[i] for i in order])
    read = torch.cat([rows[i]["ids"][: rows[i]["length"]] for i in range(len(rows))])
    assert np.array_equal(read, stream) and rows.tokens == len(stream)
    begins = {0, *np.cumsum([len(documents[i]) for i in order])[:-1]}
    for i in range(len(rows)):
        row, first = rows[i], i * context
        expected = {0} | {b - first for b in begins if first <= b < first + row["length"]}
        assert set(row["starts"].tolist()) == expected | ({row["length"]} if row["length"] < context else set())
        assert len(row["ids"]) == context and (row["ids"][row["length"] :] == 0).all()


def test_a_batch_marks_boundaries_and_predicts_no_first_token():
    documents = [np.arange(1, 6), np.arange(6, 9), np.arange(9, 20)]
    rows = PackedText(MemoryDocuments(documents), np.arange(3), 8, fill=0)
    batch = collate([rows[0], rows[1], rows[2]])
    assert batch["cu_seqlens"].tolist() == [0, 5, 8, 16, 19, 24] and batch["cu_seqlens"].dtype == torch.int32
    # row 0: documents 1-5 and 6-8; row 1: 9-16, the first piece of the third; row 2: its rest 17-19, then filling
    assert batch["labels"].tolist() == [
        [IGNORE, 2, 3, 4, 5, IGNORE, 7, 8],
        [IGNORE, *range(10, 17)],
        [IGNORE, 18, 19, *[IGNORE] * 5],
    ]
    assert "cu_seqlens" not in collate([rows[1], rows[1]]), "plain rows take the plain path"


def test_rows_are_the_text_and_the_counts_are_true(tmp_path):
    documents = [*many(), "", "  \n"]
    sets = load_text(options(files(tmp_path / "t", documents), context=32))
    facts, decoded = sets.facts, ""
    for part in (sets.train, sets.validation, sets.test):
        ids = torch.cat([part[i]["ids"][: part[i]["length"]] for i in range(len(part))])
        decoded += sets.tokenizer.decode(ids)
    assert sorted(decoded.split(EOS)[:-1]) == sorted(many())
    assert facts["empty_documents"] == 2
    assert sum(facts[p]["bytes"] for p in ("train", "validation", "test")) == sum(len(d) for d in many())
    assert sum(facts[p]["documents"] for p in ("train", "validation", "test")) == 40


def test_the_fingerprint_tells_texts_apart(tmp_path):
    first = load_text(options(files(tmp_path / "a", many()))).facts["fingerprint"]
    assert load_text(options(files(tmp_path / "b", many()))).facts["fingerprint"] == first
    assert load_text(options(files(tmp_path / "c", [*many(), "more"]))).facts["fingerprint"] != first


def test_json_lines_and_patterns(tmp_path):
    rows = [{"text": d, "id": i} for i, d in enumerate(many())] + [{"text": None}, {"text": ""}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert [d for d in read_documents(options(str(tmp_path / "a.jsonl"))) if d] == many()
    files(tmp_path / "deep", ["one", "two"], "md")
    assert list(read_documents(options(str(tmp_path / "**" / "*.md")))) == ["one", "two"]


def test_sections_are_the_text_cut_at_line_ends():
    text = "".join(f"line {i}\n" for i in range(100)) + "no end"
    pieces = list(sections(text, 50))
    assert "".join(pieces) == text and len(pieces) > 10 and all(p.endswith("\n") for p in pieces[:-1])
    assert list(sections(text, 0)) == [text]


def test_the_standard_library_is_source_and_utf8():
    paths = standard_library()
    assert any(p.name == "argparse.py" for p in paths) and all(p.suffix == ".py" for p in paths)
    assert not any({"test", "site-packages", "dist-packages", "encodings"} & set(p.parts[-3:-1]) for p in paths)
    total = sum(len(d) for d in read_documents(TextOptions()))
    assert total > 2e6


def test_large_text_through_tables_is_the_same(tmp_path, monkeypatch):
    """The path for what doesn't fit in memory: same split, tokens and rows as the one in memory."""
    datasets = pytest.importorskip("datasets")
    from tost.data import texts

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    chosen = options(files(tmp_path / "t", [*many(), ""]), context=24, tokenizer="bpe", vocab_size=280)
    memory = load_text(chosen)
    monkeypatch.setattr(texts, "LARGE", 0)
    table = load_text(chosen)
    assert type(table.train.documents).__name__ == "TableDocuments"
    assert table.tokenizer.get_vocab() == memory.tokenizer.get_vocab()
    for name in ("train", "validation", "test"):
        one, other = getattr(memory, name), getattr(table, name)
        assert len(one) == len(other)
        for i in range(len(one)):
            assert all(torch.equal(torch.as_tensor(one[i][k]), torch.as_tensor(other[i][k])) for k in one[i])


def test_a_saved_dataset_is_read(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    table = datasets.Dataset.from_dict({"body": [*many(), "", None], "id": range(42)})
    datasets.DatasetDict({"train": table}).save_to_disk(str(tmp_path / "saved"))
    chosen = options(str(tmp_path / "saved"), source="hub", column="body")
    sets = load_text(chosen)
    assert sets.facts["train"]["bytes"] == load_text(options(files(tmp_path / "f", many()))).facts["train"]["bytes"]
    assert sets.facts["empty_documents"] == 2
    with pytest.raises(ValueError, match=r"no column 'text'.*one of body, id"):
        load_text(options(str(tmp_path / "saved"), source="hub"))
    with pytest.raises(ValueError, match="no such dataset or split"):
        load_text(options(str(tmp_path / "saved"), source="hub", column="body", split="dev"))


def not_utf8(folder):
    (folder / "a.txt").write_bytes(b"caf\xe9")
    return {}, r"a\.txt is not UTF-8 text: byte 3 is 0xe9; .*iconv"


def nothing(folder):
    return {}, "no text file in it"


def only_empty(folder):
    (folder / "a.txt").write_text(" \n")
    return {}, r"no text in it \(1 empty"


def one_document(folder):
    (folder / "a.txt").write_text("alone")
    return {}, "1 different document, too few .*--data.section"


def absent(folder):
    return {"path": str(folder / "none.txt")}, "no such file or folder"


def no_path(folder):
    return {"path": None}, "set --data.path"


def not_json(folder):
    (folder / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    return {}, r"a\.jsonl, line 2: expected a JSON object"


def shares(folder):
    return {"test": 0.6, "validation": 0.5}, "data.test"


def no_tokenizer(folder):
    files(folder, many())
    return {"tokenizer": str(folder)}, "no tokenizer there"


def small_vocabulary(folder):
    files(folder, many())
    return {"tokenizer": "bpe", "vocab_size": 100}, "257, got 100"


@pytest.mark.parametrize(
    "spoil",
    [not_utf8, nothing, only_empty, one_document, absent, no_path, not_json, shares, no_tokenizer, small_vocabulary],
)
def test_bad_text_is_refused_in_one_line(spoil, tmp_path):
    changes, told = spoil(tmp_path)
    with pytest.raises(ValueError, match=told) as caught:
        load_text(options(**{"path": str(tmp_path), **changes}))
    assert "\n" not in str(caught.value)
