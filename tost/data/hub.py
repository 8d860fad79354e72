"""Images of a Hugging Face dataset: a name on the Hub, a folder of save_to_disk, or a folder of parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tost.data.folders import FileImages
from tost.data.images import ImageOptions, ImageSets, set_apart
from tost.extras import require

HELD_OUT = ("test", "validation", "valid", "val")


class HubImages(FileImages):
    """FileImages over the rows `rows` of a Hugging Face split; the column `image` decodes to a PIL image."""

    def __init__(
        self,
        table: Any,
        image: str,
        rows: Sequence[int] | np.ndarray,
        labels: Any,
        options: ImageOptions,
        augmented: bool,
    ) -> None:
        super().__init__(np.asarray(rows), labels, options, augmented)
        self.table, self.image = table, image

    def subset(self, indices: Sequence[int] | np.ndarray) -> HubImages:
        """The images at `indices`, in that order."""
        rows = self.files[indices]
        return HubImages(self.table, self.image, rows, self.labels[indices], self.options, self.augmented)

    def as_evaluation(self) -> HubImages:
        """The same images without random crops."""
        return HubImages(self.table, self.image, self.files, self.labels, self.options, False)

    def open(self, index: int) -> Any:
        """The PIL image at `index`."""
        try:
            return self.table[int(self.files[index])][self.image].convert("RGB")
        except (OSError, SyntaxError) as error:
            raise ValueError(f"row {self.files[index]}: not a readable image ({error})") from None


def hugging_face(path: str, options: ImageOptions) -> ImageSets:
    """A dataset with splits, a column of images and one of class labels; its test (or validation) split is held out."""
    datasets = require("datasets", extra="training")
    try:
        saved = (Path(path) / "dataset_dict.json").exists()
        splits = datasets.load_from_disk(path) if saved else datasets.load_dataset(path)
    except Exception as error:  # the library raises many kinds: connection, missing, malformed
        raise ValueError(f"--data.path {path}: no Hugging Face dataset there ({str(error).splitlines()[0]})") from None
    found = [name for name in HELD_OUT if name in splits]
    if "train" not in splits or not found:
        raise ValueError(f"{path}: expected a train split and one of {', '.join(HELD_OUT)}, got {', '.join(splits)}")
    image, label, classes = _columns(splits["train"], path, datasets)

    def images(name: str, augmented: bool = False) -> HubImages:
        table = splits[name]
        return HubImages(table, image, range(len(table)), np.asarray(table[label]), options, augmented)

    train, held_out = images("train", augmented=True), images(found[0])
    if len(found) > 1:
        return ImageSets(train, images(found[1]), held_out, classes, 3, found[0])
    kept, watched = set_apart(train, options.validation)
    return ImageSets(kept, watched.as_evaluation() if watched is not None else None, held_out, classes, 3, found[0])


def _columns(table: Any, path: str, datasets: Any) -> tuple[str, str, list[str]]:
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in table.features.items() if isinstance(kind, datasets.ClassLabel)]
    if len(images) != 1 or not labels:
        raise ValueError(f"{path}: expected one column of images and one of class labels, got {dict(table.features)}")
    return images[0], labels[0], list(table.features[labels[0]].names)
