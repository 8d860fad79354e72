"""Classification of time series, of one channel or many, of equal lengths or not, gaps included."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tost.data.sequences import Ragged, SequenceSets
from tost.data.series_files import Series, files_at, read_series, shipped_files
from tost.data.sources import SequenceOptions, place
from tost.data.splits import at_most, choose, sequence_sets, set_apart, split_by_content

TEST = 0.2  # of the series of a single file


def load_shipped_series(options: SequenceOptions) -> SequenceSets:
    """A set that comes with sktime, its own training and test series: options.name, BasicMotions if there is none."""
    return _load(shipped_files(options.name or "BasicMotions"), options)


def load_series(options: SequenceOptions) -> SequenceSets:
    """The series of options.path: one .ts or .npz file, or a folder of them for train, test and perhaps validation.

    .ts is sktime's format; .npz holds x, y and perhaps lengths (tost.data.series_files). A single file is split by
    content, a fifth for the test. Raises ValueError naming the file, and the place of a gap unless gaps are filled.
    """
    return _load(files_at(Path(place(options, "a .ts or .npz file, or a folder of them"))), options)


def _load(files: dict[str, Path], options: SequenceOptions) -> SequenceSets:
    series = {part: read_series(path) for part, path in files.items()}
    widths = {part: found.values[0].shape[1] for part, found in series.items()}
    if len(set(widths.values())) > 1:
        raise ValueError(f"series of different parts have different numbers of channels: {widths}")
    if options.gaps == "refuse":
        for part, found in series.items():
            _refuse_gaps(files[part], found)
    classes = sorted({label for found in series.values() for label in found.labels}, key=_order)
    if len(classes) < 2:
        raise ValueError(f"{next(iter(files.values()))}: expected labels of at least two classes, got {classes}")
    raw = {part: _ragged(found, classes, options.max_length) for part, found in series.items()}
    raw = _split(raw, options.validation)
    limits = {"train": options.samples, "validation": options.evaluated, "test": options.evaluated}
    raw = {part: at_most(raw[part], limits[part], options.seed) for part in limits}
    mean, std = statistics(raw["train"].values)
    parts = {part: _ready(found, mean, std, options.gaps == "fill") for part, found in raw.items()}
    gaps = int(sum(np.isnan(found.values).sum() for found in raw.values()))
    longest = max(int(np.diff(part.offsets).max()) for part in parts.values())
    return sequence_sets(
        parts,
        classes=classes,
        max_length=options.max_length or longest,
        in_features=parts["train"].values.shape[1],
        facts={"mean": mean.round(6).tolist(), "std": std.round(6).tolist(), "gaps": gaps},
    )


def statistics(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean, standard deviation) per channel of [total, F], missing values aside; 0 and 1 for a channel without any."""
    real = ~np.isnan(values)
    count = np.maximum(real.sum(0), 1)
    mean = np.where(real, values, 0).sum(0, dtype=np.float64) / count
    variance = np.where(real, (values - mean) ** 2, 0).sum(0, dtype=np.float64) / count
    std = np.sqrt(variance)
    return mean, np.where(std > 1e-12 * np.maximum(1, np.abs(mean)), std, 1.0)


def fill_forward(values: np.ndarray) -> np.ndarray:
    """[N, F] where a missing value is the last one before it in its channel, 0 where there is none."""
    known = np.where(np.isnan(values), 0, np.arange(1, len(values) + 1)[:, None])
    last = np.maximum.accumulate(known, axis=0)
    filled = np.take_along_axis(values, np.maximum(last - 1, 0), axis=0)
    return np.where(last > 0, filled, 0).astype(values.dtype)


def _ready(part: Ragged, mean: np.ndarray, std: np.ndarray, fill: bool) -> Ragged:
    """Standardised by the training set; with `fill`, gaps are filled and a last channel is 1 where there was one."""
    values = ((part.values - mean) / std).astype(np.float32)
    if fill:
        gap = np.isnan(values).any(1, keepdims=True).astype(np.float32)
        pieces = [fill_forward(values[a:b]) for a, b in zip(part.offsets, part.offsets[1:])]
        values = np.concatenate([np.concatenate(pieces), gap], axis=1)
    return Ragged(values, part.offsets, part.labels)


def _split(raw: dict[str, Ragged], validation: float) -> dict[str, Ragged]:
    if "all" in raw:
        whole = raw["all"]
        contents = [whole.values[a:b].tobytes() for a, b in zip(whole.offsets, whole.offsets[1:])]
        places = split_by_content(contents, whole.labels, (validation, TEST))
        return {part: choose(whole, indices) for part, indices in zip(("train", "validation", "test"), places)}
    if "validation" not in raw:
        train, apart = set_apart(raw["train"], validation)
        return {"train": train, "validation": apart, "test": raw["test"]}
    return raw


def _ragged(series: Series, classes: list[str], longest: int | None) -> Ragged:
    number = {name: i for i, name in enumerate(classes)}
    return Ragged.of([value[:longest] for value in series.values], [number[label] for label in series.labels])


def _refuse_gaps(path: Path, series: Series) -> None:
    for i, value in enumerate(series.values):
        if np.isnan(value).any():
            step, channel = (int(place) for place in np.argwhere(np.isnan(value))[0])
            raise ValueError(
                f"{path}: a missing value in series {i}, step {step}, channel {channel} (from 0); mend it or set "
                "--data.gaps fill"
            )


def _order(name: str) -> tuple[bool, float, str]:
    try:
        return False, float(name), name
    except ValueError:
        return True, 0.0, name
