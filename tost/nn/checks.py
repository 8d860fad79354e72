"""What every layer asks of its sizes and of its input, in one place."""

from __future__ import annotations

from torch import Tensor


def head_dim(layer: str, dim: int, num_heads: int) -> int:
    """D = dim / num_heads, or a ValueError that says what to change."""
    if dim < 1 or num_heads < 1 or dim % num_heads:
        raise ValueError(
            f"{layer} splits dim into num_heads equal heads, got dim={dim}, num_heads={num_heads}; "
            "choose a dim that num_heads divides"
        )
    return dim // num_heads


def check_tokens(layer: str, x: Tensor, dim: int) -> None:
    """Refuse anything but [B, N, dim]."""
    if x.ndim != 3 or x.shape[-1] != dim:
        raise ValueError(
            f"{layer} expects tokens of shape [B, N, {dim}], got {list(x.shape)}; "
            f"flatten the token axes, or build the layer with dim={x.shape[-1] if x.ndim else '...'}"
        )


def check_mask(layer: str, mask: Tensor | None, x: Tensor) -> None:
    """Refuse anything but a boolean [B, N] (True = a real token)."""
    if mask is not None and (mask.shape != x.shape[:2] or str(mask.dtype) != "torch.bool"):
        raise ValueError(
            f"{layer} expects a boolean mask of shape {list(x.shape[:2])} (True = a real token), "
            f"got {mask.dtype} {list(mask.shape)}"
        )
