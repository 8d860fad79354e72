import json
import os
import struct

import pytest
import torch

from tests.models.test_vision import images, nano
from tests.nn.helpers import scramble
from tost.models import ToSTVision


@pytest.fixture
def saved(tmp_path):
    model = scramble(nano(drop_path_rate=0.1, mixer="tssa"), std=0.1).eval()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def test_reloading_is_bit_equal(saved):
    model, folder = saved
    again = ToSTVision.from_pretrained(folder)
    assert again.config == model.config and not again.training
    for (n, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), n
    x = images(model)
    assert torch.equal(again(x), model(x))
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]


def test_what_was_changed_after_construction_is_saved(saved, tmp_path):
    model, _ = saved
    model.reset_classifier(3, "avg")
    model.save_pretrained(tmp_path / "changed")
    again = ToSTVision.from_pretrained(tmp_path / "changed")
    assert again.num_classes == 3 and again.global_pool == "avg"
    assert torch.equal(again(images(model)), model(images(model)))


def test_sizes_as_pairs_and_options_survive(tmp_path):
    nano(img_size=(8, 16)).save_pretrained(tmp_path)
    assert ToSTVision.from_pretrained(tmp_path).config.img_size == (8, 16)
    model = ToSTVision.from_pretrained(str(tmp_path), drop_path_rate=0.5, device="cpu")
    assert model.blocks[0].drop_path.rate == 0.5
    with pytest.raises(ValueError, match="no option depth"):
        ToSTVision.from_pretrained(tmp_path, depth=3)


def test_saving_over_an_older_model_replaces_it(saved):
    model, folder = saved
    other = scramble(nano(num_classes=2), seed=5).eval()
    other.save_pretrained(folder)
    assert torch.equal(ToSTVision.from_pretrained(folder).head.weight, other.head.weight)


def test_a_pickle_is_refused_with_the_way_out(saved):
    model, folder = saved
    os.remove(folder / "model.safetensors")
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"holds a pickle \(pytorch_model.bin\).*weights_only=True"):
        ToSTVision.from_pretrained(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "header"])
def test_damaged_weights(saved, damage):
    _, folder = saved
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(
        {
            "cut": whole[:-100],
            "empty": b"",
            "noise": b"\x80\x04noise" * 99,
            "header": struct.pack("<Q", 1 << 40) + whole[8:],
        }[damage]
    )
    with pytest.raises(ValueError, match="is not a whole safetensors file"):
        ToSTVision.from_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"model_type": "vit"}', '{"patch_size": 4, "depth": 2}', '{"patch_size": "x"}']
)
def test_foreign_configurations(saved, text):
    _, folder = saved
    (folder / "config.json").write_text(text)
    with pytest.raises(ValueError, match="is not the configuration of a ToSTVision"):
        ToSTVision.from_pretrained(folder)


def test_another_number_of_classes(saved):
    _, folder = saved
    with pytest.raises(ValueError, match=r"has 5 classes, asked for 7; .*reset_classifier\(7\)"):
        ToSTVision.from_pretrained(folder, num_classes=7)


def test_another_model(saved):
    _, folder = saved
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 7}))
    with pytest.raises(ValueError, match=r"does not hold this model: it lacks blocks.6.gamma1, .* and \d+ more"):
        ToSTVision.from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 5, "mlp_ratio": 2.0}))
    with pytest.raises(ValueError, match=r"has unknown blocks.5.*differs in the shape of blocks.0.mlp"):
        ToSTVision.from_pretrained(folder)


def test_places_that_hold_no_model(saved, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"holds no config.json; pass the folder"):
        ToSTVision.from_pretrained(tmp_path / "empty")
    with pytest.raises(ValueError, match="expects a folder or a repository"):
        ToSTVision.from_pretrained(tmp_path / "absent")
    with pytest.raises(ValueError, match="expects a folder or a repository"):
        ToSTVision.from_pretrained("runs/of/mine")
    with pytest.raises(ValueError, match=r"nobody/nothing has no config.json, or it is not in the cache"):
        ToSTVision.from_pretrained("nobody/nothing", local_files_only=True, cache_dir=tmp_path)


def test_a_full_disk_leaves_nothing_half_written(saved, monkeypatch):
    model, folder = saved
    before = (folder / "model.safetensors").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        scramble(model, seed=9).save_pretrained(folder)
    assert (folder / "model.safetensors").read_bytes() == before
    assert not [p for p in folder.iterdir() if p.suffix == ".part"]


def test_the_card_names_the_paper(saved):
    assert "2412.17810" in (saved[1] / "README.md").read_text()
