"""States on disk: safetensors, bound to the model that made them."""

# B sequences, H heads, D features per head

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import Cache

from tost.files import atomic_write
from tost.models.language.block import ToSTBlock
from tost.models.language.cache import state_layers
from tost.models.language.config import ToSTConfig
from tost.nn.states import ConvolvedState, state_tensors

FORMAT = "tost-state-1"
SHAPING = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "tables",
    "bias",
    "mixers",
    "conv_width",
    "separate_values",
    "group_means",
    "full_covariance",
)


def save_state(
    cache: Cache, path: str | os.PathLike[str], model: nn.Module, more: Mapping[str, Tensor] | None = None
) -> None:
    """Write the states in `cache`, and what identifies the `model` that made them, to a safetensors file.

    The file is written whole or not at all. A later token can only be added by the same model.
    more: further tensors to keep in the file, such as tokens that are still to be fed.
    Raises ValueError if `cache` has seen no token or is not the model's.
    """
    config = _config(model)
    layers = state_layers(cache, config.num_hidden_layers)
    tensors = {"weights": weight_sample(model), **(more or {})}
    for i, layer in enumerate(layers):
        if layer.state is None:
            raise ValueError("save_state expects a cache that has seen tokens, got an empty one; feed a prompt first")
        for name, part in state_tensors(layer.state, f"layers.{i}.").items():
            tensors[name] = part.detach().cpu().contiguous()
    metadata = {"format": FORMAT, "config": fingerprint(config), "columns": str(layers[0].columns)}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(tensors, metadata=metadata))


def load_state(path: str | os.PathLike[str], model: nn.Module) -> DynamicCache:
    """The cache that save_state wrote, on the devices of `model`'s layers.

    Raises ValueError if the file is damaged, no state, or the state of another model: another configuration, or other
    weights (a sample of them is compared to within bfloat16's rounding).
    """
    config = _config(model)
    tensors, metadata = _read(Path(path))
    if metadata.get("config") != fingerprint(config):
        raise ValueError(f"{path} is the state of a model with another configuration; load it with its own model")
    here, then = weight_sample(model), tensors["weights"]
    if here.shape != then.shape or not torch.allclose(here, then, rtol=2**-7, atol=1e-6):
        raise ValueError(f"{path} is the state of a model with other weights; load it with its own model")
    cache = DynamicCache(config=config)
    for i, (layer, block) in enumerate(zip(state_layers(cache), _blocks(model))):
        own, device = f"layers.{i}.", block.mixer.in_proj.weight.device
        inner = own if block.conv is None else f"{own}inner."
        state = block.mixer.State(*(tensors[f"{inner}{name}"].to(device) for name in block.mixer.State._fields))
        layer.state = state if block.conv is None else ConvolvedState(tensors[f"{own}tail"].to(device), state)
        layer.columns, layer.is_initialized = int(metadata["columns"]), True
    return cache


def fingerprint(config: ToSTConfig) -> str:
    """A hash of the options that give a state its shape and meaning."""
    shaping = {name: getattr(config, name) for name in SHAPING}
    return hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]


def weight_sample(model: nn.Module) -> Tensor:
    """A few weights of every layer [layers, 8]: enough to tell one checkpoint from another."""
    weights = (block.mixer.in_proj.weight for block in _blocks(model))
    rows = [getattr(w, "qdata", w).detach().flatten()[:8].float().cpu() for w in weights]  # of torchao the integers
    return torch.stack(rows).contiguous()


def _blocks(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, ToSTBlock)]


def _config(model: nn.Module) -> ToSTConfig:
    config = getattr(model, "config", None)
    if not isinstance(config, ToSTConfig):
        raise ValueError(f"expected a ToST language model, got {type(model).__name__}")
    return config


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a state file."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save the state again") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} is no state that save_state wrote (format {metadata.get('format')!r})")
    return tensors, metadata
