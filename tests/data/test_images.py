"""Images are read whole, right and split the same way every time, or refused with one line."""

import gzip
import hashlib
import pickle
import struct
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch.utils.data import DataLoader

from tost.data import TensorImages, load_images, to_model_input
from tost.data.images import ImageOptions, split_stratified

RNG = np.random.default_rng(0)
DIGITS_TEST = "617b4fe6e84afdb8"


def write_image(path, value, size=(20, 12)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def folder(tmp_path):
    """Two classes, distinguished by brightness, 6 training and 2 held-out images each."""
    for split, count in (("train", 6), ("val", 2)):
        for name, value in (("bright", 200), ("dark", 40)):
            for i in range(count):
                write_image(tmp_path / split / name / f"{i}.png", value + i)
    return tmp_path


def options(**changes):
    return ImageOptions(**{"image_size": 8, "validation": 0.0, **changes})


def write_idx(path, array, magic):
    data = struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx(tmp_path):
    arrays = {}
    for prefix, count, end in (("train", 40, ".gz"), ("t10k", 10, "")):
        images = RNG.integers(0, 256, (count, 5, 4), dtype=np.uint8)
        labels = (np.arange(count) % 4).astype(np.uint8)
        write_idx(tmp_path / f"{prefix}-images-idx3-ubyte{end}", images, 0x803)
        write_idx(tmp_path / f"{prefix}-labels-idx1-ubyte{end}", labels, 0x801)
        arrays[prefix] = images, labels
    return tmp_path, arrays


def pixels_of(images):
    return torch.stack([images[i]["pixels"] for i in range(len(images))])


def test_digits_split_is_fixed_and_disjoint():
    sets = load_images("digits", None, options(validation=0.1))
    parts = [{tuple(p.flatten().tolist()) for p in part.pixels} for part in (sets.train, sets.validation, sets.test)]
    assert not parts[0] & parts[2] and not parts[0] & parts[1] and not parts[1] & parts[2]
    assert [len(part) for part in (sets.train, sets.validation, sets.test)] == [1295, 143, 359]
    assert sets.test.pixels.max() == 255 and sets.test.pixels.dtype == torch.uint8
    digest = hashlib.sha256(sets.test.pixels.numpy().tobytes() + sets.test.labels.numpy().tobytes()).hexdigest()
    assert digest[:16] == DIGITS_TEST, "the held-out digits are not the ones that the published accuracy is for"


def test_stratified_split_takes_its_share_of_every_class():
    labels = np.array([0] * 50 + [1] * 30 + [2] * 2)
    kept, apart = split_stratified(labels, 0.2)
    assert np.bincount(labels[apart]).tolist() == [10, 6, 1]
    assert sorted([*kept, *apart]) == list(range(82))
    assert np.array_equal(split_stratified(labels, 0.2)[1], apart)


def test_idx_is_read_plain_and_gzipped(idx):
    path, arrays = idx
    sets = load_images("auto", path, options(validation=0.25))
    assert torch.equal(sets.test.pixels[:, 0], torch.from_numpy(arrays["t10k"][0]))
    assert sets.test.labels.tolist() == arrays["t10k"][1].tolist()
    assert (len(sets.train), len(sets.validation), sets.held_out, sets.channels) == (32, 8, "t10k", 1)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("train-images-idx3-ubyte.gz", b"\x1f\x8b\x08broken", "not a whole gzip file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(b"abcdefghijklmnop"), "not an IDX file"),
        (
            "train-images-idx3-ubyte.gz",
            gzip.compress(struct.pack(">4I", 0x803, 40, 5, 4) + b"few"),
            "expected 800 bytes",
        ),
        ("t10k-labels-idx1-ubyte", struct.pack(">2I", 0x801, 3) + b"\0\1\2", "10 images"),
        ("t10k-labels-idx1-ubyte", b"", "empty"),
    ],
    # the bytes would name the tests, and gzip writes the time into them: two workers would collect different tests
    ids=["broken gzip", "not IDX", "short", "fewer labels", "empty"],
)
def test_broken_idx_is_refused_by_name(idx, name, content, told):
    path, _ = idx
    (path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told) as caught:
        load_images("idx", path, options())
    assert name.split("-")[0] in str(caught.value) and "\n" not in str(caught.value)


