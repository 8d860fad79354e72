"""What the demo measures: each part is a function of the finished run."""

# B images, N = rows * columns patches, H heads

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tost.analysis import Drawing, membership_figure, rate_figure
from tost.data import to_model_input
from tost.extras import require
from tost.rates import RateRecord, record_memberships, record_rates

PHOTO_ROWS = 40  # patches of the photograph, top to bottom
SAMPLES = 360  # images of each set whose rates are recorded: as many as are held out


@dataclass
class LayerRates:
    """Rates of training and held-out images, and their picture."""

    records: dict[str, RateRecord]
    figure: Drawing


def train_digits(folder: Path, epochs: float | None = None) -> Path:
    """A finished run of the vision-digits recipe at `folder`: trained now, gone on with, or found finished."""
    from tost.training import train

    settings: dict[str, Any] = {"folder": str(folder.parent), "name": folder.name}
    if epochs is not None:
        settings["epochs"] = epochs
    return train("vision-digits", run=settings)


def accuracy(run: Path) -> dict[str, Any]:
    """tost.evaluation.evaluate, and what the model is."""
    from tost.evaluation import evaluate
    from tost.training import load_run

    model, recipe = load_run(run)
    parameters = sum(p.numel() for p in model.parameters())
    return {**evaluate(run), "model": recipe.model.name, "parameters": parameters}


def layer_rates(run: Path) -> LayerRates:
    """`record_rates` of the run's model on training and on held-out digits."""
    model, sets, prepare = opened(run)
    records = {
        "training": record_rates(model, prepare(sets.train.pixels[:SAMPLES])),
        "held-out": record_rates(model, prepare(sets.test.pixels[:SAMPLES])),
    }
    return LayerRates(records, rate_figure(records))


def digit_memberships(run: Path) -> Drawing:
    """The heads over held-out digits, what the model was made for: a 0, 1, 2 and 3, drawn as one picture."""
    model, sets, prepare = opened(run)
    chosen = torch.stack([sets.test.pixels[sets.test.labels == label][0] for label in range(4)])
    memberships = record_memberships(model, prepare(chosen))
    rows, columns = chosen.shape[-2:]
    picture = F.interpolate(tiled(chosen[:, 0].float() / 255)[None, None], scale_factor=16, mode="nearest")[0, 0]
    shares = {
        name: tiled(values.unflatten(1, (rows, columns))).flatten(0, 1)
        for name, values in some_layers(memberships).items()
    }
    return membership_figure(picture, shares, (2 * rows, 2 * columns), smooth=False)


def tiled(images: Tensor) -> Tensor:
    """Four images [4, rows, columns, ...] as one, two by two."""
    return torch.cat([torch.cat(list(images[i : i + 2]), dim=1) for i in (0, 2)])


def photo_memberships(run: Path) -> Drawing:
    """The heads over scikit-learn's photograph of a flower, in grey, as the digits' model sees it."""
    model, _, prepare = opened(run)
    photo = torch.from_numpy(require("sklearn.datasets", extra="training").load_sample_image("flower.jpg").copy())
    grey = photo.float().mean(-1)[None, None] / 255  # [1, 1, height, width]
    grid = PHOTO_ROWS, round(PHOTO_ROWS * grey.shape[-1] / grey.shape[-2])
    small = F.interpolate(grey, size=grid, mode="area")
    memberships = record_memberships(model, prepare((255 * small).to(torch.uint8)))
    picture = F.interpolate(grey, size=(8 * grid[0], 8 * grid[1]), mode="area")[0, 0]
    return membership_figure(picture, {name: pi[0] for name, pi in some_layers(memberships).items()}, grid)


def benchmark(folder: Path, quick: bool) -> dict[str, Any]:
    """`tost bench scale`, or what it found before on this machine with these versions: its JSON."""
    from tost.bench import command
    from tost.bench.machine import machine
    from tost.bench.settings import Settings

    path = folder / "scale.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        same = all(found["machine"][key] == machine()[key] for key in ("processor", "versions", "threads"))
        if same and found["settings"]["quick"] == quick and all(check["green"] for check in found["checks"]):
            return found
    result = command.run("scale", Settings(quick=quick))
    command.write_folder(command.load("scale"), result, folder)
    if result.red:
        raise ValueError(f"the operator's results are wrong, so it is not timed: {result.red[0]}")
    return command.as_json(result)


def opened(run: Path) -> tuple[Any, Any, Any]:
    """The run's model, its images, and the way from uint8 pixels to the model's input."""
    from tost.training import load_run
    from tost.training.build import build_images

    model, recipe = load_run(run)

    def prepare(pixels: Tensor) -> Tensor:
        return to_model_input(pixels, recipe.data.mean, recipe.data.std)

    return model, build_images(recipe), prepare


def some_layers(memberships: dict[str, Tensor]) -> dict[str, Tensor]:
    """First, middle and last layer, named from 1."""
    names = list(memberships)
    chosen = sorted({0, len(names) // 2, len(names) - 1})
    return {f"block {i + 1}": memberships[names[i]] for i in chosen}
