"""The processor: pixels to the letter, a place for every patch, saved and read back."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close
from transformers import AutoImageProcessor, AutoProcessor

from tests.models.multimodal.common import PLACE, images, processor
from tost.models.multimodal import ToSTProcessor
from tost.models.multimodal import processor as module


def test_pixels_and_places():
    batch = processor()(images=images(3), text=["a<image>b", "<image><image>"], padding=True, return_tensors="pt")
    want = torch.tensor(np.stack(images(3))).float()
    assert_close(batch["pixel_values"], (want / 255 - 0.4) / 0.2, rtol=1e-5, atol=1e-6)
    a, b = ord("a"), ord("b")
    assert batch["input_ids"].tolist() == [[256, 256, a, *[PLACE] * 4, b], [PLACE] * 8]
    assert batch["attention_mask"].sum(1).tolist() == [6, 8]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1"])
def test_pictures_of_any_mode_and_size(channels, mode):
    picture = Image.fromarray(np.full((20, 12, 3), 102, dtype=np.uint8)).convert(mode)
    batch = processor(channels)(images=picture, text="<image>", return_tensors="pt")
    assert batch["pixel_values"].shape == (1, channels, 8, 8)
    if mode != "1":
        assert_close(batch["pixel_values"], torch.zeros(1, channels, 8, 8), rtol=0, atol=0.05)


def test_saved_and_read_by_the_auto_classes(tmp_path):
    own = processor()
    own.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(again, ToSTProcessor) and again.patch_size == 4
    assert AutoImageProcessor.from_pretrained(tmp_path).image_mean == own.image_processor.image_mean
    one, other = (p(images=images(1), text="<image>why?", return_tensors="pt") for p in (own, again))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert again.decode(one["input_ids"][0], skip_special_tokens=True) == "why?"


@pytest.mark.parametrize(
    ("given", "text", "told"),
    [
        (images(1), "no place", "number of images"),
        (None, "<image>", "no images were passed"),
        ([np.zeros((1, 0, 8), np.uint8)], "<image>", "an image with pixels"),
        ([np.zeros((1, 300, 300), np.uint8)], "<image>", "larger than 50,000 pixels"),
    ],
    ids=["no-place", "no-image", "empty", "huge"],
)
def test_what_does_not_fit_is_refused(monkeypatch, given, text, told):
    monkeypatch.setattr(module, "LARGEST", 50_000)
    with pytest.raises(ValueError, match=told):
        processor()(images=given, text=text)
