"""Labelled images as uint8 tensors, split into train, validation and a held-out test set.

B batch, C channels, H height, W width. An item of every set is {"pixels": uint8 [C, H, W], "labels": int}; pixels stay
uint8 until they are on the device, where `to_model_input` scales and normalises them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from tost.extras import require


class TensorImages(Dataset):
    """A set that fits in memory. pixels: uint8 [N, C, H, W]; labels: [N]."""

    def __init__(self, pixels: Tensor, labels: Tensor | np.ndarray) -> None:
        self.pixels = pixels
        self.labels = torch.as_tensor(labels, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"pixels": self.pixels[index], "labels": int(self.labels[index])}

    def subset(self, indices: Sequence[int] | np.ndarray) -> TensorImages:
        """The images at `indices`, in that order."""
        chosen = torch.as_tensor(np.asarray(indices), dtype=torch.long)
        return TensorImages(self.pixels[chosen], self.labels[chosen])


@dataclass
class ImageSets:
    """What a recipe trains on, watches while it trains, and is judged by.

    held_out: the name of the split in `test`, as its publisher calls it; nothing is ever selected on it.
    validation: images set apart from the training set to watch progress, or None.
    """

    train: Any
    validation: Any | None
    test: Any
    classes: list[str]
    channels: int
    held_out: str


@dataclass
class ImageOptions:
    """How images are read: the side they are resized to, the share of it that evaluation crops, and validation's share.

    random_crop: the range of areas of a random resized crop of training images that are decoded lazily, or None.
    """

    image_size: int
    crop_ratio: float = 1.0
    validation: float = 0.0
    random_crop: tuple[float, float] | None = None
    seed: int = 0


def to_model_input(
    pixels: Tensor, mean: Sequence[float], std: Sequence[float], image_size: int | None = None
) -> Tensor:
    """uint8 [B, C, H, W] -> float32 [B, C, image_size, image_size], (pixels / 255 - mean) / std.

    mean and std hold one number, or one per channel; images of another size are resized (bicubic, antialiased).
    """
    return normalise(resize(pixels.float() / 255, image_size), mean, std)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(images - mean) / std per channel of [B, C, H, W]."""
    if len(mean) not in (1, images.shape[1]) or len(std) not in (1, images.shape[1]):
        raise ValueError(
            f"normalise expects a mean and a std for each of {images.shape[1]} channels, got {len(mean)} and {len(std)}"
            "; set --data.mean and --data.std"
        )
    shape = (1, -1, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def resize(images: Tensor, image_size: int | None) -> Tensor:
    """Float images [B, C, H, W] in [0, 1], resized to a square of `image_size` unless they have that size already."""
    if image_size is None or tuple(images.shape[-2:]) == (image_size, image_size):
        return images
    size = (image_size, image_size)
    resized = torch.nn.functional.interpolate(images, size, mode="bicubic", antialias=True, align_corners=False)
    return resized.clamp(0, 1)


def split_stratified(labels: Sequence[int] | np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices (kept, set apart), `fraction` of every class set apart; always the same for the same labels.

    Every class gives at least one image and keeps at least one.
    """
    labels = np.asarray(labels)
    generator = np.random.RandomState(0)  # the legacy stream is frozen, so the split is the same in every version
    apart = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        apart.append(members[:count])
    chosen = np.sort(np.concatenate(apart))
    return np.setdiff1d(np.arange(len(labels)), chosen), chosen


def set_apart(train: Any, fraction: float) -> tuple[Any, Any | None]:
    """(train, validation): a stratified `fraction` of `train` set apart, or None where fraction is 0."""
    if not 0 <= fraction < 1:
        raise ValueError(f"data.validation is the share of the training images set apart, 0 to below 1, got {fraction}")
    if fraction == 0:
        return train, None
    kept, apart = split_stratified(train.labels, fraction)
    return train.subset(kept), train.subset(apart)


def digits(path: Path | None, options: ImageOptions) -> ImageSets:
    """scikit-learn's digits: 1,797 scans of 8 x 8; a fifth of every class is held out, always the same images."""
    bunch = require("sklearn.datasets", extra="training").load_digits()
    pixels = torch.from_numpy(np.round(bunch.images * (255 / 16)).astype(np.uint8))[:, None]
    everything = TensorImages(pixels, bunch.target)
    kept, test = split_stratified(bunch.target, 0.2)
    train, validation = set_apart(everything.subset(kept), options.validation)
    return ImageSets(train, validation, everything.subset(test), [str(i) for i in range(10)], 1, "test")


def load_images(source: str, path: str | Path | None, options: ImageOptions) -> ImageSets:
    """Read the images of `source` (one of SOURCES, or "auto": whatever lies at `path`).

    Raises ValueError or OSError naming the path, what was expected there and what was found.
    """
    from tost.data import files, folders, hub

    readers: dict[str, Callable[[Any, ImageOptions], ImageSets]] = {
        "digits": digits,
        "idx": files.idx,
        "cifar": files.cifar,
        "folder": folders.image_folder,
        "flowers102": folders.flowers102,
        "pets": folders.pets,
        "hub": hub.hugging_face,
    }
    if source == "auto":
        source = recognise(path)
    if source not in readers:
        raise ValueError(f"unknown image source {source!r}; expected auto or one of {', '.join(readers)}")
    if source == "digits":
        return digits(None, options)
    if path is None:
        raise ValueError(f"images of source {source!r} are read from a path: set --data.path")
    if source == "hub":
        return readers[source](str(path), options)
    if not Path(path).is_dir():
        raise ValueError(f"--data.path {path}: no such folder")
    return readers[source](Path(path), options)


def recognise(path: str | Path | None) -> str:
    """Which reader fits the folder `path`, told from the names of its files."""
    if path is None:
        raise ValueError("this recipe reads images from a path: set --data.path to a folder (see tost train --help)")
    folder = Path(path)
    if not folder.is_dir():
        return "hub"
    marks = {
        "idx": ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz"],
        "cifar": ["data_batch_1.bin", "train.bin", "data_batch_1", "meta"],
        "flowers102": ["setid.mat"],
        "pets": ["annotations/trainval.txt"],
        "hub": ["dataset_dict.json", "dataset_info.json"],
        "folder": ["train"],
    }
    for source, names in marks.items():
        if any((folder / name).exists() for name in names):
            return source
    raise ValueError(
        f"--data.path {path}: not a layout that tost knows; expected train/CLASS/*.jpg with val/ or test/ beside it, "
        "IDX files, CIFAR's binary version, Flowers-102, Oxford-IIIT Pets or a saved Hugging Face dataset"
    )
