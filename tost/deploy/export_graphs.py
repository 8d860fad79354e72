"""What is exported of a model: a function of tensors with named inputs and outputs, and sizes that may vary."""

# B batch, N tokens, C channels or features, H x W pixels, K classes

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import fuse_conv_bn_eval

from tost.models import ToST, ToSTSequence, ToSTVision
from tost.models.sequence import sinusoids
from tost.nn import TSSA2d
from tost.nn.patch_embed import ConvNorm
from tost.nn.positions import FourierPositions


@dataclass(frozen=True)
class Limits:
    """The largest sizes an exported graph is made for; runtimes that plan their memory ahead plan for these.

    batch: samples at once.  side: pixels of an image's or positions of a map's side.  tokens: of one call.
    """

    batch: int = 16
    side: int = 1024
    tokens: int = 256

    def __post_init__(self) -> None:
        for name in ("batch", "side", "tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"export expects a largest {name} of at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Axis:
    """A size that may vary: `least` to `most` times `step`; fixed where the two are one."""

    name: str
    most: int
    step: int = 1
    least: int = 1


@dataclass
class Case:
    """Inputs to check a graph with.  real: from the world and not from a random generator."""

    inputs: tuple[Tensor, ...]
    real: bool = False


@dataclass
class Graph:
    """One function to export.

    module: called with all inputs, returns one tensor or a tuple of them; it is what is traced, on the first case.
    reference: the same function by the model itself, which the export must equal.
    inputs: name -> its axes that may vary.  outputs: their names.  facts: what the manifest says besides.
    """

    name: str
    module: nn.Module
    reference: Callable[..., Any]
    inputs: dict[str, dict[int, Axis]]
    outputs: list[str]
    cases: list[Case]
    facts: dict[str, Any] = field(default_factory=dict)


class Positional(nn.Module):
    """A module called with its inputs alone: torch.export then needs no names of theirs."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.inner(*inputs)


POOL: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x.mean(1),
    "max": lambda x: x.amax(1),
    "last": lambda x: x[:, -1],
}


class Sequence(nn.Module):
    """ToSTSequence's forward pass without checks of values and counts of rows, which no graph can hold."""

    def __init__(self, model: ToSTSequence) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        m, c = self.model, self.model.config
        tokens = m.embed(x)
        if m.positions is not None:
            tokens = tokens + m.positions[: x.shape[1]]
        elif c.positions == "sinusoidal":
            tokens = tokens + sinusoids(torch.arange(x.shape[1])[None], c.dim)
        for block in m.blocks:
            tokens = block(tokens)
        tokens = m.norm(tokens)
        return m.head(tokens if c.per_token else POOL[c.pool](tokens))


class Folded(nn.Module):
    """A ConvNorm as one convolution with constant weights, which runtimes can lay out and quantise beforehand."""

    def __init__(self, layer: ConvNorm) -> None:
        super().__init__()
        self.conv, self.gelu = fuse_conv_bn_eval(layer.conv, layer.norm), layer.gelu

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return nn.functional.gelu(y) if self.gelu else y


class Positions(FourierPositions):
    """FourierPositions whose length is divided by as a tensor: a number of a graph is a whole one (ExecuTorch)."""

    def __init__(self, layer: FourierPositions) -> None:
        nn.Module.__init__(self)
        self.frequencies, self.temperature, self.proj = layer.frequencies, layer.temperature, layer.proj

    def angles(self, length: int) -> Tensor:
        steps = torch.arange(1, length + 1, dtype=torch.float32)
        steps = steps / (steps[-1:] + 1e-6) * (2 * math.pi)
        powers = torch.arange(self.frequencies).div(2, rounding_mode="floor")
        angles = steps[:, None] / self.temperature ** (2 * powers / self.frequencies)
        both = torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=2)
        return both.flatten(1).to(self.proj.weight.dtype)


