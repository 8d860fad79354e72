"""Images with captions: a folder with a JSON-lines file, or a Hugging Face dataset saved on disk."""

# C channels, S side in pixels

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from tost.data.folders import centre_crop, open_image
from tost.data.images import ImageOptions
from tost.data.questions import Question
from tost.extras import require

LISTS = ("captions.jsonl", "metadata.jsonl")
IMAGES, CAPTIONS = ("image", "file_name", "file"), ("caption", "captions", "text", "sentences")
HELD_OUT, WATCHED = ("test", "validation", "valid", "val"), ("validation", "valid", "val")

Pair = tuple[Any, list[str]]  # where an image is, and its captions


class CaptionImages(Dataset):
    """Images decoded when they are asked for, middle squares of S pixels, each with one of its captions.

    pairs: an image's place and its captions; there is an item for every caption.  open: gives the PIL image of a place.
    An item is {"image": uint8 [C, S, S], "questions": [Question("caption", "", caption)]}.
    """

    def __init__(self, pairs: Sequence[Pair], opener: Callable[[Any], Any], size: int, channels: int) -> None:
        self.places = [place for place, captions in pairs for _ in captions]
        self.captions = [caption for _, captions in pairs for caption in captions]
        self.opener, self.size, self.channels = opener, size, channels

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = centre_crop(self.opener(self.places[index]), ImageOptions(self.size))
        pixels = np.array(image.convert("L" if self.channels == 1 else "RGB"), dtype=np.uint8)
        pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
        return {"image": np.ascontiguousarray(pixels), "questions": [Question("caption", "", self.captions[index])]}


def load_captions(
    path: str | Path, size: int, channels: int, validation: float = 0.1, test: float = 0.1
) -> dict[str, CaptionImages]:
    """The parts train, validation and test of what lies at `path`.

    A dataset's own test and validation splits are taken; else shares of the images are set apart, always the same.
    All captions of an image are in one part.
    Raises ValueError naming the path, and the line, where something is missing or broken.
    """
    place = Path(path)
    if (place / "dataset_dict.json").exists() or (place / "state.json").exists():
        parts, opener = _dataset(place)
    else:
        parts, opener = {"train": _json_lines(place)}, open_image
    held_out = next((name for name in HELD_OUT if name in parts), None)
    watched = next((name for name in WATCHED if name in parts and name != held_out), None)
    train = parts.get("train", [])
    chosen = {"test": parts[held_out] if held_out else None, "validation": parts[watched] if watched else None}
    for name, share in (("test", test), ("validation", validation)):
        if chosen[name] is None:
            train, chosen[name] = _set_apart(train, share, name, path)
    found = {"train": train, **chosen}
    return {name: CaptionImages(pairs or [], opener, size, channels) for name, pairs in found.items()}


def _set_apart(pairs: list[Pair], share: float, name: str, path: str | Path) -> tuple[list[Pair], list[Pair]]:
    if not 0 < share < 1:
        raise ValueError(f"data.{name} is the share of the images set apart, above 0 and below 1, got {share}")
    if len(pairs) < 2:
        raise ValueError(f"{path}: expected images enough to set some apart for {name}, got {len(pairs)}")
    order = np.random.RandomState(0).permutation(len(pairs))
    count = min(max(1, round(share * len(pairs))), len(pairs) - 1)
    apart = set(order[:count].tolist())
    return [pair for i, pair in enumerate(pairs) if i not in apart], [pairs[i] for i in sorted(apart)]


def _json_lines(path: Path) -> list[Pair]:
    """One object a line: {"image": "a.jpg", "caption": "a dog"}; captions of the same image are joined."""
    listing = path if path.suffix == ".jsonl" else next((path / n for n in LISTS if (path / n).is_file()), None)
    if listing is None or not listing.is_file():
        raise ValueError(f"{path}: expected a .jsonl file, a folder with {' or '.join(LISTS)}, or a saved dataset")
    found: dict[Path, list[str]] = {}
    try:
        lines = listing.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{listing} is not UTF-8 text (byte {error.start}); convert it") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            image, captions = _field(row, IMAGES), _captions(_field(row, CAPTIONS))
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(
                f'{listing}, line {number}: expected a JSON object such as {{"image": "a.jpg", "caption": "a dog"}}'
            ) from None
        if not (listing.parent / image).is_file():
            raise ValueError(f"{listing}, line {number}: {listing.parent / image} is not there")
        found.setdefault(listing.parent / image, []).extend(captions)
    if not found:
        raise ValueError(f"{listing}: empty; expected an image and its caption a line")
    return list(found.items())


def _dataset(path: Path) -> tuple[dict[str, list[Pair]], Callable[[Any], Any]]:
    """Splits of a dataset saved by save_to_disk, of one column of images and one of captions."""
    datasets = require("datasets", extra="training")
    try:
        loaded = datasets.load_from_disk(str(path))
    except Exception as error:  # the library raises many kinds
        raise ValueError(f"{path}: no Hugging Face dataset there ({str(error).splitlines()[0]})") from None
    splits = loaded if isinstance(loaded, dict) else {"train": loaded}
    if "train" not in splits:
        raise ValueError(f"{path}: expected a split train, got {', '.join(splits)}")
    features = splits["train"].features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    captions = [name for name in CAPTIONS if name in features]
    if len(images) != 1 or not captions:
        raise ValueError(f"{path}: expected a column of images and one of {', '.join(CAPTIONS)}, got {dict(features)}")
    parts = {
        name: [((name, row), _captions(value)) for row, value in enumerate(table[captions[0]])]
        for name, table in splits.items()
    }

    def opener(place: tuple[str, int]) -> Any:
        try:
            return splits[place[0]][place[1]][images[0]].convert("RGB")
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path}, {place[0]} row {place[1]}: not a readable image ({error})") from None

    return parts, opener


def _field(row: Any, names: Sequence[str]) -> Any:
    return row[next(name for name in names if name in row)] if any(name in row for name in names) else row[names[0]]


def _captions(value: Any) -> list[str]:
    captions = [value] if isinstance(value, str) else list(value)
    if not captions or not all(isinstance(caption, str) and caption.strip() for caption in captions):
        raise TypeError
    return [" ".join(caption.split()) for caption in captions]
