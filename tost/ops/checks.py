"""Checks of the operators' arguments: one line that says what was expected, what came and the way out."""

# B batch, N tokens, H heads, D features per head, S sequences (B, or the packed ones)

from __future__ import annotations

import torch
from torch import Tensor

from tost.ops.state import TSSAState

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_call(name: str, w: Tensor, temperature: Tensor, mask: Tensor | None, cu_seqlens: Tensor | None) -> None:
    """Raise ValueError unless these are arguments of `tssa` or `causal_tssa`."""
    if w.ndim != 4:
        raise ValueError(
            f"{name} expects w of shape [B, N, H, D], got {tuple(w.shape)}; split heads with w.unflatten(-1, (H, D))"
        )
    if w.dtype not in DTYPES:
        raise ValueError(
            f"{name} expects w in float32, float64, float16 or bfloat16, got {w.dtype}; convert with w.float()"
        )
    B, N, H, D = w.shape
    if H == 0 or D == 0:
        raise ValueError(f"{name} expects at least one head of at least one feature, got w of shape {tuple(w.shape)}")
    if temperature.shape != (H,):
        raise ValueError(
            f"{name} expects temperature of shape [H] = [{H}], got {tuple(temperature.shape)}; "
            "one number a head (published checkpoints keep [H, 1]: use .squeeze(-1))"
        )
    if mask is not None:
        if mask.dtype != torch.bool:
            raise ValueError(f"{name} expects a bool mask, true for real tokens, got {mask.dtype}; use mask.bool()")
        if mask.shape != (B, N):
            raise ValueError(f"{name} expects mask of shape [B, N] = [{B}, {N}], got {tuple(mask.shape)}")
    if cu_seqlens is not None:
        check_packing(name, w, cu_seqlens)


def check_packing(name: str, w: Tensor, cu_seqlens: Tensor) -> None:
    """Raise ValueError unless `cu_seqlens` are bounds of sequences packed into w's only row."""
    B, N = w.shape[:2]
    if B != 1:
        raise ValueError(
            f"{name} with cu_seqlens expects all sequences packed into B = 1, got B = {B}; use w.flatten(0, 1)[None]"
        )
    if cu_seqlens.ndim != 1 or cu_seqlens.numel() < 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"{name} expects cu_seqlens [S + 1] of int32 or int64, got {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}; "
            "use torch.tensor([0, *lengths]).cumsum(0)"
        )
    if (
        cu_seqlens.device.type == "cpu" and not torch.compiler.is_compiling()
    ):  # elsewhere reading them would wait for the device
        bounds = cu_seqlens.tolist()
        if bounds[0] != 0 or bounds[-1] != N or any(end < start for start, end in zip(bounds, bounds[1:])):
            shown = bounds if len(bounds) < 9 else [*bounds[:4], "...", *bounds[-3:]]
            raise ValueError(f"{name} expects cu_seqlens that rise from 0 to N = {N}, got {shown}")


def check_causal(
    w: Tensor, position_bias: Tensor | None, decay: Tensor | None, cu_seqlens: Tensor | None, state: TSSAState | None
) -> None:
    """Raise ValueError unless these are the causal operator's further arguments."""
    B, _, H, D = w.shape
    if position_bias is not None and (position_bias.ndim != 2 or position_bias.shape[0] != H):
        raise ValueError(
            f"causal_tssa expects position_bias of shape [H, L] = [{H}, L], got {tuple(position_bias.shape)}; "
            "published checkpoints keep [H, L, 1]: use .squeeze(-1)"
        )
    if decay is not None:
        if decay.shape != (H,):
            raise ValueError(
                f"causal_tssa expects decay of shape [H] = [{H}], got {tuple(decay.shape)}; one factor a head"
            )
        if decay.device.type == "cpu" and not torch.compiler.is_compiling():
            outside = [factor for factor in decay.tolist() if not 0 < factor <= 1]
            if outside:
                raise ValueError(f"causal_tssa expects decay in (0, 1], got {outside[0]}; 1 forgets nothing")
    if state is not None:
        S = B if cu_seqlens is None else cu_seqlens.numel() - 1
        shapes = {"energy": (S, H, D), "moment": (S, H, D), "mass": (S, H), "length": (S,)}
        for (field, shape), part in zip(shapes.items(), state):
            if part.shape != shape:
                raise ValueError(
                    f"causal_tssa expects state.{field} of shape {list(shape)}, got {list(part.shape)}; "
                    "begin with state=None or TSSAState.zeros, pick sequences with state.select"
                )


def check_positions(position: Tensor | int, table: Tensor) -> None:
    """Raise ValueError if a position lies beyond the table [H, L]."""
    L = table.shape[1]
    if isinstance(position, int):
        need = position
    elif position.device.type == "cpu" and position.numel() and not torch.compiler.is_compiling():
        need = int(position.max()) + 1
    else:
        return
    if need > L:
        raise ValueError(
            f"causal_tssa needs position_bias for {need} positions, got {L}; extend the table or pass None"
        )
