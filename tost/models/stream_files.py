"""Streams on disk: safetensors, bound to the model that made them."""

# S streams

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from tost.files import atomic_write
from tost.models.sequence import ToSTSequence

FORMAT = "tost-streams-1"


def write_streams(
    path: str | os.PathLike[str], model: ToSTSequence, names: Sequence[str], tensors: Mapping[str, Tensor]
) -> None:
    """Write the tensors [S, ...] of streams by these names, and what identifies the model; whole or not at all."""
    metadata = {"format": FORMAT, "config": _fingerprint(model), "names": json.dumps(list(names))}
    kept = {name: part.cpu().contiguous() for name, part in tensors.items()} | {"weights": _weight_sample(model)}
    with atomic_write(path) as file:
        file.write(safetensors.torch.save(kept, metadata=metadata))


def read_streams(path: str | os.PathLike[str], model: ToSTSequence) -> tuple[list[str], dict[str, Tensor]]:
    """(names, tensors) that write_streams wrote.

    Raises ValueError if the file is damaged, holds no streams, or those of a model of other sizes or weights.
    """
    tensors, metadata = _read(Path(path))
    if metadata.get("config") != _fingerprint(model):
        raise ValueError(f"{path} holds the streams of a model of another configuration; load it with its own")
    here, then = _weight_sample(model), tensors.pop("weights")
    if here.shape != then.shape or not torch.allclose(here, then, rtol=2**-7, atol=1e-6):
        raise ValueError(f"{path} holds the streams of a model with other weights; load it with its own")
    return json.loads(metadata["names"]), tensors


def _fingerprint(model: ToSTSequence) -> str:
    """A hash of the configuration."""
    return hashlib.sha256(json.dumps(asdict(model.config), sort_keys=True).encode()).hexdigest()[:16]


def _weight_sample(model: ToSTSequence) -> Tensor:
    """A few numbers of every parameter: enough to tell one checkpoint from another."""
    return torch.cat([p.detach().flatten()[:4].float().cpu() for p in model.parameters()])


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file of streams."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); save the streams again") from None
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} holds no streams that Streaming.save wrote (format {metadata.get('format')!r})")
    return tensors, metadata
