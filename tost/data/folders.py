"""Images that stay files until they are needed: image folders and published image lists (Flowers-102, Pets)."""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from tost.data.images import ImageOptions, ImageSets, set_apart
from tost.extras import require

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".pgm", ".tif", ".tiff"}


class FileImages(Dataset):
    """Images decoded when asked for, as RGB squares of `options.image_size`; safe in DataLoader workers.

    With `augmented`, an image is a random resized crop that depends on the seed, the epoch and its index alone, so that
    it is the same whichever worker or resumed process decodes it.
    """

    def __init__(
        self, files: Sequence[Any] | np.ndarray, labels: Any, options: ImageOptions, augmented: bool = False
    ) -> None:
        # Arrays, not lists: counting references to a million objects would copy them into every worker.
        self.files = files if isinstance(files, np.ndarray) else np.asarray([os.fsencode(file) for file in files])
        self.labels, self.options = np.asarray(labels), options
        self.augmented = augmented and options.random_crop is not None
        self.epoch = 0

    def __len__(self) -> int:
        return len(self.files)

    def set_epoch(self, epoch: int) -> None:
        """Draw other crops from now on."""
        self.epoch = epoch

    def subset(self, indices: Sequence[int] | np.ndarray) -> FileImages:
        """The images at `indices`, in that order."""
        return FileImages(self.files[indices], self.labels[indices], self.options, self.augmented)

    def as_evaluation(self) -> FileImages:
        """The same images without random crops."""
        return FileImages(self.files, self.labels, self.options)

    def open(self, index: int) -> Any:
        """The PIL image at `index`."""
        return open_image(os.fsdecode(self.files[index]))

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.open(index)
        if self.augmented:
            chance = random.Random(f"{self.options.seed}-{self.epoch}-{index}")
            square = random_crop(image, self.options, chance)
        else:
            square = centre_crop(image, self.options)
        pixels = torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1).contiguous()
        return {"pixels": pixels, "labels": int(self.labels[index])}


def open_image(path: Any) -> Any:
    """A decoded RGB image; ValueError naming the path where PIL refuses it (broken, unknown, a decompression bomb)."""
    pil = require("PIL.Image", extra="training")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(path) as image:
                return image.convert("RGB")
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise ValueError(
            f"{path}: larger than the {pil.MAX_IMAGE_PIXELS:,} pixels that PIL takes for safe; shrink it"
        ) from None
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path}: not a readable image ({' '.join(str(error).split())}); mend or remove it") from None


def centre_crop(image: Any, options: ImageOptions) -> Any:
    """The middle square that covers `crop_ratio` of the short side, resized to image_size."""
    side = options.crop_ratio * min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return _resize(image, (left, top, left + side, top + side), options.image_size)


def random_crop(image: Any, options: ImageOptions, chance: random.Random) -> Any:
    """A rectangle of random area (within options.random_crop) and aspect (3/4 to 4/3), resized to a square."""
    assert options.random_crop is not None
    area = image.width * image.height
    for _ in range(10):
        share = chance.uniform(*options.random_crop)
        aspect = np.exp(chance.uniform(np.log(3 / 4), np.log(4 / 3)))
        width, height = (share * area * aspect) ** 0.5, (share * area / aspect) ** 0.5
        if width <= image.width and height <= image.height:
            left, top = chance.uniform(0, image.width - width), chance.uniform(0, image.height - height)
            return _resize(image, (left, top, left + width, top + height), options.image_size)
    return centre_crop(image, options)


def _resize(image: Any, box: tuple[float, float, float, float], size: int) -> Any:
    box = (max(box[0], 0), max(box[1], 0), min(box[2], image.width), min(box[3], image.height))
    return image.resize((size, size), require("PIL.Image", extra="training").Resampling.BICUBIC, box=box)


def image_folder(path: Path, options: ImageOptions) -> ImageSets:
    """PATH/train/CLASS/*.jpg and PATH/val or PATH/test beside it.

    test/, where it exists, is held out and val/ is watched; with one of them alone it is held out, and
    `options.validation` of the training images are watched.
    """
    train, classes = _class_folder(path / "train", options, None, augmented=True)
    if len(classes) < 2:
        raise ValueError(f"{path / 'train'}: expected at least two classes (one folder each), got {classes}")
    found = [n for n in ("test", "val", "valid", "validation") if (path / n).is_dir()]
    if not found:
        raise ValueError(f"{path}: expected val/ or test/ beside train/, to have images that training does not see")
    held_out, _ = _class_folder(path / found[0], options, classes)
    watched: FileImages | None
    if len(found) > 1:
        watched, _ = _class_folder(path / found[1], options, classes)
    else:
        train, apart = set_apart(train, options.validation)
        watched = apart.as_evaluation() if apart is not None else None
    return ImageSets(train, watched, held_out, classes, 3, found[0])


