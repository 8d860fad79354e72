"""The rivals that attend: softmax unfused and fused, cross-covariance, linear and state-space attention.

Queries, keys and values are [B, H, N, D], and [B, N, H, D] where a function of another library wants it so. Plain torch
unless the name says otherwise; nothing is rearranged for speed.
"""

# B batch, H heads, N tokens, D features per head

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

CHUNK = 64  # tokens of the causal linear form that are handled as one matrix product
KERNELS = {"flash": "FLASH_ATTENTION", "efficient": "EFFICIENT_ATTENTION", "cudnn": "CUDNN_ATTENTION", "math": "MATH"}
SDPA_OP = "aten::_scaled_dot_product_"
SDPA_NAMES = {
    "flash_attention_for_cpu": "flash (CPU)",
    "flash_attention": "flash",
    "efficient_attention": "efficient",
    "cudnn_attention": "cuDNN",
}


class Watch(TorchDispatchMode):
    """Remembers the operations that run under it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func._schema.name)
        return func(*args, **(kwargs or {}))


def softmax(q: Tensor, k: Tensor, v: Tensor, is_causal: bool) -> Tensor:
    """Softmax attention that forms its N x N matrix."""
    scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill_(future, float("-inf"))
    return scores.softmax(-1) @ v


def softmax_fused(q: Tensor, k: Tensor, v: Tensor, is_causal: bool, kernel: str | None = None) -> Tensor:
    """Softmax attention by torch's fused kernel (SDPA): the one it chooses, or one of KERNELS."""
    with nullcontext() if kernel is None else sdpa_kernel(getattr(SDPBackend, KERNELS[kernel])):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal)


def cross_covariance(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """XCiT's attention between features (arXiv 2106.09681): v softmax(q^T k)^T, q and k of unit norm over tokens."""
    q, k = F.normalize(q, dim=-2), F.normalize(k, dim=-2)
    return v @ (q.transpose(-1, -2) @ k).softmax(-1).transpose(-1, -2)


def linear(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """y_n = f(q_n) sum_s f(k_s) v_s^T / (f(q_n) . sum_s f(k_s)), f = elu + 1 (arXiv 2006.16236)."""
    q, k = F.elu(q) + 1, F.elu(k) + 1
    return (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2).unsqueeze(-1))


def linear_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`linear` over s <= n, in chunks: sums of the chunks before, and a triangle inside each."""
    N = q.shape[-2]
    q, k = F.elu(q) + 1, F.elu(k) + 1
    q, k, v = (F.pad(x, (0, 0, 0, -N % CHUNK)).unflatten(-2, (-1, CHUNK)) for x in (q, k, v))  # [B, H, N/64, 64, D]
    v = torch.cat([v, torch.ones_like(v[..., :1])], -1)  # the last column sums the weights
    each = (k.transpose(-1, -2) @ v).float()
    before = (each.cumsum(2) - each).to(v.dtype)
    y = (q @ before + (q @ k.transpose(-1, -2)).tril() @ v).flatten(2, 3)[..., :N, :]
    return y[..., :-1] / y[..., -1:]


def linear_fla(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """flash-linear-attention's chunk kernel: sum_{s <= n} (f(q_n) . f(k_s) / D) v_s.  [B, N, H, D]."""
    from fla.ops.linear_attn import chunk_linear_attn

    return chunk_linear_attn(F.elu(q) + 1, F.elu(k) + 1, v, scale=1 / q.shape[-1], normalize=False)[0]


def log_decay(heads: int, device: Any = None) -> Tensor:
    """[H] by how much a state-space layer's memory shrinks with a token, as a logarithm: half-lives 1.4 to 90 or so."""
    return -(0.5 ** torch.linspace(1, 7, heads, device=device))


def state_space(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Mamba-2's scan (arXiv 2405.21060): sum_{s <= n} (q_n . k_s / D) exp((n - s) log_decay_h) v_s.  [B, N, H, D].

    By mamba-ssm if that is installed, else by flash-linear-attention.
    """
    decay = log_decay(q.shape[2], q.device)
    if find_spec("mamba_ssm") is not None:
        from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

        step = torch.ones(q.shape[:3], device=q.device, dtype=q.dtype)
        return mamba_chunk_scan_combined(v, step, decay, k, q / q.shape[-1], chunk_size=128)
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(q, k, v, decay.expand(q.shape[:3]).contiguous(), scale=1 / q.shape[-1])[0]


def kernel_of(call: Callable[[], object]) -> str:
    """Which kernel of SDPA a call runs: one of SDPA_NAMES' values, or "math" where it is made of plain operations."""
    with Watch() as watched:
        call()
    ran = [name.removeprefix(SDPA_OP) for name in watched.seen if name.startswith(SDPA_OP)]
    return SDPA_NAMES.get(ran[0], ran[0]) if ran else "math"
