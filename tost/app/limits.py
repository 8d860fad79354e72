"""What the page takes: an uploaded picture is checked by what it holds, not by its name, before it is decoded."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from tost.extras import require

MAX_BYTES = 20 * 2**20
MAX_PIXELS = 50_000_000  # told by the file's header
KEPT_SIDE = 2048  # a larger picture is shrunk as soon as it is decoded
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
PROMPT_CHARACTERS = 4000
TOLD = (
    f"PNG, JPEG, WebP, GIF, BMP or TIFF, up to {MAX_BYTES // 2**20} MB and {MAX_PIXELS // 10**6} million pixels; "
    "of several frames the first"
)


def read_picture(path: str | os.PathLike[str]) -> Any:
    """The picture at `path` as a PIL image in RGB, upright, what is transparent white, no side above KEPT_SIDE.

    Raises ValueError with a sentence for the user: too large, no picture, a kind that is not taken, damaged.
    """
    pil = require("PIL.Image", extra="app")
    size = Path(path).stat().st_size
    if size > MAX_BYTES:
        raise ValueError(f"This file has {size / 2**20:,.1f} MB; the page takes up to {MAX_BYTES // 2**20} MB.")
    if not size:
        raise ValueError("This file is empty.")
    too_large = f"This picture has more than {MAX_PIXELS // 10**6} million pixels; shrink it first."
    try:
        opened = pil.open(path, formats=FORMATS)  # reads the header alone
    except (pil.DecompressionBombError, pil.DecompressionBombWarning):
        raise ValueError(too_large) from None
    except Exception:  # PIL's readers raise many kinds on files made to break them
        raise ValueError(f"This file is not a picture that the page can read. It takes {TOLD}.") from None
    with opened as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(too_large)
        try:
            return _upright(image)
        except Exception:
            raise ValueError("This picture is damaged: its header can be read, its pixels cannot.") from None


def _upright(image: Any) -> Any:
    """The first frame, decoded, shrunk, turned as its EXIF says, in RGB."""
    image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))  # a JPEG is decoded at a smaller size right away
    if image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):  # others can't be averaged as they are
        image.thumbnail((KEPT_SIDE, KEPT_SIDE))
    picture = in_rgb(require("PIL.ImageOps", extra="app").exif_transpose(image))
    picture.thumbnail((KEPT_SIDE, KEPT_SIDE))
    return picture


def in_rgb(image: Any) -> Any:
    """Any mode of PIL as RGB: more than 8 bits are scaled to 8, transparent pixels lie on white."""
    pil = require("PIL.Image", extra="app")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
        top = 65535 if image.mode.startswith("I") and values.max() > 255 else 255 if values.max() > 1 else 1
        return pil.fromarray((255 * (values / top).clip(0, 1)).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        return pil.alpha_composite(pil.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def check_prompt(prompt: str) -> str:
    """The prompt; ValueError if it is empty or too long."""
    if not prompt:
        raise ValueError("Write a few characters for the model to go on from.")
    if len(prompt) > PROMPT_CHARACTERS:
        raise ValueError(f"The prompt has {len(prompt):,} characters; the page takes up to {PROMPT_CHARACTERS:,}.")
    return prompt
