"""Who runs beside whom: each contestant turns a case into a call to time and into values to check."""

# B batch, N tokens, H heads, D features per head

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.bench import attention, published
from tost.bench.settings import DTYPES
from tost.ops import BACKENDS, causal_tssa, tssa

OPS = ("full", "causal")


class Case(NamedTuple):
    """One thing to measure: op is "full" or "causal", train adds the backward pass."""

    op: str
    train: bool
    B: int
    N: int
    H: int
    D: int
    dtype: str = "float32"
    device: str = "cpu"

    @property
    def direction(self) -> str:
        return "forward+backward" if self.train else "forward"

    @property
    def w_bytes(self) -> int:
        return DTYPES[self.dtype].itemsize * self.B * self.N * self.H * self.D

    def record(self, contestant: str) -> dict[str, Any]:
        """The columns of a flat record that say what was measured."""
        shape = {"B": self.B, "N": self.N, "H": self.H, "D": self.D}
        return {"contestant": contestant, "op": self.op, "direction": self.direction, **shape}


@dataclass(frozen=True)
class Contestant:
    """`make(case)` gives the function of its inputs [B, N, H, D], or [B, H, N, D] if `heads_first`.

    computes: "tssa" (w and temperature), "copy" (w), else attention of q, k, v by that name in tost.bench.definitions.
    kind: ours, rival or floor.  needs: one of these packages.  quadratic: time grows with the square of N.
    """

    label: str
    kind: str
    make: Callable[[Case], Callable[..., Tensor]]
    computes: str = "tssa"
    heads_first: bool = False
    ops: tuple[str, ...] = OPS
    needs: tuple[str, ...] = ()
    gpu_only: bool = False
    quadratic: bool = False
    plain: bool = True  # plain torch: in half precision its formula is also checked in float32


def _published(case: Case) -> Callable[..., Tensor]:
    return published.full if case.op == "full" else published.causal


def _compiled(case: Case) -> Callable[..., Tensor]:
    return torch.compile(_published(case), dynamic=False, fullgraph=True)


def _softmax(function: Callable[..., Tensor], case: Case) -> Callable[..., Tensor]:
    return partial(function, is_causal=case.op == "causal")


def _linear(case: Case) -> Callable[..., Tensor]:
    return attention.linear if case.op == "full" else attention.linear_causal


def _ours(backend: str, case: Case) -> Callable[..., Tensor]:
    operator: Any = tssa if case.op == "full" else causal_tssa
    return partial(operator, backend=backend)


def _as_it_is(function: Callable[..., Tensor], case: Case) -> Callable[..., Tensor]:
    return function


def _kernel(name: str) -> Contestant:
    function = partial(attention.softmax_fused, kernel=name)
    return Contestant(
        f"softmax attention, SDPA's {name} kernel", "rival", partial(_softmax, function), "softmax", True,
        gpu_only=True, quadratic=True, plain=False,
    )  # fmt: skip


PUBLISHED = "published"
SOFTMAX = {
    "softmax": Contestant(
        "softmax attention, unfused", "rival", partial(_softmax, attention.softmax), "softmax", True, quadratic=True
    ),
    "sdpa": Contestant(
        "softmax attention, fused (SDPA)", "rival", partial(_softmax, attention.softmax_fused), "softmax", True,
        quadratic=True, plain=False,
    ),
    **{f"sdpa_{name}": _kernel(name) for name in attention.KERNELS},
}  # fmt: skip
CONTESTANTS = {
    PUBLISHED: Contestant("published formula, eager", "rival", _published, heads_first=True),
    "compiled": Contestant("published formula, torch.compile", "rival", _compiled, heads_first=True, plain=False),
    **SOFTMAX,
    "xca": Contestant(
        "cross-covariance attention (XCA)", "rival", partial(_as_it_is, attention.cross_covariance), "xca", True,
        ops=("full",),
    ),
    "linear": Contestant("linear attention, plain torch", "rival", _linear, "linear", True),
    "linear_fla": Contestant(
        "linear attention, flash-linear-attention", "rival", partial(_as_it_is, attention.linear_fla), "linear_sum",
        ops=("causal",), needs=("fla",), gpu_only=True, plain=False,
    ),
    "state_space": Contestant(
        "state-space scan (Mamba-2)", "rival", partial(_as_it_is, attention.state_space), "state_space",
        ops=("causal",), needs=("mamba_ssm", "fla"), gpu_only=True, plain=False,
    ),
    **{
        name: Contestant(f"tost, {name} backend", "ours", partial(_ours, name), gpu_only=name == "triton")
        for name in BACKENDS
        if name != "reference"
    },
    "clone": Contestant("floor: w.clone()", "floor", partial(_as_it_is, torch.clone), "copy"),
    "copy": Contestant("floor: copy_ into a warm tensor", "floor", partial(_as_it_is, torch.clone), "copy"),
}  # fmt: skip
OURS = [name for name, contestant in CONTESTANTS.items() if contestant.kind == "ours"]
LABELS = {name: contestant.label for name, contestant in CONTESTANTS.items()}


