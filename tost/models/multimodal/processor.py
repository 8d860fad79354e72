"""What a model over images and text reads: pixel_values, and input_ids with a place for every patch."""

# I images, Np patches of an image

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import ProcessorMixin
from transformers.image_processing_backends import PilBackend

IMAGE_TOKEN = "<image>"
LARGEST = 50_000_000  # pixels of one image: more is refused before it is decoded


class ToSTImageProcessor(PilBackend):
    """Images of any kind and size -> pixel_values [I, channels, size, size], (pixel / 255 - mean) / std.

    As many channels as image_mean has numbers: 1 (grey) or 3 (RGB). An image: PIL, uint8 [H, W], [C, H, W], [H, W, C].
    Raises ValueError for an empty image, or one of more than LARGEST pixels.
    """

    do_resize = True
    do_rescale = True
    do_normalize = True
    resample = 3  # bicubic
    size = {"height": 224, "width": 224}  # noqa: RUF012 (transformers' declaration)
    image_mean = [0.5, 0.5, 0.5]  # noqa: RUF012
    image_std = [0.5, 0.5, 0.5]  # noqa: RUF012

    def process_image(self, image: Any, *args: Any, **kwargs: Any) -> np.ndarray:
        """[channels, H, W], grey or RGB."""
        from PIL import Image

        size = image.size if isinstance(image, Image.Image) else np.shape(image)[-2:]
        if 0 in np.shape(image) or 0 in size:
            raise ValueError(f"expected an image with pixels, got one of {' x '.join(map(str, size))}")
        if int(np.prod(size)) > LARGEST:
            raise ValueError(f"an image of {' x '.join(map(str, size))} is larger than {LARGEST:,} pixels; shrink it")
        channels = len(self.image_mean)
        if not isinstance(image, Image.Image):
            found = super().process_image(image, do_convert_rgb=False)
            if len(found) == channels:
                return found
            image = Image.fromarray(
                np.moveaxis(found, 0, -1).squeeze(-1) if len(found) == 1 else np.moveaxis(found, 0, -1)
            )
        return super().process_image(image.convert("L" if channels == 1 else "RGB"), do_convert_rgb=False)


class ToSTProcessor(ProcessorMixin):
    """processor(images=..., text="<image>What is this?") -> input_ids, attention_mask, pixel_values.

    Every <image> in the text takes the next of the images, one token a patch. Shorter texts are padded on the left
    with padding=True. `decode` and `batch_decode` are the tokenizer's.
    Raises ValueError where the text has another number of <image> than there are images.
    """

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, patch_size: int = 16, **kwargs: Any) -> None:
        if tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == tokenizer.unk_token_id:
            raise ValueError(f"ToSTProcessor expects a tokenizer that has {IMAGE_TOKEN} among its special tokens")
        self.image_token, self.image_token_id = IMAGE_TOKEN, tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
        self.patch_size = patch_size
        tokenizer.padding_side = "left"  # a batch of prompts ends with the last token of each
        super().__init__(image_processor, tokenizer, **kwargs)

    def replace_image_token(self, image_inputs: dict[str, Any], image_idx: int, **kwargs: Any) -> str:
        """The places of one image."""
        return IMAGE_TOKEN * self.places(image_inputs["pixel_values"][image_idx])

    def places(self, pixels: Any) -> int:
        """Np, the tokens that an image [..., H, W] takes."""
        height, width = np.shape(pixels)[-2:]
        return (height // self.patch_size) * (width // self.patch_size)
