"""What a call of the language model brings: checks, the mask of its tokens, their positions."""

# B batch, N tokens, C = hidden_size, L = max_position_embeddings, V = vocab_size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tost.models.language.cache import StateLayer
from tost.models.language.config import ToSTConfig
from tost.nn.order import token_positions


def check_input(
    config: ToSTConfig, input_ids: Tensor | None, inputs_embeds: Tensor | None, output_attentions: bool | None
) -> None:
    """Raise ValueError unless there is one input [B, N], of token ids in 0..V-1, or [B, N, C]."""
    if output_attentions:
        raise ValueError("ToST forms no attention matrix to output; leave output_attentions out")
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("ToSTModel expects either input_ids [B, N] or inputs_embeds [B, N, C]")
    if inputs_embeds is not None:
        if inputs_embeds.ndim != 3 or inputs_embeds.shape[-1] != config.hidden_size:
            raise ValueError(
                f"ToSTModel expects inputs_embeds [B, N, {config.hidden_size}], got {list(inputs_embeds.shape)}"
            )
        return
    assert input_ids is not None
    if input_ids.ndim != 2 or input_ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"ToSTModel expects input_ids [B, N] of int64 or int32, got {list(input_ids.shape)} {input_ids.dtype}; "
            "add the batch axis with input_ids[None]"
        )
    if readable(input_ids):
        low, high = (int(end) for end in input_ids.aminmax())
        if low < 0 or high >= config.vocab_size:
            raise ValueError(
                f"ToSTModel knows token ids 0..{config.vocab_size - 1}, got {low if low < 0 else high}; "
                "use the tokenizer the model was trained with, or model.resize_token_embeddings"
            )


def real_tokens(attention_mask: Tensor | None, x: Tensor, past: StateLayer | None) -> Tensor | None:
    """The mask [B, N] bool, True = a real token, of x [B, N, C], from a mask that may cover the past as well."""
    if attention_mask is None:
        return None
    B, N = x.shape[:2]
    before = 0 if past is None else past.columns
    if attention_mask.ndim != 2 or attention_mask.shape[0] != B or attention_mask.shape[1] not in (N, before + N):
        raise ValueError(
            f"ToSTModel expects attention_mask [{B}, {N}]"
            + (f", or [{B}, {before + N}] with the past" if before else "")
            + f", got {list(attention_mask.shape)}; 1 for real tokens, 0 for padding"
        )
    return attention_mask[:, attention_mask.shape[1] - N :].bool()


def check_packing(cu_seqlens: Tensor, B: int, N: int, past: Any, use_cache: bool | None) -> None:
    """Raise ValueError unless cu_seqlens are boundaries of documents packed into [B, N], and no cache is asked for."""
    if past is not None or use_cache:
        raise ValueError("ToSTModel keeps no cache of packed documents; pass them one batch row each, padded")
    if cu_seqlens.ndim != 1 or cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"ToSTModel expects cu_seqlens [S + 1] of int64 or int32, got {list(cu_seqlens.shape)} {cu_seqlens.dtype}"
        )
    if readable(cu_seqlens):
        bounds = cu_seqlens.tolist()
        rising = all(a <= b for a, b in zip(bounds, bounds[1:]))
        if not rising or not {row * N for row in range(B + 1)} <= set(bounds) or bounds[-1] != B * N:
            raise ValueError(
                f"ToSTModel expects cu_seqlens that rise from 0 to {B * N} and hold every row's start, multiples of {N}"
            )


def positions_of(
    config: ToSTConfig,
    x: Tensor,
    mask: Tensor | None,
    cu_seqlens: Tensor | None,
    position_ids: Tensor | None,
    past: StateLayer | None,
) -> Tensor:
    """Rows [B or 1, N] of the position table for x [B, N, C]: the given ones, or the count of real tokens.

    Raises ValueError beyond the table, unless positions are clamped to it.
    """
    B, N = x.shape[:2]
    L, state = config.max_position_embeddings, None if past is None else past.state
    if position_ids is None:
        rows = token_positions(x, mask, cu_seqlens, None if state is None else state.length)
    elif position_ids.ndim != 2 or position_ids.shape[0] not in (1, B) or position_ids.shape[1] != N:
        raise ValueError(f"ToSTModel expects position_ids [{B}, {N}] or [1, {N}], got {list(position_ids.shape)}")
    else:
        rows = position_ids
    if config.position_mode == "clamped":
        return rows.clamp(max=L - 1)
    columns = 0 if cu_seqlens is not None else N + (0 if past is None else past.columns)
    if (readable(rows) or columns > L) and rows.numel():  # elsewhere, reading a short sequence would only make it wait
        need = int(rows.max()) + 1
        if need > L:
            raise ValueError(
                f"the model has learned positions for {L} tokens, got a sequence of {need}; shorten it, or load the "
                "model with position_mode='clamped', which reuses the last position"
            )
    return rows


def readable(t: Tensor) -> bool:
    """Whether looking at the values costs nothing: on the CPU, outside of tracing."""
    return t.device.type == "cpu" and t.numel() > 0 and not torch.compiler.is_compiling()
