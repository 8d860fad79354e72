"""Augmentation of whole batches on the device, by kornia.

B batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from tost.data.images import normalise, resize
from tost.extras import require
from tost.training.recipe import AugmentRecipe, DataRecipe


class Augment(nn.Module):
    """(uint8 [B, C, H, W], labels [B]) -> (images float32, targets [B, K]), by the settings of an AugmentRecipe.

    All chance comes from torch's global generator, so a seed fixes the result. Targets are one-hot, or mixtures.
    """

    def __init__(self, augment: AugmentRecipe, data: DataRecipe, num_classes: int) -> None:
        super().__init__()
        self.data, self.num_classes = data, num_classes
        self.rand_augment_p = augment.rand_augment_p
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # kornia's own imports
            library = require("kornia.augmentation", extra="training")
            automatic = require("kornia.augmentation.auto", extra="training")
        self.geometry = nn.Sequential(*_geometry(augment, data, library))
        self.rand_augment = automatic.RandAugment(n=2, m=augment.rand_augment) if augment.rand_augment else None
        self.erasing = library.RandomErasing(p=augment.erasing) if augment.erasing else nn.Identity()
        self.mixup = augment.mixup
        self.cutmix = None
        if augment.cutmix:
            options = {"use_correct_lambda": True, "data_keys": ["input", "class"]}
            self.cutmix = library.RandomCutMixV2(beta=augment.cutmix, **options)

    def forward(self, pixels: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = self.geometry(resize(pixels.float() / 255, self.data.image_size))
        if self.rand_augment is not None and float(torch.rand(())) < self.rand_augment_p:
            images = self.rand_augment(images)
        images = self.erasing(normalise(images, self.data.mean, self.data.std))
        if self.cutmix is not None and (not self.mixup or float(torch.rand(())) < 0.5):
            return self._cut(images, labels)
        targets = self._one_hot(labels)
        return mixup(images, targets, self.mixup) if self.mixup else (images, targets)

    def _cut(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """cutmix; kornia returns (label, label of the pasted patch, share of the image that is left) for each image."""
        assert self.cutmix is not None
        images, mixed = self.cutmix(images, labels)
        own, pasted, left = mixed.reshape(-1, 3).unbind(1)
        return images, torch.lerp(self._one_hot(pasted), self._one_hot(own), left[:, None].to(images.dtype))

    def _one_hot(self, labels: Tensor) -> Tensor:
        return nn.functional.one_hot(labels.long(), self.num_classes).float()


def mixup(images: Tensor, targets: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Every image and target blended with another of the batch, one share ~ Beta(alpha, alpha) for all."""
    share = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(images)).to(images.device)
    return torch.lerp(images[partner], images, share), torch.lerp(targets[partner], targets, share)


def _geometry(augment: AugmentRecipe, data: DataRecipe, library: Any) -> list[nn.Module]:
    steps: list[nn.Module] = []
    if augment.flip:
        steps.append(library.RandomHorizontalFlip(p=augment.flip))
    if augment.padding:
        steps.append(library.RandomCrop((data.image_size,) * 2, padding=augment.padding, p=1.0))
    if augment.affine:
        share = augment.affine / 100
        steps.append(
            library.RandomAffine(augment.affine, translate=(share, share), scale=(1 - share, 1 + share), p=1.0)
        )
    return steps
