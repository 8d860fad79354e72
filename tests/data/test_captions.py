"""Captions of images: every pair is read, parts share no image, what is broken is named."""

import json

import numpy as np
import pytest
from PIL import Image

from tost.data.captions import load_captions
from tost.data.image_text import ImageTextOptions, load_image_text

COLOURS = {f"picture {i}": (20 * i, 255 - 20 * i, 7 * i) for i in range(10)}


@pytest.fixture
def folder(tmp_path):
    """Ten pictures of one colour each, two captions each, in captions.jsonl."""
    lines = []
    for i, (caption, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (12, 20), colour).save(tmp_path / f"{i}.png")
        lines += [{"image": f"{i}.png", "caption": caption}, {"image": f"{i}.png", "caption": f"a {caption}"}]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    return tmp_path


def seen(part):
    return {
        item["questions"][0].answer: tuple(item["image"][:, 3, 3].tolist())
        for item in map(part.__getitem__, range(len(part)))
    }


def check(parts):
    found = {name: seen(parts[name]) for name in ("train", "validation", "test")}
    everything = {caption: colour for part in found.values() for caption, colour in part.items()}
    assert everything == {**COLOURS, **{f"a {caption}": colour for caption, colour in COLOURS.items()}}
    colours = [set(part.values()) for part in found.values()]
    assert [len(part) for part in colours] == [7, 2, 1] and sum(map(len, colours)) == 10


def test_a_folder_with_json_lines(folder):
    parts = load_captions(folder, 8, 3, validation=0.2, test=0.1)
    check(parts)
    check(load_captions(folder / "captions.jsonl", 8, 3, validation=0.2, test=0.1))
    item = parts["train"][0]
    assert item["image"].shape == (3, 8, 8) and item["image"].dtype == np.uint8
    assert load_captions(folder, 8, 1)["train"][0]["image"].shape == (1, 8, 8)


def test_a_saved_dataset(folder, tmp_path_factory):
    datasets = pytest.importorskip("datasets")
    rows = [{"image": str(folder / f"{i}.png"), "captions": [c, f"a {c}"]} for i, c in enumerate(COLOURS)]
    table = datasets.Dataset.from_list(rows).cast_column("image", datasets.Image())
    place = tmp_path_factory.mktemp("saved")
    table.save_to_disk(str(place / "one"))
    check(load_captions(place / "one", 8, 3, validation=0.2, test=0.1))
    splits = {"train": table.select(range(7)), "validation": table.select([7, 8]), "test": table.select([9])}
    datasets.DatasetDict(splits).save_to_disk(str(place / "split"))
    parts = load_captions(place / "split", 8, 3)
    check(parts)
    assert set(seen(parts["test"])) == {"picture 9", "a picture 9"}


def test_sets_tell_what_they_are(folder):
    sets = load_image_text(ImageTextOptions(source="captions", path=str(folder), image_size=8))
    assert (
        sets.kinds == ["caption"] and sets.size == (8, 8) and sets.facts["captions"]["train"] == len(sets.train) == 16
    )
    assert list(sets.texts) == sets.train.captions


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 1: expected a JSON object"),
        ('{"image": "0.png"}', "line 1: expected a JSON object"),
        ('{"image": "0.png", "caption": " "}', "line 1: expected a JSON object"),
        ('{"image": "0.png", "caption": 3}', "line 1: expected a JSON object"),
        ('{"image": "none.png", "caption": "x"}', "none.png is not there"),
        ("", "empty"),
    ],
)
def test_broken_lists_are_refused_by_line(folder, line, told):
    (folder / "captions.jsonl").write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=told) as caught:
        load_captions(folder, 8, 3)
    assert "captions.jsonl" in str(caught.value) and "\n" not in str(caught.value)


def test_other_broken_things_are_refused(folder):
    with pytest.raises(ValueError, match=r"data\.test is the share"):
        load_captions(folder, 8, 3, test=0)
    with pytest.raises(ValueError, match=r"expected a \.jsonl file"):
        load_captions(folder / "nothing", 8, 3)
    (folder / "3.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"3\.png: not a readable image"):
        for part in load_captions(folder, 8, 3).values():
            seen(part)
    (folder / "captions.jsonl").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8"):
        load_captions(folder, 8, 3)
    with pytest.raises(ValueError, match=r"set --data\.path"):
        load_image_text(ImageTextOptions(source="captions"))
