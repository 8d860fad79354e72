"""The operators in eight bits: the definition, in integers with rounding exactly defined, and the choice of a kernel.

One w becomes one int8 q = w / 2^e, rounded to even, with one e for a head (so far): the least for which |q| <= 128,
and 128 becomes 127. All sums are exact integers of q^2; a power of two for a scale makes a change of scale a shift, so
that a stream gives the same integers however it is split. Where a float operator divides, a table answers
(fixed_point.py). Floats appear as input and as the scales of the output, powers of two as well.
"""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones), R rows = tokens of all of them

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.ops import checks
from tost.ops.api import bias_by_token, length_after
from tost.ops.fixed_point import FINEST, LARGEST, SCORE, SURVIVAL, TEMPERATURE

BACKENDS = ("reference", "cpu", "triton")
SUMS = ("exponent", "energy", "moment", "mass")  # of a state, which a call goes on with
WIDEST, HOTTEST, BIASED = 4096, 128, 4096  # features a head, |temperature|, |D b|: beyond these 64 bits could overflow


class Int8Tokens(NamedTuple):
    """y = values * scale.  values: [B, N, H, D] int8.  scale: [B, N] float32, a power of two for each token."""

    values: Tensor
    scale: Tensor

    def dequantize(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """y [B, N, H, D]."""
        return (self.values * self.scale[..., None, None]).to(dtype)


class Int8State(NamedTuple):
    """What a causal stream in eight bits remembers, all integers.

    exponent: [S, H] e of the scale.  energy: [S, H, D], 2^8 sum q^2.  moment: [S, H, D], 2^20 sum Pi q^2.
    mass: [S, H], 2^20 sum Pi.  length: [S], tokens so far.  Good for 2 * 10^8 tokens.
    """

    exponent: Tensor
    energy: Tensor
    moment: Tensor
    mass: Tensor
    length: Tensor

    @staticmethod
    def zeros(batch: int, num_heads: int, head_dim: int, *, device: torch.device | str | None = None) -> Int8State:
        """The state before the first token of `batch` sequences."""
        sums, one = (torch.zeros(batch, num_heads, head_dim, dtype=torch.int64, device=device) for _ in range(2))
        exponent = torch.full((batch, num_heads), FINEST, dtype=torch.int64, device=device)
        length = torch.zeros(batch, dtype=torch.int64, device=device)
        return Int8State(exponent, sums, one, torch.zeros_like(exponent), length)


def tssa_int8(
    w: Tensor,
    temperature: Tensor,
    *,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> Int8Tokens:
    """`tssa` in eight bits, for inference: what enters and what comes out is int8, the sums between are integers.

        q = w / 2^e, e of a head from its largest |w|      a = sum_n q^2      Pi = softmax_h(t_h sum_d q^2 / a)
        m = 4^e sum_n Pi q^2 / sum_n Pi                    y = -Pi q 2^e / (1 + m), int8 times a scale for each token

    w: [B, N, H, D] float, rounded here.  temperature: [H].  mask, cu_seqlens: as in `tssa`.
    backend: one of `BACKENDS`, all equal to the last bit, or None to choose.
    Raises ValueError for what `tssa` refuses, NaN, |w| >= 2^22, D > 4096, |temperature| > 128, and under autograd.
    """
    w, real, bounds = prepare("tssa_int8", w, temperature, mask, cu_seqlens)
    B, N, H, D = w.shape
    kernel = load(backend, w)
    values, scale = kernel.full(w.view(-1, H, D), fixed(temperature, TEMPERATURE), real, bounds)
    return Int8Tokens(values.view(B, N, H, D), scale.view(B, N))


def causal_tssa_int8(
    w: Tensor,
    temperature: Tensor,
    *,
    position_bias: Tensor | None = None,
    decay: Tensor | None = None,
    mask: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    state: Int8State | None = None,
    backend: str | None = None,
) -> tuple[Int8Tokens, Int8State]:
    """`causal_tssa` in eight bits, for inference; a head's scale is that of its largest |w| so far, and never shrinks.

    Arguments as in `causal_tssa`; any split of a sequence over calls gives the same integers.
    Returns the tokens' output and the state behind them. Raises ValueError as tssa_int8 does.
    """
    w, real, bounds = prepare("causal_tssa_int8", w, temperature, mask, cu_seqlens)
    B, N, H, D = w.shape
    checks.check_causal(w, position_bias, decay, cu_seqlens, None)
    S = len(bounds) - 1
    state = Int8State.zeros(S, H, D, device=w.device) if state is None else state
    if state.energy.shape != (S, H, D):
        raise ValueError(
            f"causal_tssa_int8 expects a state of {S} sequences of {H} heads of {D} features, got "
            f"{list(state.energy.shape)}; begin with state=None or Int8State.zeros"
        )
    bias = None
    if position_bias is not None:
        by_token = bias_by_token(position_bias, w, mask, cu_seqlens, state.length)
        bias = fixed((by_token * D).clamp(-BIASED, BIASED), SCORE).expand(B, N, H).reshape(B * N, H)
    survival = None if decay is None else fixed(decay, SURVIVAL)
    after = state._replace(
        **{name: getattr(state, name).clone(memory_format=torch.contiguous_format) for name in SUMS},
        length=length_after(w, mask, cu_seqlens, state.length),
    )
    values, scale = load(backend, w).causal(
        w.view(-1, H, D), fixed(temperature, TEMPERATURE), bias, survival, real, bounds, *after[:4]
    )
    return Int8Tokens(values.view(B, N, H, D), scale.view(B, N)), after


def prepare(
    name: str, w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor]:
    """(w in float32, its masked tokens 0; real [R] bool or None; bounds [S + 1] of the rows) of a valid call."""
    checks.check_call(name, w, temperature, mask, cu_seqlens)
    B, N, _, D = w.shape
    if torch.is_grad_enabled() and (w.requires_grad or temperature.requires_grad):
        raise ValueError(f"{name} has no gradient; call it under torch.no_grad(), and train with tssa and causal_tssa")
    if D > WIDEST or not bool((temperature.abs() <= HOTTEST).all()):
        raise ValueError(
            f"{name} expects at most {WIDEST} features a head and |temperature| <= {HOTTEST}, got {D} and "
            f"{temperature.abs().max().item():g}; use the float operator"
        )
    w = w.float()
    if mask is not None:
        w = w.masked_fill(~mask[..., None, None], 0)
    if w.numel() and not bool(w.abs().amax() < LARGEST):
        raise ValueError(
            f"{name} expects finite w with |w| < 2^22, got {w.abs().amax().item():g}; use the float operator"
        )
    bounds = torch.arange(B + 1, device=w.device) * N if cu_seqlens is None else cu_seqlens.to(w.device, torch.int64)
    return w.contiguous(), None if mask is None else mask.reshape(-1).contiguous(), bounds


def load(backend: str | None, w: Tensor) -> Any:
    """The module with `full` and `causal` on rows; ValueError for an unknown backend."""
    if backend is None:
        backend = {"cpu": "cpu", "cuda": "triton"}.get(w.device.type, "reference")
        if backend == "triton" and importlib.util.find_spec("triton") is None:
            backend = "reference"
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r} of the int8 operators: choose one of {', '.join(BACKENDS)}")
    if backend == "cpu" and w.device.type != "cpu":
        raise ValueError(f"backend='cpu' runs on the CPU, w is on {w.device}; pass backend=None to choose")
    name = "int8_reference" if backend == "reference" else f"{backend}.int8"
    return importlib.import_module(f"tost.ops.{name}")


def fixed(x: Tensor, bits: int) -> Tensor:
    """x as int64 with `bits` fractional bits, halves rounded to even."""
    return (x.double() * 2.0**bits).round().to(torch.int64).contiguous()