def _class_folder(
    folder: Path, options: ImageOptions, expected: list[str] | None, augmented: bool = False
) -> tuple[FileImages, list[str]]:
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; images are expected as {folder}/CLASS/*.jpg")
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not classes:
        raise ValueError(f"{folder}: empty; images are expected as {folder}/CLASS/*.jpg")
    if expected is not None and classes != expected:
        missing, surplus = sorted(set(expected) - set(classes)), sorted(set(classes) - set(expected))
        raise ValueError(
            f"{folder}: its classes must be those of train/ ({len(expected)}), got {len(classes)}; "
            f"missing {missing[:5]}, not in train {surplus[:5]}"
        )
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = _images_below(folder / name)
        if not images:
            raise ValueError(f"{folder / name}: no image in it (looked for {', '.join(sorted(SUFFIXES))})")
        files += images
        labels += [label] * len(images)
    return FileImages(files, labels, options, augmented), classes


def _images_below(folder: Path) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        found += [os.path.join(place, name) for name in sorted(names) if os.path.splitext(name)[1].lower() in SUFFIXES]
    return found


def flowers102(path: Path, options: ImageOptions) -> ImageSets:
    """Flowers-102 as published: jpg/image_00001.jpg, ..., imagelabels.mat and setid.mat (its trnid and valid train)."""
    loadmat = require("scipy.io", extra="training").loadmat
    labels_path, split_path = path / "imagelabels.mat", path / "setid.mat"
    try:
        labels, split = loadmat(labels_path)["labels"].ravel() - 1, loadmat(split_path)
        numbers = {name: split[name].ravel() for name in ("trnid", "valid", "tstid")}
    except (KeyError, OSError, ValueError, NotImplementedError) as error:
        raise ValueError(
            f"{path}: cannot read {labels_path.name} and {split_path.name} of Flowers-102 ({error})"
        ) from None

    def files(chosen: np.ndarray, augmented: bool = False) -> FileImages:
        names = [path / "jpg" / f"image_{number:05d}.jpg" for number in chosen]
        _check_present(names)
        return FileImages(names, labels[chosen - 1], options, augmented)

    train = files(np.concatenate([numbers["trnid"], numbers["valid"]]), augmented=True)
    return _sets(train, files(numbers["tstid"]), [str(i + 1) for i in range(int(labels.max()) + 1)], options)


def pets(path: Path, options: ImageOptions) -> ImageSets:
    """Oxford-IIIT Pets as published: images/*.jpg, annotations/{trainval,test}.txt of "name class species breed"."""
    names: dict[int, str] = {}

    def files(listing: Path, augmented: bool = False) -> FileImages:
        rows = [line.split() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
        rows = [row for row in rows if not row[0].startswith("#")]
        if not rows or any(len(row) < 2 or not row[1].isdigit() for row in rows):
            raise ValueError(f'{listing}: expected lines of "name class species breed"')
        images = [path / "images" / f"{row[0]}.jpg" for row in rows]
        _check_present(images)
        names.update({int(row[1]) - 1: row[0].rpartition("_")[0] for row in rows})
        return FileImages(images, [int(row[1]) - 1 for row in rows], options, augmented)

    train = files(path / "annotations" / "trainval.txt", augmented=True)
    test = files(path / "annotations" / "test.txt")
    return _sets(train, test, [names.get(i, str(i)) for i in range(max(names) + 1)], options)


def _sets(train: FileImages, test: FileImages, classes: list[str], options: ImageOptions) -> ImageSets:
    if Counter(train.labels.tolist()).most_common()[-1][1] < 2 and options.validation > 0:
        raise ValueError("a class with one image cannot be split; set --data.validation 0")
    train, watched = set_apart(train, options.validation)
    return ImageSets(train, watched.as_evaluation() if watched is not None else None, test, classes, 3, "test")


def _check_present(files: Sequence[Path]) -> None:
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise ValueError(f"{missing}: named by the image list but not there; unpack the images beside the list")
