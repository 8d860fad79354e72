"""Augmentation changes images the way its settings say, and targets with them."""

import pytest
import torch

from tost.training.augment import Augment, mixup
from tost.training.recipe import AugmentRecipe, DataRecipe

DATA = DataRecipe(image_size=16, mean=[0.5, 0.5, 0.5], std=[0.5, 0.5, 0.5])


def flat_images(batch=16, size=16):
    """Image i is one flat colour, different from all others, so that a patch of another image is seen."""
    return (torch.arange(batch, dtype=torch.uint8) * 16).view(batch, 1, 1, 1).expand(batch, 3, size, size).contiguous()


def augment(**settings):
    return Augment(AugmentRecipe(**settings), DATA, num_classes=16)


def test_nothing_asked_nothing_changed():
    images, targets = augment()(flat_images(), torch.arange(16))
    assert torch.equal(targets, torch.eye(16))
    assert torch.allclose(images[3], torch.full((3, 16, 16), (48 / 255 - 0.5) / 0.5))


def test_cutmix_targets_are_the_areas_of_the_images():
    pixels, labels = flat_images(), torch.arange(16)
    values = ((pixels[:, 0, 0, 0].float() / 255) - 0.5) / 0.5
    torch.manual_seed(0)
    for _ in range(5):
        images, targets = augment(cutmix=1.0)(pixels, labels)
        for image, target in zip(images, targets):
            areas = torch.stack([torch.isclose(image[0], v, atol=1e-5).float().mean() for v in values])
            torch.testing.assert_close(areas, target, rtol=0, atol=1e-5)


def test_mixup_blends_images_and_targets_alike():
    torch.manual_seed(1)
    images = torch.rand(8, 3, 4, 4)
    mixed, targets = mixup(images, torch.eye(8), 0.8)
    torch.testing.assert_close(mixed, torch.einsum("ij,jchw->ichw", targets, images))
    assert ((targets > 0).sum(1) == 2).any() and torch.allclose(targets.sum(1), torch.ones(8))


def test_mixup_and_cutmix_share_the_batches():
    both, kinds = augment(mixup=0.8, cutmix=1.0), set()
    torch.manual_seed(0)
    for _ in range(20):
        images, targets = both(flat_images(), torch.arange(16))
        torch.testing.assert_close(targets.sum(1), torch.ones(16))
        flat = bool((images.amax((1, 2, 3)) - images.amin((1, 2, 3)) < 1e-6).all())
        kinds.add("mixup" if flat else "cutmix")
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize("setting", ["padding", "flip", "affine", "rand_augment", "mixup", "cutmix", "erasing"])
def test_a_seed_fixes_each_augmentation_and_each_does_something(setting):
    value = {"padding": 2, "rand_augment": 9}.get(setting, 10.0 if setting == "affine" else 1.0)
    module, pixels = augment(**{setting: value}), torch.randint(0, 256, (16, 3, 16, 16), dtype=torch.uint8)

    def run(seed):
        torch.manual_seed(seed)
        return module(pixels, torch.arange(16))

    plain = augment()(pixels, torch.arange(16))[0]
    assert all(torch.equal(a, b) for a, b in zip(run(5), run(5)))
    assert not torch.equal(run(5)[0], plain)
    if setting != "flip":
        assert not torch.equal(run(5)[0], run(6)[0])


def test_rand_augment_spares_its_share_of_batches():
    module, pixels = (
        augment(rand_augment=9, rand_augment_p=0.5),
        torch.randint(0, 256, (4, 3, 16, 16), dtype=torch.uint8),
    )
    plain = augment()(pixels, torch.arange(4))[0]
    torch.manual_seed(0)
    spared = sum(torch.equal(module(pixels, torch.arange(4))[0], plain) for _ in range(40))
    assert 8 <= spared <= 32


def test_small_images_are_resized_for_the_model():
    images, _ = augment(flip=0.5)(flat_images(size=8), torch.arange(16))
    assert images.shape == (16, 3, 16, 16)
