"""The operators as torch sees them: schemas, shapes when tracing, derivatives."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.ops.common import statistics_dtype
from tost.ops.cpu.operators import CHUNK, causal, causal_backward, count_of, full, full_backward

STATE = "Tensor? energy, Tensor? moment, Tensor? mass"
SCHEMAS = {
    "cpu_tssa": "(Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    "cpu_tssa_backward": "(Tensor g, Tensor w, Tensor temperature, Tensor? mask, Tensor? cu_seqlens, Tensor membership,"
    " Tensor energy, Tensor mass, Tensor moment) -> (Tensor, Tensor)",
    "cpu_causal_tssa": "(Tensor w, Tensor temperature, Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens,"
    f" {STATE}, bool keep) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    "cpu_causal_tssa_backward": "(Tensor g, Tensor? g_energy, Tensor? g_moment, Tensor? g_mass,"
    " Tensor w, Tensor temperature,"
    f" Tensor? bias, Tensor? decay, Tensor? mask, Tensor? cu_seqlens, {STATE}, Tensor membership, Tensor states,"
    " bool wants_decay) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
}
library = torch.library.Library("tost", "FRAGMENT")
for _name, _schema in SCHEMAS.items():
    library.define(_name + _schema)


def fake_full(w: Tensor, temperature: Tensor, mask: Any, cu_seqlens: Any) -> tuple[Tensor, ...]:
    B, N, H, D = w.shape
    S, wide = count_of(w, cu_seqlens), statistics_dtype(w.dtype)
    y = w.new_empty(w.shape)
    energy, moment = w.new_empty(S, H, D, dtype=wide), w.new_empty(S, H, D, dtype=wide)
    return y, w.new_empty(B, N, H, dtype=wide), energy, w.new_empty(S, H, dtype=wide), moment


def fake_full_backward(g: Tensor, w: Tensor, temperature: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return w.new_empty(w.shape), temperature.new_empty(temperature.shape)


def fake_causal(
    w: Tensor, temperature: Tensor, bias: Any, decay: Any, mask: Any, cu_seqlens: Any, *rest: Any
) -> tuple[Tensor, ...]:
    B, N, H, D = w.shape
    S, wide, chunk, keep = count_of(w, cu_seqlens), statistics_dtype(w.dtype), CHUNK[w.element_size()], rest[-1]
    sums = [w.new_empty(S, H, D, dtype=torch.float64) for _ in range(2)]
    membership = w.new_empty((B, N, H) if keep else (0,), dtype=wide)
    states = w.new_empty((B * N // chunk, H * (2 * D + 1)) if keep else (0,), dtype=wide)
    return w.new_empty(w.shape), *sums, w.new_empty(S, H, dtype=torch.float64), membership, states


def fake_causal_backward(
    g: Tensor, ga: Any, gm: Any, gp: Any, w: Tensor, temperature: Tensor, bias: Any, decay: Any, *rest: Any
) -> tuple:
    def like(part: Tensor | None) -> Tensor:
        return w.new_empty(0) if part is None else part.new_empty(part.shape)

    nothing = torch.float64
    state = [w.new_empty(0, dtype=nothing) if part is None else part.new_empty(part.shape) for part in rest[2:5]]
    d_bias = w.new_empty(0, dtype=statistics_dtype(w.dtype)) if bias is None else like(bias)
    d_decay = like(decay) if rest[-1] else w.new_empty(0, dtype=nothing)
    return w.new_empty(w.shape), like(temperature), d_bias, d_decay, *state


def save_full(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*inputs, *output[1:])


def differentiate_full(ctx: Any, g: Tensor | None, *_: Any) -> tuple:
    if g is None:
        return None, None, None, None
    backward = FullBackward.apply if torch.is_grad_enabled() else torch.ops.tost.cpu_tssa_backward
    return *backward(g, *ctx.saved_tensors), None, None


def save_causal(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(*output[4:])
    ctx.save_for_backward(*inputs[:9], *output[4:])
    ctx.kept = inputs[9]


def differentiate_causal(
    ctx: Any, g: Tensor | None, ga: Tensor | None, gm: Tensor | None, gp: Tensor | None, *_: Any
) -> tuple:
    if not ctx.kept:
        raise RuntimeError("tost::cpu_causal_tssa was called with keep=False and has no derivative; pass keep=True")
    inputs = ctx.saved_tensors
    if g is None:
        g = torch.zeros_like(inputs[0])
    wants_decay = inputs[3] is not None and ctx.needs_input_grad[3]
    backward = CausalBackward.apply if torch.is_grad_enabled() else torch.ops.tost.cpu_causal_tssa_backward
    grads = backward(g, ga, gm, gp, *inputs, wants_decay)
    present = [
        part is not None and wanted
        for part, wanted in zip((*inputs[:4], *inputs[6:9]), (*ctx.needs_input_grad[:4], *ctx.needs_input_grad[6:9]))
    ]
    found = [grad if there else None for grad, there in zip(grads, present)]
    return *found[:4], None, None, *found[4:], None


def no_second_derivative(ctx: Any, *_: Any) -> Any:
    raise RuntimeError('backend="cpu" has no second derivative; backend="eager" has one')


def save_nothing(ctx: Any, inputs: tuple, output: tuple) -> None:
    pass


# Functional transforms cannot see through `register_autograd`, and calls are faster with these. The operators
# themselves are registered all the same, for whoever calls them.


def _function(name: str, forward: Any, setup_context: Any, backward: Any) -> Any:
    parts = {"forward": forward, "setup_context": setup_context, "backward": backward}
    return type(name, (torch.autograd.Function,), {key: staticmethod(part) for key, part in parts.items()})


ops: Any = torch.ops.tost
Full = _function("Full", ops.cpu_tssa, save_full, differentiate_full)
FullBackward = _function("FullBackward", ops.cpu_tssa_backward, save_nothing, no_second_derivative)
Causal = _function("Causal", ops.cpu_causal_tssa, save_causal, differentiate_causal)
CausalBackward = _function("CausalBackward", ops.cpu_causal_tssa_backward, save_nothing, no_second_derivative)


def _register(name: str, implementation: Any, fake: Any, setup: Any, derivative: Any) -> None:
    library.impl(name, implementation, "CPU")
    torch.library.register_fake(f"tost::{name}", fake, lib=library)
    torch.library.register_autograd(f"tost::{name}", derivative, setup_context=setup, lib=library)


_register("cpu_tssa", full, fake_full, save_full, differentiate_full)
_register("cpu_tssa_backward", full_backward, fake_full_backward, None, no_second_derivative)
_register("cpu_causal_tssa", causal, fake_causal, save_causal, differentiate_causal)
_register("cpu_causal_tssa_backward", causal_backward, fake_causal_backward, None, no_second_derivative)
