"""Does a small causal model still read its stream after 64k tokens? Two sources whose best loss is known exactly."""

# B streams, N tokens, K regimes, V symbols, C features, H heads

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from tost.nn import CausalBlock, CausalTSSA, init_weights
from tost.nn.causal_mixture import CausalMixture, MixtureOptions

K, V, C, H = 4, 16, 32, 4
TRAINED = 256  # tokens of a training sequence
BATCH, RATE = 16, 1e-2
EDGES = (0, 64, 256, 1024, 4096, 16384, 65536)
SOURCES = {"constant": 0.0, "changing": 1 / 64}  # how likely the regime is drawn anew, at a token
HALF_LIVES = (8, 32, 128, math.inf)
KEPT = {
    "none": "no mixing between tokens",
    "paper": "the paper",
    "forgetting": "forgetting, half-lives 8, 32, 128, none",
    "learned": "temperature t n^p, p learned from 0",
    "temperature": "temperature t n",
}
QUICK = ("none", "paper", "forgetting", "temperature")


class Streams(NamedTuple):
    """ids [B, N + 1], and the loss [B, N] at every next symbol of a reader who knows the source but not its regime."""

    ids: Tensor
    floor: Tensor


def rows() -> np.ndarray:
    """[K, V]: how likely each symbol is in each regime."""
    return np.random.default_rng(3).dirichlet([0.3] * V, K)


def draw(B: int, N: int, change: float, generator: torch.Generator) -> Tensor:
    """ids [B, N]: symbols of one regime at a time, which is drawn anew with probability `change` before a token."""
    drawn = torch.randint(K, (B, N), generator=generator)
    since = torch.where(torch.rand(B, N, generator=generator) < change, torch.arange(N), 0).cummax(1).values
    limits = torch.from_numpy(rows().cumsum(1))[drawn.gather(1, since)]
    return (torch.rand(B, N, 1, generator=generator, dtype=torch.float64) > limits).sum(-1).clamp(max=V - 1)


def with_floor(ids: Tensor, change: float) -> Streams:
    """The streams with -log p of each symbol after the first under the exact posterior of the regime."""
    likely, belief = rows(), np.full((len(ids), K), 1 / K)
    found = np.empty(ids.shape)
    for n, symbols in enumerate(ids.T.numpy()):
        joint = belief * likely[:, symbols].T
        seen = joint.sum(1, keepdims=True)
        found[:, n] = -np.log(seen[:, 0])
        belief = joint / seen * (1 - change) + change / K
    return Streams(ids, torch.from_numpy(found[:, 1:]))


def build(kept: str) -> nn.Module:
    """Two causal blocks over an embedding, without positions; ids [B, N] -> logits [B, N, V]."""
    blocks: list[nn.Module] = []
    for _ in range(2):
        block = CausalBlock(C, H, "none" if kept == "none" else "tssa", mlp_ratio=2, layer_scale_init=None)
        if kept == "forgetting":
            block.mixer = CausalTSSA(C, H, bias=True, decay=[2 ** (-1 / tokens) for tokens in HALF_LIVES])
        elif kept in ("learned", "temperature"):
            block.mixer = mixer = CausalMixture(C, H, bias=True, options=MixtureOptions(length_temperature=True))
            if kept == "temperature":
                assert mixer.power is not None
                nn.init.ones_(mixer.power).requires_grad_(False)
        blocks.append(block)
    model = nn.Sequential(nn.Embedding(V, C), *blocks, nn.LayerNorm(C), nn.Linear(C, V))
    init_weights(model, std=0.1)
    return model


def trained(kept: str, change: float, steps: int, seed: int, device: str) -> nn.Module:
    """A model after `steps` batches of short sequences; the same batches for every `kept`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(kept).to(device)
    generator = torch.Generator().manual_seed(1000 + seed)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, max(steps, 2))
    for _ in range(steps):
        ids = draw(BATCH, TRAINED + 1, change, generator).to(device)
        loss = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def losses(model: nn.Module, ids: Tensor, device: str) -> Tensor:
    """[B, N] float64: the model's loss at every symbol after the first, a stream at a time."""
    told = [F.cross_entropy(model(row[None, :-1].to(device))[0], row[1:].to(device), reduction="none") for row in ids]
    return torch.stack(told).double().cpu()


def by_position(kept: tuple[str, ...], steps: int, seeds: int, B: int, N: int, device: str) -> Iterator[dict[str, Any]]:
    """Mean loss of each model, seed and stretch of positions, beside the least that is possible."""
    ends = [edge for edge in EDGES if edge < N] + [N]
    todo = [(source, name, seed) for source in SOURCES for name in kept for seed in range(seeds)]
    streams: dict[str, Streams] = {}
    for source, name, seed in tqdm(todo, unit="model", desc="long streams", leave=False):
        change = SOURCES[source]
        if source not in streams:
            streams[source] = with_floor(draw(B, N + 1, change, torch.Generator().manual_seed(99)), change)
        found = losses(trained(name, change, steps, seed, device), streams[source].ids, device)
        for start, end in zip(ends, ends[1:]):
            means = {
                "loss": float(found[:, start:end].mean()), "floor": float(streams[source].floor[:, start:end].mean())
            }  # fmt: skip
            yield {"source": source, "kept": name, "seed": seed, "start": start, "end": end, **means}
