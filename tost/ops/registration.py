"""A fused backend as torch sees it: schemas, shapes when tracing, derivatives."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tost.ops.common import statistics_dtype

STATE = "Tensor? energy, Tensor? moment, Tensor? mass"
SCHEMAS = {
    "tssa": "(Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "tssa_backward": "(Tensor g, Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens, Tensor membership,"
    " Tensor energy, Tensor mass, Tensor moment) -> (Tensor, Tensor)",
    "causal_tssa": "(Tensor w, Tensor temperature, Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens,"
    f" {STATE}, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "causal_tssa_backward": "(Tensor g, Tensor? g_energy, Tensor? g_moment, Tensor? g_mass,"
    " Tensor w, Tensor temperature,"
    f" Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens, {STATE}, Tensor membership, Tensor states,"
    " bool wants_decay) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
}
library = torch.library.Library("tost", "FRAGMENT")


class Kernels(NamedTuple):
    """What a fused backend brings: four functions with the signatures above.

    state_rows(w, cu_seqlens): rows of H (2D + 1) sums that the causal forward pass keeps for its gradient.
    """

    full: Callable[..., tuple[Tensor, ...]]
    full_backward: Callable[..., tuple[Tensor, ...]]
    causal: Callable[..., tuple[Tensor, ...]]
    causal_backward: Callable[..., tuple[Tensor, ...]]
    state_rows: Callable[[Tensor, Tensor | None], int]


class Backend(NamedTuple):
    """The two functions of a backend, on top of torch operators: see tost.ops.api."""

    tssa: Callable[..., tuple[Tensor, ...]]
    causal_tssa: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]


def register(name: str, key: str, kernels: Kernels) -> Backend:
    """Makes kernels the operators tost::NAME_tssa and so on, for one of torch's dispatch keys.

    Functional transforms cannot see through `register_autograd`, and calls are faster with autograd functions over the
    operators, so the functions returned use those. The operators have derivatives all the same, for whoever calls them.
    """

    def no_second_derivative(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(f'backend="{name}" has no second derivative; backend="eager" has one')

    def differentiate_full(ctx: Any, g: Tensor | None, *_: Any) -> tuple:
        if g is None:
            return None, None, None, None
        backward = FullBackward.apply if torch.is_grad_enabled() else full_backward_op
        return *backward(g, *ctx.saved_tensors), None, None

    def differentiate_causal(
        ctx: Any, g: Tensor | None, ga: Tensor | None, gm: Tensor | None, gp: Tensor | None, *_: Any
    ) -> tuple:
        if not ctx.kept:
            raise RuntimeError(
                f"tost::{name}_causal_tssa was called with keep=False and has no derivative; pass keep=True"
            )
        inputs = ctx.saved_tensors
        if g is None:
            g = torch.zeros_like(inputs[0])
        wants_decay = inputs[3] is not None and ctx.needs_input_grad[3]
        backward = CausalBackward.apply if torch.is_grad_enabled() else causal_backward_op
        grads = backward(g, ga, gm, gp, *inputs, wants_decay)
        wanted = (*ctx.needs_input_grad[:4], *ctx.needs_input_grad[6:9])
        given = (*inputs[:4], *inputs[6:9])
        found = [grad if need and part is not None else None for grad, part, need in zip(grads, given, wanted)]
        return *found[:4], None, None, *found[4:], None

    def fake_causal(w: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        return _fake_causal(kernels.state_rows, w, *rest)

    def define(suffix: str, implementation: Any, fake: Any, setup: Any, derivative: Any) -> tuple[Any, Any]:
        operator = f"{name}_{suffix}"
        library.define(operator + SCHEMAS[suffix])
        library.impl(operator, implementation, key)
        torch.library.register_fake(f"tost::{operator}", fake, lib=library)
        torch.library.register_autograd(f"tost::{operator}", derivative, setup_context=setup, lib=library)
        op = getattr(torch.ops.tost, operator)
        parts = {"forward": op, "setup_context": setup, "backward": derivative}
        function = type(operator, (torch.autograd.Function,), {key: staticmethod(part) for key, part in parts.items()})
        return op, function

    full_op, Full = define("tssa", kernels.full, _fake_full, _save_full, differentiate_full)
    causal_op, Causal = define("causal_tssa", kernels.causal, fake_causal, _save_causal, differentiate_causal)
    last = (_save_nothing, no_second_derivative)
    full_backward_op, FullBackward = define("tssa_backward", kernels.full_backward, _fake_full_backward, *last)
    causal_backward_op, CausalBackward = define(
        "causal_tssa_backward", kernels.causal_backward, _fake_causal_backward, *last
    )

    def tssa(w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> tuple[Tensor, ...]:
        if torch.is_grad_enabled() and (w.requires_grad or temperature.requires_grad):
            return Full.apply(w, temperature, mask, cu_seqlens)
        return full_op(w, temperature, mask, cu_seqlens)

    def causal_tssa(*inputs: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if torch.is_grad_enabled() and any(part is not None and part.requires_grad for part in inputs):
            return Causal.apply(*inputs, True)[:4]
        return causal_op(*inputs, False)[:4]

    return Backend(tssa, causal_tssa)


def count_of(w: Tensor, cu_seqlens: Tensor | None) -> int:
    """S, the number of sequences."""
    return w.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1


def _fake_full(w: Tensor, temperature: Tensor, mask: Any, cu_seqlens: Any) -> tuple[Tensor, ...]:
    B, N, H, D = w.shape
    S, wide = count_of(w, cu_seqlens), statistics_dtype(w.dtype)
    y = w.new_empty(w.shape)
    energy, moment = w.new_empty(S, H, D, dtype=wide), w.new_empty(S, H, D, dtype=wide)
    return y, w.new_empty(B, N, H, dtype=wide), energy, w.new_empty(S, H, dtype=wide), moment


def _fake_full_backward(g: Tensor, w: Tensor, temperature: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return w.new_empty(w.shape), temperature.new_empty(temperature.shape)


def _fake_causal(
    state_rows: Callable[[Tensor, Tensor | None], int],
    w: Tensor,
    temperature: Tensor,
    bias: Any,
    decay: Any,
    mask: Any,
    cu_seqlens: Any,
    *rest: Any,
) -> tuple[Tensor, ...]:
    B, N, H, D = w.shape
    S, wide, keep = count_of(w, cu_seqlens), statistics_dtype(w.dtype), rest[-1]
    sums = [w.new_empty(S, H, D, dtype=torch.float64) for _ in range(2)]
    membership = w.new_empty((B, N, H) if keep else (0,), dtype=wide)
    states = w.new_empty((state_rows(w, cu_seqlens), H * (2 * D + 1)) if keep else (0,), dtype=wide)
    return w.new_empty(w.shape), *sums, w.new_empty(S, H, dtype=torch.float64), membership, states


def _fake_causal_backward(
    g: Tensor, ga: Any, gm: Any, gp: Any, w: Tensor, temperature: Tensor, bias: Any, decay: Any, *rest: Any
) -> tuple:
    def like(part: Tensor | None) -> Tensor:
        return w.new_empty(0) if part is None else part.new_empty(part.shape)

    nothing = torch.float64
    state = [w.new_empty(0, dtype=nothing) if part is None else part.new_empty(part.shape) for part in rest[2:5]]
    d_bias = w.new_empty(0, dtype=statistics_dtype(w.dtype)) if bias is None else like(bias)
    d_decay = like(decay) if rest[-1] else w.new_empty(0, dtype=nothing)
    return w.new_empty(w.shape), like(temperature), d_bias, d_decay, *state


def _save_full(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs, *output[1:])


def _save_causal(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    ctx.save_for_backward(*inputs[:9], *output[4:])
    ctx.kept = inputs[9]


def _save_nothing(ctx: Any, inputs: tuple, output: tuple) -> None:
    pass
