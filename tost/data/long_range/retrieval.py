"""Retrieval of the Long Range Arena: does a paper of the ACL Anthology Network cite the other? Pairs of texts as bytes.

Lines of label, two names and two texts, separated by tabs, as in lra_release. A paper is in many pairs and kept once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from tost.data.long_range.text import as_ids
from tost.data.sequences import Ragged, SequenceSets
from tost.data.sources import SequenceOptions, place
from tost.data.splits import describe

MAX_LENGTH = 4000
FILES = {"train": "new_aan_pairs.train.tsv", "validation": "new_aan_pairs.eval.tsv", "test": "new_aan_pairs.test.tsv"}
CLASSES = ["unrelated", "cites"]


class Pairs(Dataset):
    """Pairs of texts: pairs [n, 2] are places in `texts`, labels [n]."""

    def __init__(self, texts: Ragged, pairs: np.ndarray, labels: np.ndarray) -> None:
        self.texts, self.pairs, self.labels = texts, pairs, labels

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, second = (self.texts[int(i)]["x"] for i in self.pairs[index])
        return {"x": first, "other": second, "label": int(self.labels[index])}

    def subset(self, indices: Any) -> Pairs:
        """The pairs at `indices`, in that order, over the same texts."""
        return Pairs(self.texts, self.pairs[indices], self.labels[indices])


def load_pairs(options: SequenceOptions) -> SequenceSets:
    """The three files in the folder options.path (or in its tsv_data, as released), each text cut to max_length bytes.

    Pairs with an empty text are left out and counted. Raises ValueError naming the file and line that is broken.
    """
    folder = Path(place(options, f"a folder of {', '.join(FILES.values())}"))
    folder = folder / "tsv_data" if (folder / "tsv_data").is_dir() else folder
    longest = options.max_length or MAX_LENGTH
    known: dict[bytes, int] = {}
    rows = {part: _read(folder / name, longest, known) for part, name in FILES.items()}
    texts = Ragged.of([as_ids(text, folder) for text in known], np.zeros(len(known)))
    limits = {"train": options.samples, "validation": options.evaluated, "test": options.evaluated}
    sets: dict[str, Pairs] = {}
    facts: dict[str, Any] = {"empty": sum(empty for _, _, empty in rows.values()), "texts": len(texts)}
    for part, (pairs, labels, _) in rows.items():
        order = np.random.RandomState(options.seed).permutation(len(pairs))  # the legacy stream is frozen
        sets[part] = Pairs(texts, pairs, labels).subset(np.sort(order[: limits[part]]))
        facts[part] = _describe(sets[part])
    train, validation, test = sets.values()
    return SequenceSets(train, validation, test, CLASSES, longest, vocab_size=256, pair=True, facts=facts)


def _read(path: Path, longest: int, known: dict[bytes, int]) -> tuple[np.ndarray, np.ndarray, int]:
    """(pairs [n, 2], labels [n], lines with an empty text) of one file; new texts are added to `known`."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; pairs are read from a folder of {', '.join(FILES.values())}")
    pairs, labels, empty = [], [], 0
    with open(path, "rb") as file, _bar(path) as bar:
        for number, line in enumerate(file, 1):
            bar.update(len(line))
            label, texts = _parts(line, f"{path}, line {number}", longest)
            if not all(texts):
                empty += 1
                continue
            pairs.append([known.setdefault(text, len(known)) for text in texts])
            labels.append(label)
    if not pairs:
        raise ValueError(f"{path}: no pair of texts in it")
    return np.array(pairs), np.array(labels), empty


def _parts(line: bytes, where: str, longest: int) -> tuple[int, list[bytes]]:
    fields = line.rstrip(b"\r\n").split(b"\t", 4)
    if len(fields) != 5 or fields[0] not in (b"0", b"0.0", b"1", b"1.0"):
        raise ValueError(f"{where}: expected label (0 or 1), two names and two texts, separated by tabs")
    texts = [field[:longest] for field in fields[3:]]
    for text in texts:
        as_ids(text, where)
    return int(fields[0][:1]), texts


def _bar(path: Path) -> Any:
    size = path.stat().st_size
    return tqdm(total=size, desc=path.name, unit="B", unit_scale=True, delay=2, leave=False, disable=None)


def _describe(pairs: Pairs) -> dict[str, Any]:
    """As tost.data.splits.describe, of both texts of every pair."""
    offsets = pairs.texts.offsets
    lengths = np.diff(offsets)[pairs.pairs]
    told = describe(Ragged(pairs.pairs.reshape(-1), np.arange(0, pairs.pairs.size + 1, 2), pairs.labels))
    return {**told, "tokens": int(lengths.sum()), "median": int(np.median(lengths)), "longest": int(lengths.max())}
