"""Photographs with masks: pairs by name, and what in a mask is the object."""

# H, W pixels

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tost.analysis.subject import image_files
from tost.extras import require

SUFFIXES = (".png", ".bmp", ".gif", ".tif", ".tiff", ".npy")


@dataclass(frozen=True)
class Labelled:
    """Pairs of photographs and masks.  ignore, foreground: labels; every other label is background."""

    pairs: list[tuple[Path, Path]]
    ignore: tuple[int, ...]
    foreground: tuple[int, ...]
    labels: tuple[int, ...]

    def halves(self) -> tuple[list[tuple[Path, Path]], list[tuple[Path, Path]]]:
        """(those that choose, those that are scored): every second photograph by name."""
        return self.pairs[::2], self.pairs[1::2]

    def read(self, mask: Path, size: tuple[int, int]) -> Mask:
        """A mask resized to `size` by the nearest pixel."""
        labels = F.interpolate(read_mask(mask)[None, None].float(), size, mode="nearest-exact")[0, 0].long()
        valid = ~torch.isin(labels, torch.tensor(self.ignore, dtype=torch.long))
        return Mask(labels, torch.isin(labels, torch.tensor(self.foreground, dtype=torch.long)) & valid, valid)


@dataclass(frozen=True)
class Mask:
    """labels: [H, W] int64.  object, valid: [H, W] bool; object lies within valid."""

    labels: Tensor
    object: Tensor
    valid: Tensor


def read_masks(
    images: str | Path, masks: str | Path, ignore: Sequence[int] = (), foreground: Sequence[int] = ()
) -> Labelled:
    """Pair the photographs of a folder with masks of the same name (any suffix), and find out what is the object.

    foreground: labels of the object; () is every label but the background, which is 0, or the largest where no mask
    has a 0.
    Raises ValueError for a missing folder, photograph without mask, mask of another shape, unreadable mask, fewer than
    two pairs, or masks in which nothing or everything is the object.
    """
    files, folder = image_files(images), Path(masks)
    if not folder.is_dir():
        raise ValueError(f"--masks {folder}: no such folder")
    found = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES}
    missing = [path for path in files if path.stem not in found]
    if missing:
        raise ValueError(
            f"{missing[0]} has no mask in {folder} ({len(missing)} of {len(files)} photographs have none); a mask has "
            f"the name of its photograph, {missing[0].stem}{SUFFIXES[0]} or another of {', '.join(SUFFIXES)}"
        )
    if len(files) < 2:
        raise ValueError(f"--images {images}: scores need two photographs at least (half choose), got {len(files)}")
    pairs = [(path, found[path.stem]) for path in files]
    counts: dict[int, int] = {}
    for photo, mask in pairs:
        labels = read_mask(mask)
        _check_shape(photo, mask, labels)
        for label, count in zip(*(part.tolist() for part in labels.unique(return_counts=True))):
            counts[label] = counts.get(label, 0) + count
    kept = sorted(label for label in counts if label not in ignore)
    chosen = tuple(foreground) or tuple(label for label in kept if label != (0 if 0 in kept else max(kept, default=0)))
    if not set(chosen) & set(kept) or not set(kept) - set(chosen):
        raise ValueError(
            f"--masks {folder}: the masks hold the labels {sorted(counts)[:10]}, ignored {sorted(ignore)}, foreground "
            f"{sorted(chosen)}: expected some foreground and some background; set --foreground and --ignore"
        )
    return Labelled(pairs, tuple(ignore), chosen, tuple(kept))


def read_mask(path: Path) -> Tensor:
    """[H, W] int64; ValueError for a file that is not readable, or colours that are no labels."""
    pil = require("PIL.Image", extra="training")
    try:
        if path.suffix.lower() == ".npy":
            array = np.load(path, allow_pickle=False)
        else:
            with pil.open(path) as image:
                array = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not a readable mask ({' '.join(str(error).split())})") from None
    if array.ndim == 3 and (array == array[..., :1])[..., :3].all():
        array = array[..., 0]  # the same label in every channel
    if array.ndim != 2 or array.dtype.kind not in "iub":
        raise ValueError(
            f"{path}: expected integer labels [height, width], got {array.dtype} of shape {list(array.shape)}; write "
            "labels, not colours"
        )
    return torch.from_numpy(array.astype(np.int64))


def _check_shape(photo: Path, mask: Path, labels: Tensor) -> None:
    """ValueError if a mask has not the proportions of its photograph (another size of the same is resized)."""
    pil = require("PIL.Image", extra="training")
    try:
        with pil.open(photo) as image:
            width, height = image.size
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{photo}: not a readable image ({' '.join(str(error).split())})") from None
    if abs(labels.shape[0] * width / (labels.shape[1] * height) - 1) > 0.05:
        raise ValueError(
            f"{mask} is {labels.shape[1]} x {labels.shape[0]}, {photo.name} {width} x {height}: a mask may be smaller "
            "or larger than its photograph, but not of other proportions"
        )
