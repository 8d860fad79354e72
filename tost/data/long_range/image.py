"""Image of the Long Range Arena: CIFAR-10 in grey, an image a row of 1024 pixels; a token is a pixel, 0 to 255."""

from __future__ import annotations

from typing import Any

import numpy as np
from tqdm import tqdm

from tost.data.images import ImageOptions, TensorImages, load_images
from tost.data.sequences import Ragged, SequenceSets
from tost.data.sources import SequenceOptions, place
from tost.data.splits import sequence_sets

SIDE = 32
LUMA = (0.2989, 0.5870, 0.1140)  # of red, green and blue (ITU-R BT.601), as LRA's


def load_grey_images(options: SequenceOptions) -> SequenceSets:
    """Images of any layout that tost.data.load_images knows, such as CIFAR's binary version or train/CLASS, test/CLASS.

    Image files are resized to squares of options.size (32). Where there is no validation set it is set apart from the
    training set. Raises ValueError naming the path and what was expected there.
    """
    path = place(options, "images: CIFAR's binary version, or train/CLASS/* and test/CLASS/*")
    side = options.size or SIDE
    sets = load_images("auto", path, ImageOptions(image_size=side, validation=options.validation))
    limits = {"train": options.samples, "validation": options.evaluated, "test": options.evaluated}
    parts = {part: grey_rows(_some(getattr(sets, part), limits[part], options.seed), part) for part in limits}
    length = int(parts["train"].offsets[1])
    return sequence_sets(
        parts, classes=sets.classes, max_length=length, vocab_size=256, held_out=sets.held_out, facts={}
    )


def grey_rows(images: Any, what: str = "images") -> Ragged:
    """Images as rows of grey pixels: round(0.2989 red + 0.5870 green + 0.1140 blue), line by line."""
    if isinstance(images, TensorImages):
        rows = grey(images.pixels.numpy())
    else:
        bar = tqdm(range(len(images)), what, unit=" images", delay=2, leave=False, disable=None)
        rows = np.stack([grey(images[i]["pixels"].numpy()[None])[0] for i in bar])
    count, length = rows.shape
    labels = np.asarray(images.labels, dtype=np.int64)
    return Ragged(rows.reshape(-1), np.arange(count + 1, dtype=np.int64) * length, labels)


def grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 [N, 1 or 3, H, W] -> uint8 [N, H * W]."""
    if pixels.shape[1] == 1:
        return pixels.reshape(len(pixels), -1)
    mixed = np.einsum("nchw,c->nhw", pixels, np.array(LUMA, dtype=np.float32), dtype=np.float32)
    return np.minimum(np.rint(mixed), 255).astype(np.uint8).reshape(len(pixels), -1)


def _some(images: Any, count: int | None, seed: int) -> Any:
    """`count` images chosen by the seed, in their order."""
    if count is None or count >= len(images):
        return images
    return images.subset(np.sort(np.random.RandomState(seed).permutation(len(images))[:count]))
