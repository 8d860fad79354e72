"""Masks are paired by name, resized to the nearest label, and refused in one line where they don't fit."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tost.analysis.masks import read_mask, read_masks
from tost.analysis.photos import read_photo, working_size


@pytest.fixture
def folder(photos, tmp_path):
    shutil.copytree(photos, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_labels_split_into_object_ground_and_ignored(photos):
    found = read_masks(photos / "images", photos / "masks", [3])
    assert (found.foreground, found.labels) == ((1,), (1, 2)) and len(found.pairs) == 6
    mask = found.read(found.pairs[0][1], (16, 24))
    labels = read_mask(found.pairs[0][1])
    assert torch.equal(mask.object, labels == 1) and torch.equal(mask.valid, labels != 3)
    small = found.read(found.pairs[0][1], (8, 12))
    assert set(small.labels.unique().tolist()) <= {1, 2, 3}
    assert not {a for a, _ in found.halves()[0]} & {a for a, _ in found.halves()[1]}


def test_background_is_zero_where_there_is_one(folder):
    for path in (folder / "masks").iterdir():
        labels = np.asarray(Image.open(path)).copy()
        labels[labels == 2] = 0
        Image.fromarray(labels).save(path)
    assert read_masks(folder / "images", folder / "masks").foreground == (1, 3)
    assert read_masks(folder / "images", folder / "masks", foreground=[1]).foreground == (1,)


def write(folder, name, array):
    Image.fromarray(array).save(folder / "masks" / name)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: (f / "masks" / "p3.png").unlink(), r"p3\.png has no mask.*1 of 6"),
        (lambda f: write(f, "p2.png", np.ones((16, 40), np.uint8)), r"p2\.png is 40 x 16, p2\.png 24 x 16"),
        (lambda f: (f / "masks" / "p1.png").write_bytes(b"no"), r"p1\.png: not a readable mask"),
        (lambda f: write(f, "p1.png", np.random.randint(0, 255, (16, 24, 3), np.uint8)), "labels, not colours"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir()], "no image in it"),
        (lambda f: [p.unlink() for p in (f / "images").iterdir() if p.stem != "p0"], "two photographs at least"),
        (lambda f: shutil.rmtree(f / "masks"), "masks: no such folder"),
        (lambda f: shutil.rmtree(f / "images"), "images: no such folder"),
        (lambda f: [write(f, p.name, np.ones((16, 24), np.uint8)) for p in (f / "masks").iterdir()], "some background"),
    ],
)
def test_what_does_not_fit_is_named(folder, spoil, told):
    spoil(folder)
    with pytest.raises(ValueError, match=told) as error:
        read_masks(folder / "images", folder / "masks")
    assert "\n" not in str(error.value)


def test_labels_in_three_equal_channels_and_arrays_are_read(folder):
    grey = np.tile(np.arange(24, dtype=np.uint8), (16, 1))
    write(folder, "p0.png", np.repeat(grey[..., None], 3, 2))
    np.save(folder / "masks" / "a.npy", grey.astype(np.int32))
    assert torch.equal(read_mask(folder / "masks" / "p0.png"), torch.from_numpy(grey).long())
    assert torch.equal(read_mask(folder / "masks" / "a.npy"), torch.from_numpy(grey).long())


def test_photographs_keep_their_proportions(photos):
    assert working_size((200, 300), 96, 8) == (80, 120)
    assert working_size((10, 5000), 96, 8)[0] == 8
    small, large = read_photo(photos / "images" / "p0.png", 16, 4)
    assert small.shape == (1, 3, 12, 20) and large.shape[-1] / large.shape[-2] == 20 / 12
