"""A finished run with what it is shown: images or text of its recipe, or photographs of one's own."""

# B batch, C channels, H height, W width, N tokens

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tost.analysis.photos import image_files, read_photo
from tost.analysis.pictures import visible

SEED = 0  # of every choice of samples


@dataclass
class Example:
    """One picture to draw maps over.  input: [1, C, H, W] of the model.  grid: patches down and across."""

    title: str
    picture: Tensor
    input: Tensor
    grid: tuple[int, int]


@dataclass
class Subject:
    """What an analysis works on.  sets: name -> data set.  notes: what the reader of the report must know."""

    run: Path
    model: Any
    recipe: Any
    sets: dict[str, Any]
    device: torch.device
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.run.resolve().name

    @property
    def heads(self) -> int:
        config = self.model.config
        return getattr(config, "num_heads", None) or config.num_attention_heads

    def chosen(self, name: str, samples: int) -> list[int]:
        """At most `samples` places of a set, the same ones every time, in order."""
        return chosen(len(self.sets[name]), samples)

    def untrained(self) -> nn.Module:
        """The same model with the weights that training began with, by the recipe's seed; torch's state is kept."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.run.seed)
            return type(self.model)(self.model.config).to(self.device).eval()


@dataclass
class VisionSubject(Subject):
    """A vision run.  classes: names of the labels, or [] for photographs without."""

    classes: list[str] = field(default_factory=list)
    photos: list[Path] = field(default_factory=list)

    def batches(self, name: str, samples: int, batch_size: int) -> Iterator[Tensor]:
        """The model's inputs [B, C, H, W] of the chosen images of a set."""
        images, places = self.sets[name], self.chosen(name, samples)
        for start in range(0, len(places), batch_size):
            yield self.prepare(torch.stack([images[i]["pixels"] for i in places[start : start + batch_size]]))

    def prepare(self, pixels: Tensor) -> Tensor:
        """uint8 [B, C, H, W] as the model takes it; colours are averaged for a model of grey images."""
        return self.normalised(self._channels(pixels.float() / 255))

    def normalised(self, images: Tensor) -> Tensor:
        """Images in 0 to 1 as the model takes them."""
        from tost.data.images import normalise

        return normalise(images, self.recipe.data.mean, self.recipe.data.std).to(self.device)

    def example(self, name: str, place: int) -> Example:
        """An image of a set as training's evaluation sees it."""
        item = self.sets[name][place]
        label = self.classes[item["labels"]] if self.classes else str(place)
        return self._example(f"{name}: {label}", item["pixels"].float()[None] / 255)

    def photo(self, path: Path, size: int | None = None) -> Example:
        """A whole photograph: its proportions are kept, its area is that of a square of `size` (None: the recipe's)."""
        small, large = read_photo(path, size or self.recipe.data.image_size, self.patch)
        return self._example(path.stem, self._channels(small), large)

    @property
    def patch(self) -> int:
        return self.model.config.patch_size

    def _channels(self, images: Tensor) -> Tensor:
        return images.mean(1, keepdim=True) if self.model.config.in_chans == 1 < images.shape[1] else images

    def _example(self, title: str, images: Tensor, shown: Tensor | None = None) -> Example:
        grid = images.shape[-2] // self.patch, images.shape[-1] // self.patch
        return Example(title, visible(images[0]) if shown is None else shown[0], self.normalised(images), grid)


