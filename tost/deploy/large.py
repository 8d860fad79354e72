"""Large checkpoints, written and read shard by shard: neither ever holds the model twice, the writer not even once."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import nn
from tqdm import tqdm

from tost.extras import require
from tost.files import sync_folder
from tost.models.language import ToSTConfig, ToSTForCausalLM

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
BLOCK = "ToSTBlock"  # stays on one device
SHARD = 2**30  # bytes


def write_random(
    config: ToSTConfig,
    folder: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int = SHARD,
    seed: int = 0,
    device: str = "cpu",
) -> Path:
    """Write a model with freshly initialised weights as a folder of sharded safetensors, a shard in memory at a time.

    What a planner promises can then be measured without a trained model. The folder appears whole or not at all.
    device: where the weights are drawn.  Raises ValueError if `folder` holds anything, or the disk has no room.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there already; choose a folder that is empty or not there")
    with torch.device("meta"):
        model = ToSTForCausalLM(config)
    shards = list(_shards(model, dtype, shard_bytes))
    total = sum(size for _, size in shards)
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if total > free:
        raise ValueError(f"{folder} needs {total / 2**30:.1f} GiB, the disk has {free / 2**30:.1f} left")
    staging = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
    staging.mkdir()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _write(model, shards, staging, dtype, device)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    sync_folder(folder.parent)
    return folder


def _write(model: Any, shards: list[Any], folder: Path, dtype: torch.dtype, device: str) -> None:
    """The shards, their index and the configuration."""
    places: dict[str, str] = {}
    for i, (units, _) in enumerate(tqdm(shards, unit="shard", desc="writing", leave=False)):
        tensors = {}
        for name, unit in units:
            for key, value in _drawn(model, unit, device):
                tensors[f"{name}.{key}"] = value.to(dtype).cpu().contiguous()
            unit.to("meta")
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        safetensors.torch.save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": sum(size for _, size in shards)}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    model.config.dtype = str(dtype).removeprefix("torch.")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)


def _drawn(model: Any, unit: nn.Module, device: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a part of `model`, initialised as the model initialises them."""
    unit.to_empty(device=device)
    for module in reversed(list(unit.modules())):  # a block sets its last projections after they set themselves
        model._init_weights(module)
    yield from unit.state_dict().items()


def _shards(model: Any, dtype: torch.dtype, most: int) -> Iterator[tuple[list[tuple[str, nn.Module]], int]]:
    """Parts of the model by name, gathered into shards of at most `most` bytes (or one part), and their bytes."""
    gathered: list[tuple[str, nn.Module]] = []
    size = 0
    for name, unit in _units(model):
        own = dtype.itemsize * sum(value.numel() for value in unit.state_dict().values())
        if gathered and size + own > most:
            yield gathered, size
            gathered, size = [], 0
        gathered.append((name, unit))
        size += own
    yield gathered, size


def _units(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """What lies in one shard: embedding, positions, every block, the norm, and a head of its own."""
    inner = model.model
    parts = [("embedding", inner.embedding), ("positions", inner.positions)]
    parts += [(f"blocks.{i}", block) for i, block in enumerate(inner.blocks)]
    yield from ((f"model.{name}", part) for name, part in [*parts, ("norm", inner.norm)] if part is not None)
    if not model.config.tie_word_embeddings:
        yield "lm_head", model.lm_head


def load_large(
    folder: str | os.PathLike[str],
    *,
    device: str | None = None,
    max_memory: dict[int | str, int | str] | None = None,
    dtype: torch.dtype | None = None,
    int8: bool = False,
    offload_folder: str | os.PathLike[str] | None = None,
) -> Any:
    """A language model in eval mode out of safetensors, shard by shard through accelerate: never twice in memory.

    device: all of it there; None: by accelerate's device map, GPUs first, then the host, then `offload_folder`, within
    `max_memory` (bytes or "20GiB" by GPU number and "cpu").  dtype: None = as written.
    int8: the blocks' matrices as torchao's weight-only int8, a block at a time; needs `device`.
    Raises ValueError for a folder without safetensors, damaged or missing weights, and weights of other shapes.
    """
    accelerate = require("accelerate", extra="training")
    checkpoint = find_checkpoint(Path(folder))
    config = ToSTConfig.from_pretrained(folder)
    kept: Any = dtype or config.dtype or torch.float32  # accelerate would widen to the empty model's float32
    if int8 and device is None:
        raise ValueError("load_large quantises a block at a time on its way to one device; give device with int8=True")
    with accelerate.init_empty_weights():
        model = ToSTForCausalLM(config)
    model.tie_weights()
    first = "cpu" if int8 else device
    places: Any = {"": first}
    if first is None:
        places = accelerate.infer_auto_device_map(model, max_memory, no_split_module_classes=[BLOCK], dtype=kept)
    away = None if offload_folder is None else str(offload_folder)
    try:
        accelerate.load_checkpoint_in_model(model, str(checkpoint), places, offload_folder=away, dtype=kept)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError) as error:
        raise ValueError(f"{folder}: {' '.join(str(error).split())}") from None
    _check_whole(model, places, folder)
    model.eval()
    if int8:
        return _quantised(model, str(device))
    if len(set(places.values())) > 1:
        return accelerate.dispatch_model(model, places, offload_dir=away)
    return model.to(next(iter(places.values())))  # buffers, and nothing else


def find_checkpoint(folder: Path) -> Path:
    """The index of the shards, or the single file. Raises ValueError if there is none, or if it leads elsewhere."""
    if (folder / SINGLE).is_file():
        return folder / SINGLE
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} has no {INDEX} and no {SINGLE}; only safetensors are read")
    try:
        files = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(f"{path} is damaged: it names no shards") from None
    for name in files:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise ValueError(f"{path} names {name!r}, which is no .safetensors beside it")
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}, which {INDEX} names; copy it again")
    return path


def _check_whole(model: nn.Module, places: dict[str, Any], folder: Any) -> None:
    """ValueError if a weight that is not kept on the disk was in no shard."""
    disk = tuple(name for name, place in places.items() if place == "disk")
    missing = [n for n, p in model.named_parameters() if p.is_meta and not n.startswith(disk or ("\0",))]
    if missing:
        raise ValueError(f"{folder} lacks {len(missing)} of the model's weights, such as {missing[0]}; copy it again")


def _quantised(model: Any, device: str) -> Any:
    """The blocks' matrices in int8, one block after the other, on `device`."""
    torchao: Any = require("torchao.quantization", extra="deploy")
    for block in tqdm(model.model.blocks, unit="block", desc="int8", leave=False):
        torchao.quantize_(block, torchao.Int8WeightOnlyConfig())
        block.to(device)
    return model.to(device)
