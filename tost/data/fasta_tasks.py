"""Labelled FASTA files as tasks: a class for every sequence, or one for every residue."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tost.data.fasta import ALPHABETS, Record, encode, guess_alphabet, letters, read_fasta
from tost.data.sequences import IGNORE, Ragged, SequenceSets
from tost.data.sources import SequenceOptions, place
from tost.data.splits import at_most, choose, sequence_sets, split_by_content
from tost.extras import require

TEST = 0.1  # of the sequences of a single file
PARTS = ("train", "validation", "test")
SUFFIXES = (".fasta", ".fa", ".faa", ".fna")
UNKNOWN = "."  # the label of a residue that is not judged


def load_fasta(options: SequenceOptions) -> SequenceSets:
    """One FASTA file, or a folder with train, validation and test (such as train.fasta.gz), as a task.

    Labels: options.labels, a .tsv or .csv file of name and label, or a FASTA file with a letter for every residue ("."
    is not judged); without it, label=CLASS in every header. A single file is split by content, a tenth for the test and
    options.validation to watch; equal sequences stay in one part. Raises ValueError naming the file, record and line.
    """
    path = Path(place(options, "a FASTA file, or a folder of train.fasta, validation.fasta and test.fasta"))
    files = _files(path)
    alphabet = options.name or guess_alphabet(next(iter(files.values())))
    records = {part: list(read_fasta(file, alphabet)) for part, file in files.items()}
    everything = [record for part in records.values() for record in part]
    told = _labels(options.labels, everything)
    per_token = isinstance(next(iter(told.values())), np.ndarray)
    classes = _classes(told.values(), per_token)
    parts = {part: _ragged(found, told, classes, options.max_length) for part, found in records.items()}
    facts: dict[str, Any] = {"alphabet": alphabet, "letters": ALPHABETS[alphabet]}
    if "all" in parts:
        whole = parts.pop("all")
        contents = [record.ids.tobytes() for record in everything]
        grouped = np.zeros(len(whole)) if per_token else whole.labels
        places = split_by_content(contents, grouped, (options.validation, TEST))
        parts = {part: choose(whole, indices) for part, indices in zip(PARTS, places)}
    return _sets(parts, options, classes, alphabet, facts, per_token)


def load_peptides(options: SequenceOptions) -> SequenceSets:
    """modlamp's AMPvsUniProt: is a peptide antimicrobial? 2,600 of APD3 against 2,600 of UniProt, 7 to 174 residues.

    Peptides that come again are kept once, those of both classes left out; the split is always the same.
    """
    data = require("modlamp.datasets", extra="sequence").load_AMPvsUniProt()
    classes = [str(name) for name in data.target_names]
    found: dict[str, set[int]] = {}
    for text, target in zip(data.sequences, data.target):
        found.setdefault(str(text).strip(), set()).add(int(target))
    kept = [(text, min(targets)) for text, targets in found.items() if len(targets) == 1]
    whole = Ragged.of([encode(text) for text, _ in kept], [label for _, label in kept])
    places = split_by_content([text.encode() for text, _ in kept], whole.labels, (options.validation, 2 * TEST))
    parts = {part: choose(whole, indices) for part, indices in zip(PARTS, places)}
    facts = {"alphabet": "protein", "repeated": len(data.sequences) - len(found), "both": len(found) - len(kept)}
    return _sets(parts, options, classes, "protein", facts, False)


def _sets(
    parts: dict[str, Ragged],
    options: SequenceOptions,
    classes: list[str],
    alphabet: str,
    facts: dict[str, Any],
    per_token: bool,
) -> SequenceSets:
    limits = {"train": options.samples, "validation": options.evaluated, "test": options.evaluated}
    parts = {part: at_most(found, limits[part], options.seed) for part, found in parts.items()}
    longest = max(int(np.diff(found.offsets).max()) for found in parts.values())
    return sequence_sets(
        parts,
        classes=classes,
        max_length=options.max_length or longest,
        vocab_size=len(ALPHABETS[alphabet]) + 1,
        per_token=per_token,
        facts=facts,
    )


def _files(path: Path) -> dict[str, Path]:
    """{"all": file}, or the file of every part in a folder."""
    if not path.is_dir():
        return {"all": path}
    names = {part: [f"{part}{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz")] for part in PARTS}
    files = {part: next((path / n for n in names[part] if (path / n).is_file()), None) for part in PARTS}
    missing = [part for part, file in files.items() if file is None]
    if missing:
        raise ValueError(f"{path}: expected train.fasta, validation.fasta and test.fasta in it; missing {missing}")
    return {part: file for part, file in files.items() if file is not None}


def _labels(path: str | None, records: list[Record]) -> dict[str, Any]:
    """The label of every record by its name: a string, or an array of letters' ids for its residues."""
    if path is None:
        return _unique(((record, _header_label(record)) for record in records), "the headers")
    if not Path(path).is_file():
        raise ValueError(
            f"--data.labels {path}: no such file; expected a .tsv or .csv file of name and label, or FASTA"
        )
    is_table = Path(path).suffix.lower() in (".tsv", ".csv")
    told: dict[str, Any] = _table(Path(path)) if is_table else _by_residue(path)
    for record in records:
        label = told.get(record.name)
        if label is None:
            raise ValueError(f"--data.labels {path}: no label for the record {record.name!r}")
        if not is_table and len(label) != len(record.ids):
            raise ValueError(
                f"--data.labels {path}: record {record.name!r} has {len(label)} labels for {len(record.ids)} residues"
            )
    return {record.name: told[record.name] for record in records}