@dataclass
class TextSubject(Subject):
    """A language run; the sets hold rows of packed tokens."""

    tokenizer: Any = None

    def batches(self, name: str, samples: int, batch_size: int) -> Iterator[dict[str, Any]]:
        """The model's arguments for the chosen rows: documents follow one another within a row, unmarked.

        The last row of a set, which is not full, counts only where there is no other.
        """
        rows = [self.sets[name][i] for i in self.chosen(name, samples)]
        rows = [row for row in rows if row["length"] == self.recipe.data.context] or rows[:1]
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            yield self.arguments(torch.stack([row["ids"][: row["length"]] for row in part]))

    def arguments(self, ids: Tensor) -> dict[str, Any]:
        """The model's arguments for ids [B, N]."""
        return {"input_ids": ids.to(self.device), "use_cache": False}

    def long_rows(self, name: str, length: int, rows: int) -> Tensor:
        """[up to rows, length] ids: text of a set, read on over its rows."""
        stream: list[Tensor] = []
        for i in range(min(len(self.sets[name]), -(-length * rows // self.recipe.data.context))):
            row = self.sets[name][i]
            stream.append(row["ids"][: row["length"]])
        ids = torch.cat(stream)
        length = min(length, len(ids))
        return ids[: len(ids) // length * length].view(-1, length)[:rows]


def chosen(count: int, samples: int) -> list[int]:
    """At most `samples` of `count` places, the same ones every time, in order."""
    generator = torch.Generator().manual_seed(SEED)
    return sorted(torch.randperm(count, generator=generator)[:samples].tolist())


def open_subject(
    run: str | Path,
    data: Mapping[str, Any] | None = None,
    images: str | Path | None = None,
    device: str | None = None,
) -> VisionSubject | TextSubject:
    """The run (a folder, or the name of a shipped one) with its data.

    data: settings of the recipe's data to replace, such as {"path": ...}.  images: a folder of photographs.
    Raises ValueError for a folder that is no finished run, damaged or NaN weights, data that are not there.
    """
    from tost.training import load_recipe
    from tost.training.recipe import Recipe

    folder, model, recipe, place = _load(run, device)
    if data:
        recipe = replace(recipe, data=load_recipe(recipe, {"data": dict(data)}).data)
    if isinstance(recipe, Recipe):
        return _vision(folder, model, recipe, images, place)
    if images is not None:
        raise ValueError(f"{folder} is a language model; --images and --masks are for vision runs")
    return _text(folder, model, recipe, place)


def open_baseline(run: str | Path, device: str | torch.device) -> VisionSubject:
    """A second vision run without its data. Raises ValueError as open_subject does, and for a language model."""
    from tost.training.recipe import Recipe

    folder, model, recipe, place = _load(run, device)
    if not isinstance(recipe, Recipe):
        raise ValueError(f"--baseline {run} is a language model; give a vision run")
    return VisionSubject(folder, model, recipe, {}, place)


def _load(run: str | Path, device: str | torch.device | None) -> tuple[Path, Any, Any, torch.device]:
    """(folder, model on the device, recipe, device) of a finished run with finite weights."""
    from tost.models.quantized import check_float
    from tost.shipped import run_or_shipped
    from tost.training import load_run

    try:
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from None
    folder = run_or_shipped(run)
    check_float(folder, "analyze looks into float weights")
    model, recipe = load_run(folder)
    if recipe.task == "sequence":
        raise ValueError(f"{run} is a run on sequences, and analyze draws images and text; `tost evaluate` scores it")
    if recipe.task == "multimodal":
        raise ValueError(f"{run} mixes images and text, and analyze draws one or the other; `tost evaluate` scores it")
    check_finite(model, folder)
    return folder, model.to(place), recipe, place


def check_finite(model: nn.Module, run: Path) -> None:
    """ValueError if a weight is NaN or infinite."""
    broken = [name for name, p in model.named_parameters() if not bool(p.isfinite().all())]
    if broken:
        raise ValueError(
            f"{run}: {len(broken)} parameters hold NaN or infinity, first {broken[0]}; the training diverged, train it "
            "again with a lower --optim.lr"
        )


def _vision(folder: Path, model: Any, recipe: Any, images: str | Path | None, device: torch.device) -> VisionSubject:
    from tost.training.build import build_images

    photos = image_files(images) if images is not None else []
    try:
        found = build_images(recipe)
    except (ValueError, OSError) as error:
        if not photos:
            raise ValueError(f"{error} (or give --images DIR, to look at photographs of your own)") from None
        note = f"The images of the recipe are not here, so everything is measured on those of {images}."
        return VisionSubject(folder, model, recipe, {"images": _photo_set(photos, recipe)}, device, [note], [], photos)
    train = found.train.as_evaluation() if hasattr(found.train, "as_evaluation") else found.train
    sets = {"training": train, "held-out": found.test}
    return VisionSubject(folder, model, recipe, sets, device, [], found.classes, photos)


def _photo_set(photos: list[Path], recipe: Any) -> Any:
    """Photographs as evaluation crops them, all of one size."""
    from tost.data.folders import FileImages
    from tost.data.images import ImageOptions

    options = ImageOptions(recipe.data.image_size, recipe.data.crop_ratio)
    return FileImages([str(path) for path in photos], [0] * len(photos), options)


def _text(folder: Path, model: Any, recipe: Any, device: torch.device) -> TextSubject:
    from tost.data.text import load_text
    from tost.data.tokens import load_tokenizer
    from tost.training.language import TEXT, text_options

    tokenizer = load_tokenizer(str(folder))
    text = load_text(text_options(recipe), tokenizer)
    subject = TextSubject(folder, model, recipe, {"training": text.train, "held-out": text.test}, device, [], tokenizer)
    facts = folder / TEXT
    if facts.is_file() and json.loads(facts.read_text("utf-8")).get("fingerprint") != text.facts["fingerprint"]:
        subject.notes.append(
            "The text here is not the text that the run was trained on (another version of it), so some of what is "
            "called held-out may have been seen."
        )
    return subject
