"""Attention layers as the paper compares them: twelve times projection in, operator, projection out, nothing else."""

# B batch, N tokens, H heads, D features per head, C = H*D

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from tost.bench.attention import softmax
from tost.bench.gate import HALF_RIVALS, Check, relative_error
from tost.bench.measure import Call
from tost.bench.published_vision import PublishedAttention
from tost.bench.settings import DTYPES
from tost.nn import TSSA
from tost.nn.mixers import QKVMixer, SoftmaxAttention

DEPTH, DIM, HEADS = 12, 384, 8
TOLERANCE = 1e-4  # of the largest output, through all layers in float32
CHECKED = 2048  # tokens up to which softmax layers are compared too
LAYERS = {
    "published": "published layer, eager",
    "softmax": "softmax attention layer, unfused",
    "sdpa": "softmax attention layer, fused (SDPA)",
    "tost": "tost layer",
}


class UnfusedSoftmax(QKVMixer):
    """Softmax attention that forms its N x N matrix."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (t.transpose(1, 2) for t in (q, k, v))
        return softmax(q, k, v, is_causal=False).transpose(1, 2)


def stack(name: str, dtype: str = "float32", device: str = "cpu") -> nn.Module:
    """The layers of a contestant; those that compute the same hold the same weights."""
    torch.manual_seed(0)
    kinds = {"published": TSSA, "tost": TSSA, "softmax": UnfusedSoftmax, "sdpa": SoftmaxAttention}
    layers: nn.Module = nn.Sequential(*(kinds[name](DIM, HEADS) for _ in range(DEPTH)))
    if name == "published":
        layers = nn.Sequential(*(published_layer(layer) for layer in layers))  # type: ignore[attr-defined]
    return layers.eval().to(device, DTYPES[dtype])


def published_layer(ours: TSSA) -> PublishedAttention:
    """The published layer with the weights of one of ours."""
    layer = PublishedAttention(ours.dim, ours.num_heads)
    state = {"temp": ours.temperature.detach().unsqueeze(-1)}
    for theirs, mine in (("qkv", ours.in_proj), ("to_out.0", ours.out_proj)):
        state |= {f"{theirs}.{name}": value.detach() for name, value in mine.named_parameters()}
    layer.load_state_dict(state)
    return layer


def tokens(count: int, dtype: str = "float32", device: str = "cpu") -> Tensor:
    """[1, N, C], the same at every call."""
    generator = torch.Generator(device).manual_seed(count)
    return torch.empty(1, count, DIM, device=device).normal_(generator=generator).to(DTYPES[dtype])


def timed_calls(names: Sequence[str], count: int, dtype: str, device: str) -> dict[str, Call]:
    """A forward pass of N tokens through each stack."""
    x = tokens(count, dtype, device)
    return {name: _forward(stack(name, dtype, device), x) for name in names}


def calls(name: str, counts: Sequence[int], dtype: str, device: str) -> Iterator[Call]:
    """The calls whose peaks are measured; the kernels are warm before."""
    layers = stack(name, dtype, device)
    _forward(layers, tokens(128, dtype, device))()
    for count in counts:
        yield _forward(layers, tokens(count, dtype, device))


@torch.no_grad()
def check_layers(count: int, dtype: str, device: str) -> Iterator[Check]:
    """Ours and the published layers against the latter in float64, and where that is short both softmax layers.

    In half precision the same layers are checked in float32 too, where more is seen.
    """
    groups = [("published", ("tost", "published"))]
    if count <= CHECKED:
        groups.append(("softmax", ("softmax", "sdpa")))
    for precision in dict.fromkeys((dtype, "float32")):
        allowed = TOLERANCE if precision == "float32" else HALF_RIVALS[precision]
        x = tokens(count, precision, device)
        for definition, names in groups:
            expected = stack(definition, precision, device).double()(x.double())
            for name in names:
                got = stack(name, precision, device)(x)
                said = f"{DEPTH} layers, {name}, N{count}, {precision}: output"
                yield Check(said, relative_error(got, expected), allowed)


def _forward(layers: nn.Module, x: Tensor) -> Call:
    def run() -> Tensor:
        with torch.no_grad():
            return layers(x)

    return run
