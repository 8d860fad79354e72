"""A small model over images and text, its processor, and inputs for both."""

import numpy as np
import torch

from tost.data.tokens import byte_tokenizer
from tost.models.language import PRESETS
from tost.models.multimodal import IMAGE_TOKEN, ToSTForImageTextToText, ToSTImageProcessor, ToSTMultimodalConfig
from tost.models.multimodal import ToSTProcessor as Processor

PLACE = 257  # the id of an image's places, after 256 bytes and the end of text
SMALL = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 512,
    "vocab_size": 258,
    "image_token_id": PLACE,
    "eos_token_id": 256,
    "in_chans": 1,
    "patch_size": 4,
}
KINDS = {"published": {"layer_scale_init": 1.0}, "modern": {**PRESETS["modern"], "half_lives": [16, 0]}}


def model(kind="modern", **changes):
    torch.manual_seed(0)
    made = ToSTForImageTextToText(ToSTMultimodalConfig(**{**SMALL, **KINDS[kind], **changes})).double().eval()
    with torch.no_grad():  # away from the initial zeros
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def processor(channels=1, side=8):
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = tokenizer.eos_token
    look = ToSTImageProcessor(
        size={"height": side, "width": side}, image_mean=[0.4] * channels, image_std=[0.2] * channels
    )
    return Processor(look, tokenizer, patch_size=4)


def images(count, channels=1, side=8):
    return [np.random.RandomState(i).randint(256, size=(channels, side, side)).astype(np.uint8) for i in range(count)]


def inputs(text, count, **options):
    """The processor's, with pixel_values in float64."""
    batch = processor()(images=images(count) or None, text=text, return_tensors="pt", padding=True, **options)
    return {name: part.double() if name == "pixel_values" else part for name, part in batch.items()}
