"""The token-statistics layers with their operator in eight bits, for inference: same parameters, same calls."""

# B batch, N tokens, C features

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tost.nn.causal import CausalTSSA
from tost.nn.checks import check_tokens
from tost.nn.split import refuse
from tost.nn.tssa import TSSA
from tost.nn.tssa2d import TSSA2d
from tost.ops.int8 import Int8State, causal_tssa_int8, tssa_int8


class Int8TSSA(TSSA):
    """TSSA whose w and y are int8 and whose statistics are integers (tost.ops.int8); made by `gates_to_int8`.

    x: [B, N, C] -> [B, N, C] in x's dtype; mask and cu_seqlens as in TSSA. Raises ValueError in training.
    """

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        check_inference(self)
        check_tokens("Int8TSSA", x, self.dim)
        with torch.no_grad():
            y = tssa_int8(self.project(x), self.temperature, mask=mask, cu_seqlens=cu_seqlens)
            return self.out_proj(y.dequantize(x.dtype).flatten(-2))


class Int8TSSA2d(Int8TSSA, TSSA2d):
    """TSSA2d with its operator in eight bits.  x: [B, C, H, W] -> [B, C, H, W]."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # type: ignore[override]
        if x.ndim != 4 or x.shape[1] != self.dim:
            raise ValueError(f"Int8TSSA2d expects a feature map [B, {self.dim}, H, W], got {list(x.shape)}")
        y = Int8TSSA.forward(self, x.flatten(2).transpose(1, 2), None if mask is None else mask.flatten(1))
        y = y.transpose(1, 2).unflatten(2, x.shape[2:])
        return y.contiguous() if x.is_contiguous() else y


class Int8CausalTSSA(CausalTSSA):
    """CausalTSSA with its operator in eight bits; the state that streams is an Int8State, integers alone.

    Arguments of CausalTSSA; any split of a sequence gives the same integers. Raises ValueError in training.
    """

    State = Int8State  # type: ignore[assignment]

    def forward(  # type: ignore[override]
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Int8State | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Int8State]:
        check_inference(self)
        check_tokens("Int8CausalTSSA", x, self.dim)
        bias, seen = self._clamped(x.shape[1], state)
        with torch.no_grad():
            y, new_state = causal_tssa_int8(
                self.project(x),
                self.temperature,
                position_bias=bias,
                decay=self.survival(),
                mask=mask,
                cu_seqlens=cu_seqlens,
                state=seen,
            )
            out = self.out_proj(y.dequantize(x.dtype).flatten(-2))
        if not return_state:
            return out
        if state is not None and seen is not None and seen is not state:
            new_state = new_state._replace(length=state.length + (new_state.length - seen.length))
        return out, new_state


INT8: dict[type[nn.Module], type[nn.Module]] = {TSSA: Int8TSSA, TSSA2d: Int8TSSA2d, CausalTSSA: Int8CausalTSSA}


def gates_to_int8(model: nn.Module) -> int:
    """Let every TSSA, TSSA2d and CausalTSSA of `model` compute its operator in eight bits, in place; returns how many.

    Layers of other kinds, variants and mixtures among them, stay as they are.
    """
    layers = [module for module in model.modules() if type(module) in INT8]
    for layer in layers:
        layer.__class__ = INT8[type(layer)]
    return len(layers)


def check_inference(layer: Any) -> None:
    """ValueError if the layer is called in training, or with its sequence split over processes."""
    if layer.training:
        raise ValueError(
            f"{type(layer).__name__} has no gradient, and is for inference; call model.eval(), train the float model"
        )
    if layer.split_over is not None:
        refuse("an operator in eight bits")
