"""Text that doesn't fit in memory: tokenised once into the cache of Hugging Face's datasets, read from there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tost.data import text, texts
from tost.data.packing import TableDocuments
from tost.data.tokens import encode, id_type
from tost.extras import require


def load_table(options: text.TextOptions, tokenizer: Any = None) -> text.TextSets:
    """As load_text, through memory-mapped tables; one process prepares them while others on this machine wait."""
    datasets, filelock = (require(name, extra="training") for name in ("datasets", "filelock"))
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    cache.mkdir(parents=True, exist_ok=True)
    told = hashlib.sha256(f"{options.source} {options.path} {options.subset} {options.split}".encode()).hexdigest()
    with filelock.FileLock(str(cache / f"tost-{told[:16]}.lock")):
        return _prepare(options, tokenizer, datasets)


def _prepare(options: text.TextOptions, tokenizer: Any, datasets: Any) -> text.TextSets:
    table = _hub(options, datasets) if options.source == "hub" else _from_files(options, datasets)
    processes = options.workers if options.workers > 1 else None
    table = table.select_columns([options.column])
    measured = table.map(
        _measure,
        batched=True,
        num_proc=processes,
        remove_columns=[options.column],
        fn_kwargs={"column": options.column},
        features=datasets.Features({"hash": datasets.Value("int64"), "bytes": datasets.Value("int64")}),
        new_fingerprint=_mark(table, "measured"),
        desc="measuring",
    ).with_format("numpy")
    hashes, sizes = np.asarray(measured["hash"][:]), np.asarray(measured["bytes"][:])
    real = np.flatnonzero(sizes)
    if not len(real):
        raise ValueError(f"{texts.place(options)}: no text in column {options.column} of its {len(sizes)} rows")
    parts = text.split_documents(hashes[real], sizes[real], options.validation, options.test)
    train, validation, test = (real[part] for part in parts)
    if tokenizer is None:
        tokenizer = text.make_tokenizer(options, (table[int(i)][options.column] for i in train))
    kind = np.dtype(id_type(tokenizer)).name
    ids = table.map(
        _encode,
        batched=True,
        num_proc=processes,
        remove_columns=[options.column],
        fn_kwargs={"tokenizer": tokenizer, "column": options.column},
        features=datasets.Features({"ids": datasets.List(datasets.Value(kind)), "length": datasets.Value("int64")}),
        new_fingerprint=_mark(table, tokenizer.backend_tokenizer.to_str()),
        desc="tokenising",
    )
    lengths = np.asarray(ids.with_format("numpy")["length"][:])
    documents = TableDocuments(ids.select_columns(["ids"]), lengths)
    return text.packed(
        options, documents, (train, validation, test), tokenizer, hashes, sizes, empty=len(sizes) - len(real)
    )


def _hub(options: text.TextOptions, datasets: Any) -> Any:
    """The split of a dataset on the Hub, or of a folder that save_to_disk or a download made."""
    path = options.path
    if path is None:
        raise ValueError("data.source hub reads a dataset: set --data.path to its name, such as Skylion007/openwebtext")
    try:
        if (Path(path) / "dataset_dict.json").exists() or (Path(path) / "state.json").exists():
            table = datasets.load_from_disk(path)
            table = table[options.split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(path, options.subset, split=options.split)
    except Exception as error:  # the library raises many kinds: connection, missing, malformed
        raise ValueError(f"--data.path {path}: no such dataset or split ({str(error).splitlines()[0]})") from None
    if options.column not in table.column_names:
        raise ValueError(
            f"--data.path {path}: no column {options.column!r}; --data.column names one of "
            f"{', '.join(table.column_names)}"
        )
    return table


def _from_files(options: text.TextOptions, datasets: Any) -> Any:
    """Files as a table on the disk; made again when a file's size or time changes."""
    found = texts.text_files(options)
    stamps = "\n".join(f"{path.resolve()} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in found)

    def rows(stamps: str, section: int) -> Iterator[dict[str, str]]:
        for document in texts.read_documents(options):
            yield {options.column: document}

    try:
        mark = hashlib.sha256(f"{options.section} {options.column} {stamps}".encode()).hexdigest()[:32]
        return datasets.Dataset.from_generator(
            rows, gen_kwargs={"stamps": stamps, "section": options.section}, fingerprint=mark
        )
    except datasets.exceptions.DatasetGenerationError as error:
        raise error.__cause__ or error from None


def _measure(rows: dict[str, list[Any]], column: str) -> dict[str, list[Any]]:
    documents = [document if (document or "").strip() else "" for document in rows[column]]
    return {
        "hash": [text.content_hash(document) for document in documents],
        "bytes": [len(document.encode()) for document in documents],
    }


def _encode(rows: dict[str, list[Any]], tokenizer: Any, column: str) -> dict[str, list[Any]]:
    ids = encode(tokenizer, [document or "" for document in rows[column]])
    return {"ids": ids, "length": [len(one) for one in ids]}


def _mark(table: Any, what: str) -> str:
    """A name for the cache that is the same whenever the same is done to the same table."""
    return hashlib.sha256(f"{table._fingerprint} {what}".encode()).hexdigest()[:32]
