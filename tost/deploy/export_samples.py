"""Inputs from the world to check an export with: images that came with a package, and a text."""

# B batch, C channels, H x W pixels

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

TEXT = '''"""Reading of files."""

def read_lines(path, encoding="utf-8"):
    """Return the lines of a file as a list of strings."""
    with open(path, encoding=encoding) as file:
        return [line.rstrip("\\n") for line in file]


The quick brown fox jumps over the lazy dog. Übung macht den Meister; 12 + 30 = 42.
'''
PHOTOGRAPHS = ("flower.jpg", "china.jpg")  # scikit-learn's


def real_images(model: Any, preprocessing: dict[str, Any], given: str | None = None) -> tuple[Tensor, ...]:
    """Images [1, C, H, W] as the model takes them, whole and in their proportions, about as large as it was trained on.

    given: an image, or a folder of them; by default scikit-learn's two photographs.
    Raises ValueError if there are none.
    """
    from tost.analysis.photos import image_files, read_photo
    from tost.data.images import normalise

    if model.config.in_chans not in (1, 3):
        return ()  # no photograph has so many channels
    if given is not None:
        files = [Path(given)] if Path(given).is_file() else image_files(given)[:8]
    else:
        spec = find_spec("sklearn")
        folder = Path(spec.origin or "").parent / "datasets/images" if spec else Path("absent")
        files = [folder / name for name in PHOTOGRAPHS if (folder / name).is_file()]
    if not files:
        raise ValueError("export checks with real images, and scikit-learn's are not here; give some by --images DIR")
    found = []
    for file in files:
        pixels = read_photo(file, preprocessing["image_size"], model.config.patch_size)[0]
        if model.config.in_chans == 1:
            pixels = pixels.mean(1, keepdim=True)
        found.append(normalise(pixels, preprocessing["mean"], preprocessing["std"]))
    return tuple(found)


def real_text(tokenizer: Any) -> tuple[Tensor, ...]:
    """One text as ids [N]."""
    return (torch.tensor(tokenizer(TEXT)["input_ids"]),)
