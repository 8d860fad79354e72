"""A vision recipe's images and model."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from tost.data import ImageSets, load_images
from tost.data.images import ImageOptions, normalise
from tost.models import ToSTVision, create_model, from_official
from tost.models.pretrained import load_features, read_tensors
from tost.training.recipe import Recipe


def build_images(recipe: Recipe) -> ImageSets:
    """The images of recipe.data."""
    data, crop = recipe.data, recipe.augment.random_crop
    if crop is not None and not (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1):
        raise ValueError(f"augment.random_crop is a range of areas such as [0.08, 1.0], got {crop}")
    options = ImageOptions(
        image_size=data.image_size,
        crop_ratio=data.crop_ratio,
        validation=data.validation,
        random_crop=(crop[0], crop[1]) if crop else None,
        seed=recipe.run.seed,
    )
    images = load_images(data.source, data.path, options)
    normalise(torch.zeros(1, images.channels, 1, 1), data.mean, data.std)  # refuse what doesn't fit before a run begins
    return images


def build_model(recipe: Recipe, images: ImageSets) -> ToSTVision:
    """The model for these images: fresh weights by the seed, or model.weights with a new head where classes differ.

    Features learned by mcr2 are the outputs of its head.
    """
    torch.manual_seed(recipe.run.seed)
    model = create_model(
        recipe.model.name,
        num_classes=recipe.objective.features if recipe.objective.loss == "mcr2" else len(images.classes),
        in_chans=images.channels,
        img_size=recipe.data.image_size,
        mixer=recipe.model.mixer,
        drop_path_rate=recipe.model.drop_path_rate,
        **recipe.model.options,
    )
    if recipe.model.weights:
        load_features(model, read_weights(recipe.model.weights), recipe.model.weights)
    if recipe.run.gradient_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def read_weights(source: str) -> dict[str, Tensor]:
    """Tensors of a run, a folder of save_pretrained, a file (.safetensors, the released code's .pth), or of the Hub."""
    path = Path(source)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if path.suffix in (".pth", ".pt"):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling fails in many ways
            raise ValueError(
                f"{path} holds more than tensors or is damaged, and is not read ({type(error).__name__})"
            ) from None
        return from_official(loaded.get("model", loaded))
    return ToSTVision.from_pretrained(source).state_dict()