def write_cifar(path, names, count, label_bytes):
    everything = []
    for name in names:
        rows = RNG.integers(0, 256, (count, label_bytes + 3072), dtype=np.uint8)
        rows[:, label_bytes - 1] = np.arange(count) % 10
        (path / name).write_bytes(rows.tobytes())
        everything.append(rows)
    return everything


@pytest.mark.parametrize(
    ("train", "test", "label_bytes"),
    [([f"data_batch_{i}.bin" for i in range(1, 6)], "test_batch.bin", 1), (["train.bin"], "test.bin", 2)],
    ids=["cifar10", "cifar100"],
)
def test_cifar_binary(tmp_path, train, test, label_bytes):
    write_cifar(tmp_path, train, 20, label_bytes)
    (held_out,) = write_cifar(tmp_path, [test], 10, label_bytes)
    sets = load_images("auto", tmp_path, options(image_size=32))
    assert len(sets.train) == 20 * len(train)
    assert torch.equal(sets.test.pixels.flatten(1), torch.from_numpy(held_out[:, label_bytes:]))
    assert sets.test.labels.tolist() == (np.arange(10) % 10).tolist()


def test_cifar_pickles_and_cut_files_are_refused(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": 1}))
    with pytest.raises(ValueError, match=r"pickles .* binary version"):
        load_images("auto", tmp_path, options())
    (tmp_path / "data_batch_1").unlink()
    (tmp_path / "train.bin").write_bytes(b"\0" * 3075)
    with pytest.raises(ValueError, match=r"train.bin: expected whole records of 3074 bytes, got 3075"):
        load_images("auto", tmp_path, options())


def test_folder_labels_crops_and_splits(folder):
    sets = load_images("auto", folder, options(validation=0.34))
    assert sets.classes == ["bright", "dark"] and sets.held_out == "val"
    assert (len(sets.train), len(sets.validation), len(sets.test)) == (8, 4, 4)
    for part in (sets.train, sets.validation, sets.test):
        for i in range(len(part)):
            item = part[i]
            assert item["pixels"].shape == (3, 8, 8)
            assert (item["pixels"].float().mean() > 128) == (sets.classes[item["labels"]] == "bright")


def test_folder_with_test_holds_that_out_and_watches_val(folder):
    for name in ("bright", "dark"):
        write_image(folder / "test" / name / "x.png", 1)
    sets = load_images("folder", folder, options(validation=0.5))
    assert (sets.held_out, len(sets.test), len(sets.validation), len(sets.train)) == ("test", 2, 4, 12)


def test_centre_crop_keeps_its_share_of_the_short_side(tmp_path):
    picture = np.zeros((40, 80, 3), dtype=np.uint8)
    picture[10:30, 30:50] = 255  # the middle half of the short side
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(picture).save(tmp_path / split / name / "0.png")
    whole = load_images("folder", tmp_path, options(image_size=16)).test[0]["pixels"].float().mean()
    inner = load_images("folder", tmp_path, options(image_size=16, crop_ratio=0.5)).test[0]["pixels"].float().mean()
    assert whole == pytest.approx(255 / 4, rel=0.1) and inner == pytest.approx(255, abs=4)


def test_random_crops_depend_on_seed_epoch_and_index_alone(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            noise = RNG.integers(0, 256, (30, 30, 3), dtype=np.uint8)
            Image.fromarray(noise).save(tmp_path / split / name / "0.png")

    def crops(epoch, seed=0, workers=0):
        train = load_images("folder", tmp_path, options(random_crop=(0.1, 0.5), seed=seed)).train
        train.set_epoch(epoch)
        return next(iter(DataLoader(train, batch_size=2, num_workers=workers)))["pixels"]

    assert torch.equal(crops(3), crops(3, workers=2))
    assert not torch.equal(crops(3), crops(4))
    assert not torch.equal(crops(3), crops(3, seed=1))


def break_image(folder):
    (folder / "train" / "dark" / "0.png").write_bytes(b"not an image")
    return load_images("folder", folder, options()).train[6]


def one_class(folder):
    for image in (folder / "train" / "dark").iterdir():
        image.unlink()
    (folder / "train" / "dark").rmdir()
    load_images("folder", folder, options())


def other_classes(folder):
    (folder / "val" / "dark").rename(folder / "val" / "darker")
    load_images("folder", folder, options())


def empty_class(folder):
    (folder / "train" / "third").mkdir()
    load_images("folder", folder, options())


def no_held_out(folder):
    (folder / "val").rename(folder / "other")
    load_images("folder", folder, options())


def nothing_there(folder):
    load_images("auto", folder / "val", options())


def no_folder(folder):
    load_images("idx", folder / "absent", options())


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (break_image, "dark/0.png: not a readable image"),
        (one_class, "at least two classes"),
        (other_classes, r"missing \['dark'\], not in train \['darker'\]"),
        (empty_class, "third: no image in it"),
        (no_held_out, "expected val/ or test/ beside train/"),
        (nothing_there, "not a layout that tost knows"),
        (no_folder, "no such folder"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_spoilt_folders_are_refused_by_path(folder, spoil, told):
    with pytest.raises(ValueError, match=told) as caught:
        spoil(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


def test_decompression_bombs_are_refused(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="larger than the 100 pixels"):
        load_images("folder", folder, options()).train[0]


def test_flowers102_lists(tmp_path):
    for i in range(1, 9):
        write_image(tmp_path / "jpg" / f"image_{i:05d}.jpg", 10 * i)
    savemat(tmp_path / "imagelabels.mat", {"labels": np.array([[1, 2, 1, 2, 1, 2, 1, 2]])})
    savemat(tmp_path / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6, 7, 8]]})
    sets = load_images("auto", tmp_path, options())
    assert sets.train.labels.tolist() == [0, 1, 0, 1] and sets.test.labels.tolist() == [0, 1, 0, 1]
    assert float(sets.test[3]["pixels"].float().mean()) == pytest.approx(80, abs=2)
    (tmp_path / "jpg" / "image_00007.jpg").unlink()
    with pytest.raises(ValueError, match=r"image_00007\.jpg: named by the image list"):
        load_images("flowers102", tmp_path, options())


def test_pets_lists(tmp_path):
    for name, value in (("Big_Cat_1", 50), ("Big_Cat_2", 60), ("pug_1", 150), ("pug_2", 160)):
        write_image(tmp_path / "images" / f"{name}.jpg", value)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "trainval.txt").write_text(
        "#Image CLASS-ID SPECIES BREED\nBig_Cat_1 1 1 1\npug_1 2 2 1\n"
    )
    (tmp_path / "annotations" / "test.txt").write_text("Big_Cat_2 1 1 1\npug_2 2 2 1\n")
    sets = load_images("auto", tmp_path, options())
    assert sets.classes == ["Big_Cat", "pug"] and sets.test.labels.tolist() == [0, 1]
    (tmp_path / "annotations" / "test.txt").write_text("no class here")
    with pytest.raises(ValueError, match=r"test.txt: expected lines"):
        load_images("pets", tmp_path, options())


