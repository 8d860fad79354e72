"""Time series from files: sktime's .ts, and .npz of arrays x, y and lengths. NaN is a missing value."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tost.extras import require

LARGEST = 2**33  # bytes of arrays that a .npz may unpack to
SHIPPED = ("BasicMotions", "JapaneseVowels", "ACSF1", "ArrowHead", "GunPoint", "ItalyPowerDemand", "OSULeaf", "PLAID")


class Series(NamedTuple):
    """Labelled series: values[i] is float32 [N_i, F] with NaN for what is missing, labels[i] the name of its class."""

    values: list[np.ndarray]
    labels: list[str]


def shipped_files(name: str) -> dict[str, Path]:
    """The two files of one of sktime's own sets."""
    if name not in SHIPPED:
        raise ValueError(f"sktime ships series of --data.name {', '.join(SHIPPED)}, got {name!r}")
    folder = Path(str(require("sktime.datasets", extra="sequence").__file__)).parent / "data" / name
    return {"train": folder / f"{name}_TRAIN.ts", "test": folder / f"{name}_TEST.ts"}


def files_at(path: Path) -> dict[str, Path]:
    """{"all": file}, or train, test and perhaps validation in a folder: *_TRAIN.ts and *_TEST.ts, or train.npz, ..."""
    if not path.is_dir():
        if path.suffix.lower() not in (".ts", ".npz") or not path.is_file():
            raise ValueError(f"--data.path {path}: expected a .ts or .npz file, or a folder of them for train and test")
        return {"all": path}
    named: dict[str, list[Path]] = {}
    for file in sorted(path.glob("*.*")):
        if file.suffix.lower() in (".ts", ".npz"):
            named.setdefault(file.stem.lower().rpartition("_")[2], []).append(file)
    files = {part: named[part][0] for part in ("train", "validation", "test") if len(named.get(part, [])) == 1}
    if not {"train", "test"} <= set(files):
        raise ValueError(
            f"--data.path {path}: expected NAME_TRAIN.ts and NAME_TEST.ts, or train.npz and test.npz, once; found "
            f"{sorted(p.name for p in path.iterdir())[:6]}"
        )
    return files


def read_series(path: Path) -> Series:
    """The series of one file; ValueError naming the file and what is wrong with it."""
    series = _read_ts(path) if path.suffix.lower() == ".ts" else _read_npz(path)
    if not series.values:
        raise ValueError(f"{path}: no series in it")
    widths = {value.shape[1] for value in series.values}
    empty = [i for i, value in enumerate(series.values) if not len(value)]
    if len(widths) > 1 or empty:
        what = f"series {empty[0]} has no step" if empty else f"series of {sorted(widths)} channels"
        raise ValueError(f"{path}: {what}; every series has steps, and as many channels as the others")
    endless = next((i for i, value in enumerate(series.values) if np.isinf(value).any()), None)
    if endless is not None:
        raise ValueError(f"{path}: series {endless} holds an infinite number; a missing one is written NaN (? in .ts)")
    return series


def _read_ts(path: Path) -> Series:
    load = require("sktime.datasets", extra="sequence").load_from_tsfile
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    try:
        table, labels = load(str(path), return_y=True, return_data_type="nested_univ")
        rows = [[np.asarray(cell, dtype=np.float32) for cell in row] for row in table.itertuples(index=False)]
    except Exception as error:  # its reader raises many kinds for a file that is none
        raise ValueError(f"{path}: not a .ts file with class labels ({' '.join(str(error).split())[:120]})") from None
    values = []
    for i, row in enumerate(rows):
        steps = [len(channel) for channel in row]
        if len(set(steps)) > 1:
            raise ValueError(f"{path}: the channels of series {i} have {steps} steps, expected equal numbers")
        values.append(np.stack(row, axis=1))
    return Series(values, [str(label) for label in labels])


def _read_npz(path: Path) -> Series:
    """x [n, longest(, F)], or all series one after the other [total(, F)]; y [n]; lengths [n] where they differ."""
    try:
        with zipfile.ZipFile(path) as packed:
            size = sum(entry.file_size for entry in packed.infolist())
        if size > LARGEST:
            raise ValueError(f"{size:,} bytes of arrays, more than {LARGEST:,}")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in ("x", "y", "lengths") if name in arrays}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{path}: not a .npz file of plain arrays ({' '.join(str(error).split())[:120]})") from None
    if "x" not in found or "y" not in found or found["y"].ndim != 1 or found["x"].dtype.kind not in "fiu":
        shapes = {name: array.shape for name, array in found.items()}
        raise ValueError(f"{path}: expected arrays x (numbers) and y [n], perhaps lengths [n], got {shapes}")
    labels = [_name(label) for label in found["y"].tolist()]
    return Series(_cut(path, found["x"].astype(np.float32), len(labels), found.get("lengths")), labels)


def _cut(path: Path, x: np.ndarray, count: int, lengths: Any) -> list[np.ndarray]:
    if lengths is None:
        lengths = np.full(count, x.shape[1] if x.ndim > 1 else 0)
    told = f"{path}: x {x.shape}, {count} labels, {len(lengths)} lengths"
    if len(lengths) != count or lengths.dtype.kind not in "iu" or (count and lengths.min() < 0):
        raise ValueError(f"{told}: expected a length, a whole number from 0 on, for every label")
    ends = np.cumsum(lengths)
    if count and x.ndim in (1, 2) and len(x) == ends[-1] != count:
        return [piece if x.ndim == 2 else piece[:, None] for piece in np.split(x, ends[:-1])]
    if x.ndim not in (2, 3) or len(x) != count or (count and lengths.max() > x.shape[1]):
        raise ValueError(f"{told}: expected x [n, longest], [n, longest, channels] or [sum of lengths, channels]")
    whole = x if x.ndim == 3 else x[:, :, None]
    return [row[:length] for row, length in zip(whole, lengths)]


def _name(label: Any) -> str:
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