def _unique(pairs: Iterable[tuple[Record, Any]], where: str) -> dict[str, Any]:
    """{name: label}; ValueError where a name comes again with another label."""
    told: dict[str, Any] = {}
    for record, label in pairs:
        if not np.array_equal(told.setdefault(record.name, label), label):
            raise ValueError(f"record {record.name!r}, line {record.line}: another label than before in {where}")
    return told


def _by_residue(path: str) -> dict[str, np.ndarray]:
    return _unique(((record, record.ids) for record in read_fasta(path, "labels")), path)


def _header_label(record: Record) -> str:
    found = re.search(r"(?:^|[\s|;])label=([^\s|;]+)", record.header)
    if not found:
        raise ValueError(
            f"record {record.name!r}, line {record.line}: no label; write label=CLASS into the header or set "
            "--data.labels to a file of names and labels"
        )
    return found[1]


def _table(path: Path) -> dict[str, str]:
    """{name: label} of the first two columns; a first line "name ... label" is a header."""
    told: dict[str, str] = {}
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        for number, row in enumerate(csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), 1):
            cells = [cell.strip() for cell in row]
            if not any(cells) or (number == 1 and cells[1:2] and cells[1].lower() in ("label", "class")):
                continue
            if len(cells) < 2 or not cells[0] or not cells[1]:
                raise ValueError(f"{path}, line {number}: expected a name and a label, got {' '.join(cells)[:60]!r}")
            if told.setdefault(cells[0], cells[1]) != cells[1]:
                raise ValueError(f"{path}, line {number}: {cells[0]!r} is {cells[1]!r} here, {told[cells[0]]!r} before")
    return told


def _classes(labels: Iterable[Any], per_token: bool) -> list[str]:
    found = {str(letter) for label in labels for letter in (letters(label, "labels") if per_token else [label])}
    classes = sorted(
        found - ({UNKNOWN} if per_token else set()), key=lambda c: (not c.isdigit(), len(c) * c.isdigit(), c)
    )
    if len(classes) < 2:
        raise ValueError(f"expected labels of at least two classes, got {classes}")
    return classes


def _ragged(records: list[Record], told: dict[str, Any], classes: list[str], longest: int | None) -> Ragged:
    """The records of one part, cut to `longest` residues."""
    sequences = [record.ids[:longest] for record in records]
    number = {name: i for i, name in enumerate(classes)}
    if isinstance(next(iter(told.values())), str):
        return Ragged.of(sequences, [number[told[record.name]] for record in records])
    table = np.full(256, IGNORE, dtype=np.int64)
    for name, i in number.items():
        table[ALPHABETS["labels"].index(name) + 1] = i
    return Ragged.of(sequences, [table[told[record.name][:longest]] for record in records], per_token=True)