def test_hugging_face_dataset_on_disk(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "bright"])})

    def table(count):
        labels = [i % 2 for i in range(count)]
        images = [Image.fromarray(np.full((9, 9, 3), 40 + 150 * label, dtype=np.uint8)) for label in labels]
        return datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)

    datasets.DatasetDict({"train": table(8), "test": table(4)}).save_to_disk(tmp_path / "set")
    sets = load_images("auto", tmp_path / "set", options(validation=0.25))
    assert (len(sets.train), len(sets.validation), len(sets.test), sets.classes) == (6, 2, 4, ["dark", "bright"])
    means = pixels_of(sets.test).float().mean((1, 2, 3))
    assert means.tolist() == pytest.approx([40, 190, 40, 190])
    with pytest.raises(ValueError, match="no Hugging Face dataset there"):
        load_images("hub", tmp_path / "absent", options())


def test_model_input_is_scaled_normalised_and_resized():
    pixels = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 1, 4, 4)
    images = to_model_input(pixels, [0.5], [0.25])
    assert torch.equal(images[:, 0, 0, 0], torch.tensor([-2.0, 2.0]))
    assert torch.allclose(to_model_input(pixels, [0.5], [0.25], 6)[1], torch.full((1, 6, 6), 2.0))
    with pytest.raises(ValueError, match=r"data\.mean"):
        to_model_input(pixels, [0.5, 0.5], [0.25, 0.25])


def test_tensor_images_subset_keeps_order():
    images = TensorImages(torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1), np.arange(6))
    chosen = images.subset([4, 1])
    assert [int(chosen[i]["pixels"]) for i in range(2)] == [4, 1] and chosen.labels.tolist() == [4, 1]


def test_reading_warns_of_nothing(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_images("folder", folder, options()).train[0]