class Tensors:
    """The inputs of a case, the same for every contestant: w, k and v, the cotangent g of y, a temperature a head."""

    def __init__(self, case: Case) -> None:
        self.case = case
        w, g, self.temperature = make_inputs(case)
        self._rows: dict[Any, Tensor] = {0: w.requires_grad_(case.train), "g": g}
        self._heads: dict[Any, Tensor] = {}

    def arranged(self, which: Any, heads_first: bool) -> Tensor:
        """Input 0 (w, or q), 1 or 2 (k, v), or "g", as [B, N, H, D] or [B, H, N, D]; made when first asked for."""
        if which not in self._rows:
            generator = torch.Generator(self.case.device).manual_seed(self.case.N + which)
            other = torch.empty_like(self._rows[0]).normal_(generator=generator)
            self._rows[which] = other.requires_grad_(self.case.train)
        rows = self._rows[which]
        if not heads_first:
            return rows
        if which not in self._heads:
            turned = rows.detach().transpose(1, 2).contiguous()
            self._heads[which] = turned.requires_grad_(rows.requires_grad)
        return self._heads[which]


@dataclass
class Entry:
    """A contestant set up for a case: `run()` is what is timed, `outputs()` what is checked."""

    name: str
    case: Case
    tensors: Tensors | None = None
    function: Callable[..., Tensor] = field(init=False)
    inputs: list[Tensor] = field(init=False)
    cotangent: Tensor = field(init=False)
    run: Callable[[], Any] = field(init=False)

    def __post_init__(self) -> None:
        contestant, case = CONTESTANTS[self.name], self.case
        tensors, first = self.tensors or Tensors(case), contestant.heads_first
        self.function = contestant.make(case)
        self.inputs = [tensors.arranged(i, first) for i in range(1 if contestant.computes in ("tssa", "copy") else 3)]
        self.cotangent = tensors.arranged("g", first)
        if contestant.computes == "tssa":
            t = tensors.temperature
            self.inputs.append((t.unsqueeze(-1) if first else t.clone()).requires_grad_(case.train))
        self.run = self._call()

    def outputs(self) -> tuple[Tensor, ...]:
        """y, and with train the gradients of all inputs, in [B, N, H, D] and [H]."""
        return self.evaluate(self.inputs, self.cotangent)

    def in_float32(self) -> tuple[Tensor, ...]:
        """`outputs` of the same numbers, computed in float32."""
        return self.evaluate([x.detach().float().requires_grad_(self.case.train) for x in self.inputs],
                             self.cotangent.float())  # fmt: skip

    def evaluate(self, inputs: list[Tensor], cotangent: Tensor) -> tuple[Tensor, ...]:
        """The function and its gradients."""
        with torch.set_grad_enabled(self.case.train):
            y = self.function(*inputs)
        results = (y,) if not self.case.train else (y, *torch.autograd.grad(y, inputs, cotangent))
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

    def _back(self, x: Tensor) -> Tensor:
        if x.ndim == 4:
            return x.transpose(1, 2) if CONTESTANTS[self.name].heads_first else x
        return x.flatten()


def make_inputs(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """w and the cotangent of y [B, N, H, D], temperature [H], in the case's precision and on its device."""
    generator = torch.Generator(case.device).manual_seed(case.N)
    shape = (case.B, case.N, case.H, case.D)
    like = torch.empty((), dtype=DTYPES[case.dtype], device=case.device)
    w, g = (like.new_empty(shape).normal_(generator=generator) for _ in range(2))
    temperature = 1 + torch.rand(case.H, generator=generator, device=case.device)
    return w, g, temperature.to(DTYPES[case.dtype])
