"""Who runs in `tost bench ops`: each contestant turns a case into a call to time and into values to check."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.bench import published
from tost.ops import causal_tssa, tssa


class Case(NamedTuple):
    """One thing to measure: op is "full" or "causal", train adds the backward pass."""

    op: str
    train: bool
    B: int
    N: int
    H: int
    D: int

    @property
    def direction(self) -> str:
        return "forward+backward" if self.train else "forward"

    @property
    def w_bytes(self) -> int:
        return 4 * self.B * self.N * self.H * self.D


@dataclass(frozen=True)
class Contestant:
    """`make(case)` gives the function of its inputs, `inputs` tensors [B, N, H, D], or [B, H, N, D] if `heads_first`.

    exact: computes the operator (checked against the float64 eager backend); kind: ours, rival or floor.
    """

    label: str
    kind: str
    make: Callable[[Case], Callable[..., Tensor]]
    inputs: int = 1
    heads_first: bool = False
    exact: bool = True
    temperature: bool = True


def _published(case: Case) -> Callable[..., Tensor]:
    return published.full if case.op == "full" else published.causal


def _compiled(case: Case) -> Callable[..., Tensor]:
    return torch.compile(_published(case), dynamic=False, fullgraph=True)


def _softmax(function: Callable[..., Tensor], case: Case) -> Callable[..., Tensor]:
    return partial(function, is_causal=case.op == "causal")


def _ours(backend: str, case: Case) -> Callable[..., Tensor]:
    operator: Any = tssa if case.op == "full" else causal_tssa
    return partial(operator, backend=backend)


def _clone(case: Case) -> Callable[..., Tensor]:
    return torch.clone


PUBLISHED = "published"
CONTESTANTS = {
    PUBLISHED: Contestant("published formula, eager", "rival", _published, heads_first=True),
    "compiled": Contestant("published formula, torch.compile", "rival", _compiled, heads_first=True),
    "softmax": Contestant(
        "softmax attention, unfused", "rival", partial(_softmax, published.softmax), 3, True, False, False
    ),
    "sdpa": Contestant(
        "softmax attention, fused (SDPA)", "rival", partial(_softmax, published.softmax_fused), 3, True, False, False
    ),
    "eager": Contestant("tost, eager backend", "ours", partial(_ours, "eager")),
    "cpu": Contestant("tost, cpu backend", "ours", partial(_ours, "cpu")),
    "clone": Contestant("floor: w.clone()", "floor", _clone, exact=False, temperature=False),
    "copy": Contestant("floor: copy_ into a warm tensor", "floor", _clone, exact=False, temperature=False),
}


@dataclass
class Entry:
    """A contestant set up for a case: `run()` is what is timed, `outputs()` what is checked."""

    name: str
    case: Case
    function: Callable[..., Tensor] = field(init=False)
    inputs: list[Tensor] = field(init=False)
    cotangent: Tensor = field(init=False)
    run: Callable[[], Any] = field(init=False)

    def __post_init__(self) -> None:
        contestant, case = CONTESTANTS[self.name], self.case
        self.function = contestant.make(case)
        w, g, temperature = make_inputs(case)
        self.cotangent = self._arranged(g)
        self.inputs = [self._arranged(w).requires_grad_(case.train) for _ in range(contestant.inputs)]
        if contestant.temperature:
            t = temperature.unsqueeze(-1) if contestant.heads_first else temperature.clone()
            self.inputs.append(t.requires_grad_(case.train))
        self.run = self._call()

    def outputs(self) -> tuple[Tensor, ...]:
        """y, and with train dw and dtemperature, in [B, N, H, D]."""
        with torch.set_grad_enabled(self.case.train):
            y = self.function(*self.inputs)
        results = (y,) if not self.case.train else (y, *torch.autograd.grad(y, self.inputs, self.cotangent))
        return tuple(self._back(x.detach()) for x in results)

    def _call(self) -> Callable[[], Any]:
        function, inputs, g = self.function, self.inputs, self.cotangent
        if self.name == "copy":
            warm, w = torch.zeros_like(g), inputs[0].detach()
            return (lambda: (warm.copy_(w), torch.mul(w, g, out=warm))) if self.case.train else (lambda: warm.copy_(w))
        if self.name == "clone" and self.case.train:
            w = inputs[0].detach()
            return lambda: (w.clone(), w * g)
        if self.case.train:
            return lambda: torch.autograd.grad(function(*inputs), inputs, g)

        def forward() -> Tensor:
            with torch.no_grad():
                return function(*inputs)

        return forward

    def _arranged(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).contiguous() if CONTESTANTS[self.name].heads_first else x.clone()

    def _back(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.transpose(1, 2) if CONTESTANTS[self.name].heads_first else x
        return x.flatten()


def make_inputs(case: Case, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    """w and the cotangent of y [B, N, H, D], temperature [H]: the same for every contestant of a shape."""
    generator = torch.Generator().manual_seed(case.N)
    shape = (case.B, case.N, case.H, case.D)
    w, g = torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)
    temperature = 1 + torch.rand(case.H, generator=generator)
    return w.to(dtype), g.to(dtype), temperature.to(dtype)


def compiler_reason() -> str | None:
    """Why torch.compile cannot run here, or None if it can."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(2))
    except Exception as error:  # whatever keeps the compiler from working is the answer
        return " ".join(str(error).split())[:120] or type(error).__name__
    return None