def graph_of(model: nn.Module, limits: Limits, half: bool = False, real: tuple[Tensor, ...] = ()) -> Graph:
    """The graph of a ToSTVision, ToST, ToSTSequence or TSSA2d.

    real: inputs from the world, [B, C, H, W] images or what else the model takes.  half: float16 weights and tensors.
    Raises ValueError for another model, and for images of the model's own size beyond the limits.
    """
    makers: dict[type, Callable[[Any, Limits], tuple[dict[str, dict[int, Axis]], list[str], list[Tensor]]]] = {
        ToSTVision: _vision,
        ToST: _encoder,
        ToSTSequence: _sequence,
        TSSA2d: _map,
    }
    make = makers.get(type(model))
    if make is None:
        known = ", ".join(kind.__name__ for kind in makers)
        raise ValueError(f"export takes a {known} or a ToSTForCausalLM, got a {type(model).__name__}")
    inputs, outputs, samples = make(model, limits)
    whole = copy.deepcopy(model).eval().requires_grad_(False)
    if half:
        whole = whole.half()
    cases = [Case((sample,)) for sample in samples] + [Case((sample,), real=True) for sample in real]
    for case in cases:
        if half:
            case.inputs = tuple(part.half() for part in case.inputs)
    traced = _with_constants(copy.deepcopy(whole))
    traced = Sequence(traced) if isinstance(traced, ToSTSequence) else traced
    return Graph("model", Positional(traced), whole, inputs, outputs, cases)


def _with_constants(model: nn.Module) -> nn.Module:
    """`model` with its batch norms folded into the convolutions before them, and positions that every runtime takes."""
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, ConvNorm):
                setattr(parent, name, Folded(child))
            elif isinstance(child, FourierPositions):
                setattr(parent, name, Positions(child))
    return model


def _vision(model: ToSTVision, limits: Limits) -> tuple[dict[str, dict[int, Axis]], list[str], list[Tensor]]:
    c, p = model.config, model.config.patch_size
    height, width = c.image_size
    if max(height, width, 3 * p) > limits.side:
        raise ValueError(
            f"{c.name} is meant for images of {height} x {width} pixels, the limit is {limits.side}; raise --max-side"
        )
    axes = {
        0: Axis("batch", limits.batch),
        2: Axis("height", limits.side // p, p, 2),
        3: Axis("width", limits.side // p, p, 2),
    }
    shapes = [(min(2, limits.batch), 3 * p, 2 * p), (1, height, width), (min(3, limits.batch), 2 * p, 3 * p)]
    samples = [torch.randn(b, c.in_chans, h, w, generator=_chance()) for b, h, w in shapes]
    return {"images": axes}, ["logits"], samples


def _encoder(model: ToST, limits: Limits) -> tuple[dict[str, dict[int, Axis]], list[str], list[Tensor]]:
    axes = {0: Axis("batch", limits.batch), 1: Axis("tokens", limits.tokens)}
    samples = [torch.randn(b, n, model.dim, generator=_chance()) for b, n in _sizes(limits)]
    return {"tokens": axes}, ["features"], samples


def _sequence(model: ToSTSequence, limits: Limits) -> tuple[dict[str, dict[int, Axis]], list[str], list[Tensor]]:
    c = model.config
    if c.pair:
        raise ValueError("export takes one sequence at a time, got a model of pairs")
    if c.positions == "learned":
        limits = Limits(limits.batch, limits.side, min(limits.tokens, c.max_length))
    axes = {0: Axis("batch", limits.batch), 1: Axis("tokens", limits.tokens)}
    if c.vocab_size:
        samples = [torch.randint(c.vocab_size, size, generator=_chance()) for size in _sizes(limits)]
    else:
        samples = [torch.randn(*size, c.in_features, generator=_chance()) for size in _sizes(limits)]
    return {"sequence": axes}, ["logits"], samples


def _map(model: TSSA2d, limits: Limits) -> tuple[dict[str, dict[int, Axis]], list[str], list[Tensor]]:
    axes = {
        0: Axis("batch", limits.batch),
        2: Axis("height", limits.side, least=2),
        3: Axis("width", limits.side, least=2),
    }
    if limits.side < 2:
        raise ValueError(f"export of a map expects a largest side of at least 2, got {limits.side}")
    most = limits.side
    shapes = [(min(2, limits.batch), min(7, most), min(5, most)), (1, min(16, most), min(16, most)), (1, 2, most)]
    return {"map": axes}, ["output"], [torch.randn(b, model.dim, h, w, generator=_chance()) for b, h, w in shapes]


def _sizes(limits: Limits) -> list[tuple[int, int]]:
    """(B, N) of the cases; the first is traced, and no size of it that may vary is 1."""
    return [(min(2, limits.batch), min(7, limits.tokens)), (1, min(100, limits.tokens)), (1, limits.tokens)]


def _chance() -> torch.Generator:
    return torch.Generator().manual_seed(0)
