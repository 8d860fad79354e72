"""Checkpoints in shards: written part by part, read through accelerate, whole or refused."""

import json
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from tests.models.language.common import text, tiny_config
from tost.deploy.large import INDEX, load_large, write_random
from tost.models.language import ToSTForCausalLM

CASES = {
    "published": {},
    "modern": {"position_mode": "none", "conv_width": 4, "half_lives": [4, 0], "separate_values": True},
    "untied": {"tie_word_embeddings": False, "bias": True},
}


def written(folder, dtype=torch.float32, **options):
    return write_random(tiny_config(**options), folder / "model", dtype=dtype, shard_bytes=8_000)


@pytest.mark.parametrize("options", CASES.values(), ids=CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_written_is_a_model(options, dtype, tmp_path):
    folder = written(tmp_path, dtype, **options)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = ToSTForCausalLM(tiny_config(**options))
    theirs = ToSTForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    for (name, new), (_, p) in zip(fresh.named_parameters(), theirs.named_parameters()):
        assert new.shape == p.shape and p.dtype == dtype
        drawn, like = p.detach().float(), new.detach()
        assert float(drawn.std()) == pytest.approx(float(like.std()), rel=0.3, abs=1e-6), name
        assert float(drawn.mean()) == pytest.approx(float(like.mean()), abs=0.01), name
    ours = load_large(folder, device="cpu")
    assert_close(ours(text(9)).logits, theirs(text(9)).logits, rtol=0, atol=0)
    assert (ours.lm_head.weight is ours.model.embedding.weight) == options.get("tie_word_embeddings", True)


def test_seeds_and_dtypes(tmp_path):
    one, two = (
        write_random(tiny_config(), tmp_path / str(seed), dtype=torch.float32, seed=seed, shard_bytes=10**9)
        for seed in (0, 1)
    )
    first, other = (load_file(folder / "model-00001-of-00001.safetensors") for folder in (one, two))
    name = "model.blocks.0.mixer.in_proj.weight"
    assert not torch.equal(first[name], other[name])
    half = load_large(one, device="cpu", dtype=torch.bfloat16)
    assert_close(half.model.blocks[0].mixer.in_proj.weight.detach(), first[name].bfloat16(), rtol=0, atol=0)


def test_what_has_no_room_waits_on_the_disk(tmp_path):
    folder = written(tmp_path)
    whole = load_large(folder, device="cpu")
    small = load_large(folder, max_memory={"cpu": 40_000}, offload_folder=tmp_path / "away")
    assert "disk" in small.hf_device_map.values()
    assert any(p.is_meta for p in small.parameters())
    assert_close(small(text(9)).logits, whole(text(9)).logits, rtol=0, atol=1e-6)


def damage(folder, how):
    index = json.loads((folder / INDEX).read_text())
    name = index["weight_map"]["model.blocks.1.mixer.in_proj.weight"]
    if how == "a shard is missing":
        (folder / name).unlink()
    elif how == "a shard is cut":
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    elif how == "the index leads elsewhere":
        index["weight_map"]["model.blocks.1.mixer.in_proj.weight"] = "../elsewhere.safetensors"
    elif how == "the index names a pickle":
        index["weight_map"]["model.blocks.1.mixer.in_proj.weight"] = "model.bin"
    elif how == "the index lacks a shard":
        index["weight_map"] = {key: value for key, value in index["weight_map"].items() if value != name}
    if "index" in how:
        (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("a shard is missing", "copy it again"),
        ("a shard is cut", "model"),
        ("the index leads elsewhere", "no .safetensors beside it"),
        ("the index names a pickle", "no .safetensors beside it"),
        ("the index lacks a shard", "lacks .* of the model's weights"),
    ],
)
def test_damage_is_told(how, told, tmp_path):
    folder = written(tmp_path)
    damage(folder, how)
    with pytest.raises(ValueError, match=told) as error:
        load_large(folder, device="cpu")
    assert "\n" not in str(error.value)


def test_other_refusals(tmp_path):
    folder = written(tmp_path)
    with pytest.raises(ValueError, match="is there already"):
        written(tmp_path)
    with pytest.raises(ValueError, match="only safetensors are read"):
        load_large(tmp_path, device="cpu")
    with pytest.raises(ValueError, match="give device"):
        load_large(folder, int8=True)
    with pytest.raises(ValueError, match=r"needs .* GiB, the disk has"):
        write_random(tiny_config(vocab_size=10**10), tmp_path / "huge")
    assert not (tmp_path / "huge").exists()


def test_a_killed_writer_leaves_nothing(tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", stop)
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path)
    assert not list(tmp_path.iterdir())


def test_int8_blocks_are_close_and_a_quarter(tmp_path):
    pytest.importorskip("torchao")
    folder = written(tmp_path, hidden_size=96)
    whole, small = load_large(folder, device="cpu"), load_large(folder, device="cpu", int8=True)
    wanted, found = (model(text(30)).logits.detach() for model in (whole, small))
    assert float((found - wanted).norm() / wanted.norm()) < 0.01


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_no_weight_is_held_twice(tmp_path):
    """Reading float32 shards as bfloat16 needs the result and about a shard, not both models."""
    wide = {"hidden_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8, "vocab_size": 16384}
    write_random(tiny_config(**wide), tmp_path / "wide", dtype=torch.float32, shard_bytes=8 * 2**20)
    code = (
        "import sys, torch, accelerate, tost.models.language; from tost.deploy import load_large\n"
        "held = lambda line: next(int(x.split()[1]) for x in open('/proc/self/status') if x.startswith(line))\n"
        "open('/proc/self/clear_refs', 'w').write('5')\n"  # the peak starts here
        "before = held('VmRSS')\n"
        "model = load_large(sys.argv[1], device='cpu', dtype=torch.bfloat16)\n"
        "print(held('VmHWM') - before, sum(p.nbytes for p in model.parameters()) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "wide"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, weights = map(int, re.findall(r"\d+", done.stdout))
    assert weights > 25_000
    assert weights < peak < 1.8 * weights  # two models would be three times this
