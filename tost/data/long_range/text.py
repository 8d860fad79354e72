"""Text of the Long Range Arena: reviews of IMDB as bytes, a folder of the form PART/CLASS/*.txt.

A token is a byte + 1, so that 0 can pad; text in UTF-8 has no byte 255. The publisher sets no validation set apart: it
is a part of the training set here, and test data select nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tost.data.sequences import Ragged, SequenceSets
from tost.data.sources import SequenceOptions, place
from tost.data.splits import at_most, sequence_sets, set_apart

MAX_LENGTH = 4096
UNLABELLED = {"unsup"}


def load_text_bytes(options: SequenceOptions) -> SequenceSets:
    """The texts of options.path/train and options.path/test, a class a folder (of IMDB neg and pos; unsup is ignored).

    Empty files are left out and counted. Raises ValueError naming the folder or the file that is not as expected.
    """
    folder = Path(place(options, "a folder of train/CLASS/*.txt and test/CLASS/*.txt"))
    longest = options.max_length or MAX_LENGTH
    classes = _classes(folder / "train")
    if _classes(folder / "test") != classes:
        raise ValueError(f"{folder}: train/ has the classes {classes}, test/ {_classes(folder / 'test')}")
    train, empty_train = _read(folder / "train", classes, longest)
    test, empty_test = _read(folder / "test", classes, longest)
    known = {bytes(train[i]["x"]) for i in range(len(train))}
    facts = {
        "empty": empty_train + empty_test,
        "test_also_in_train": sum(bytes(test[i]["x"]) in known for i in range(len(test))),
    }
    train, validation = set_apart(train, options.validation)
    parts = {
        "train": at_most(train, options.samples, options.seed),
        "validation": at_most(validation, options.evaluated, options.seed),
        "test": at_most(test, options.evaluated, options.seed),
    }
    return sequence_sets(parts, classes=classes, max_length=longest, vocab_size=256, facts=facts)


def as_ids(data: bytes, where: object) -> np.ndarray:
    """The ids of a text's bytes; ValueError that says `where` byte 255, which no UTF-8 has, was found."""
    values = np.frombuffer(data, dtype=np.uint8)
    if (values == 255).any():
        raise ValueError(f"{where}: byte {int((values == 255).argmax())} is 255, which no UTF-8 text has; convert it")
    return values + np.uint8(1)


def _classes(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; texts are expected as {folder}/CLASS/*.txt")
    found = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    classes = [name for name in found if name not in UNLABELLED]
    if len(classes) < 2:
        raise ValueError(f"{folder}: expected at least two classes (one folder each), got {classes}")
    return classes


def _read(folder: Path, classes: list[str], longest: int) -> tuple[Ragged, int]:
    """The texts below `folder`, cut to `longest` bytes, in order of their names, and how many were empty."""
    files = [(label, entry) for label, name in enumerate(classes) for entry in _texts(folder / name)]
    texts, labels = [], []
    for label, path in tqdm(files, folder.name, unit=" texts", delay=2, leave=False, disable=None):
        with open(path, "rb") as file:
            ids = as_ids(file.read(longest), path)
        if len(ids):
            texts.append(ids)
            labels.append(label)
    whole = Ragged.of(texts, labels) if texts else None
    if whole is None or (np.bincount(whole.labels, minlength=len(classes)) == 0).any():
        raise ValueError(f"{folder}: a class without a text in it (*.txt); {len(texts)} of {len(files)} files have one")
    return whole, len(files) - len(texts)


def _texts(folder: Path) -> list[str]:
    return sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".txt"))
