"""The released Pathfinder images: imgs/N/*.png, listed with their classes in metadata/N.npy."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from tost.data.long_range.pathfinder import CLASSES
from tost.data.sequences import SequenceSets
from tost.data.sources import SequenceOptions
from tost.extras import require

FOLDERS = {"easy": "curv_baseline", "intermediate": "curv_contour_length_9", "hard": "curv_contour_length_14"}
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


class GreyFiles(Dataset):
    """Image files of side x side pixels, read as rows of grey when asked for."""

    def __init__(self, files: list[str], labels: list[int], side: int) -> None:
        # Arrays, not lists: counting references to many objects would copy them into every worker.
        self.files, self.labels, self.side = np.asarray([os.fsencode(f) for f in files]), np.asarray(labels), side

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels, reason = read_grey(os.fsdecode(self.files[index]), self.side)
        if pixels is None:
            raise ValueError(f"{os.fsdecode(self.files[index])}: {reason}; it was whole when the training began")
        return {"x": pixels, "label": int(self.labels[index])}


def read_grey(path: str, side: int) -> tuple[np.ndarray | None, str]:
    """(grey pixels [side * side] uint8, "") or (None, what is wrong: missing, empty, broken or 64 x 64)."""
    pil = require("PIL.Image", extra="training")
    if not os.path.isfile(path):
        return None, "missing"
    if not os.path.getsize(path):
        return None, "empty"
    try:
        with pil.open(path) as image:
            if image.size != (side, side):
                return None, "{} x {}".format(*image.size)
            return np.asarray(image.convert("L")).reshape(-1), ""
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError):
        return None, "broken"


def read_released(options: SequenceOptions, side: int, name: str) -> SequenceSets:
    """The released images below options.path, 80 : 10 : 10 at random, always the same.

    Images that are missing, empty, broken or of another size are left out, counted in the facts and told in one line.
    Raises ValueError naming the folder or the metadata file that is not as released, or where no image is left.
    """
    folder = _folder(Path(str(options.path)), name)
    files, labels = _listed(folder)
    order = np.random.RandomState(0).permutation(len(files))  # the legacy stream is frozen
    cuts = (np.cumsum([0.0, *SHARES.values()]) * len(files)).round().astype(int)
    left_out: Counter[str] = Counter()
    parts = {}
    for part, begin, end in zip(SHARES, cuts, cuts[1:]):
        limit = options.samples if part == "train" else options.evaluated
        chosen = order[begin:end][:limit]
        parts[part] = _whole(folder, [files[i] for i in chosen], [labels[i] for i in chosen], side, left_out)
    if min(map(len, parts.values())) == 0:
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or f"{len(files)} listed"
        raise ValueError(f"{folder}: no image of {side} x {side} pixels for every part ({told}); see --data.size")
    if left_out:
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(left_out.items()))
        print(f"{folder}: left out {sum(left_out.values())} of {len(files)} images ({told})", file=sys.stderr)
    facts: dict[str, Any] = {"from": "released files", "size": side, "difficulty": name, "left_out": dict(left_out)}
    facts |= {part: _describe(images) for part, images in parts.items()}
    train, validation, test = parts.values()
    return SequenceSets(train, validation, test, CLASSES, side * side, vocab_size=256, facts=facts)


def _folder(path: Path, name: str) -> Path:
    for folder in (path / FOLDERS[name], path):
        if (folder / "metadata").is_dir() and (folder / "imgs").is_dir():
            return folder
    raise ValueError(f"{path}: expected {FOLDERS[name]}/ with metadata/N.npy and imgs/N/*.png, as released")


def _listed(folder: Path) -> tuple[list[str], list[int]]:
    """Paths below `folder` and classes, from all metadata files in order of their numbers."""
    files: list[str] = []
    labels: list[int] = []
    listings = sorted((folder / "metadata").glob("*.npy"), key=lambda path: (len(path.stem), path.stem))
    for listing in listings:
        for number, row in enumerate(_rows(listing), 1):
            if len(row) < 4 or row[3] not in ("0", "1"):
                raise ValueError(
                    f'{listing}, row {number}: expected "folder file number class ..." with class 0 or 1, got '
                    f"{' '.join(row)[:80]!r}"
                )
            files.append(f"{row[0]}/{row[1]}")
            labels.append(int(row[3]))
    if not files:
        raise ValueError(f"{folder / 'metadata'}: no image is listed there ({len(listings)} files)")
    return files, labels


def _rows(listing: Path) -> list[list[str]]:
    """The rows of a metadata file: lines of text (as released), or numpy's format of strings; pickles are not read."""
    data = listing.read_bytes()
    if data[:6] != b"\x93NUMPY":
        return [line.split() for line in data.decode("utf-8", "replace").splitlines() if line.strip()]
    try:
        table = np.load(listing, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{listing}: not a table of strings ({' '.join(str(error).split())[:100]})") from None
    if table.ndim != 2:
        raise ValueError(f"{listing}: expected a table of strings with two dimensions, got shape {table.shape}")
    return [[text.decode() if isinstance(text, bytes) else str(text) for text in row] for row in table]


def _whole(folder: Path, files: list[str], labels: list[int], side: int, left_out: Counter[str]) -> GreyFiles:
    """The images that can be read; the others are counted by what is wrong with them."""
    kept_files, kept_labels = [], []
    bar = tqdm(zip(files, labels), "checking images", len(files), delay=2, leave=False, disable=None)
    for file, label in bar:
        path = str(folder / file)
        pixels, reason = read_grey(path, side)
        if pixels is None:
            left_out[reason] += 1
            continue
        kept_files.append(path)
        kept_labels.append(label)
    return GreyFiles(kept_files, kept_labels, side)


def _describe(images: GreyFiles) -> dict[str, Any]:
    """As tost.data.splits.describe; the fingerprint is that of the first images and the number of all."""
    told = hashlib.sha256(str(len(images)).encode())
    for index in range(min(8, len(images))):
        told.update(images[index]["x"].tobytes())
    length = images.side**2
    return {
        "sequences": len(images),
        "tokens": len(images) * length,
        "median": length,
        "longest": length,
        "commonest": round(float(max(images.labels.mean(), 1 - images.labels.mean())), 4),
        "fingerprint": told.hexdigest()[:16],
    }
