"""Reading a long prompt in chunks: the state is carried over, so that memory is that of one chunk."""

# B batch, N tokens, V = vocab_size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

CHUNK = 2048


@torch.inference_mode()
def prefill(
    model: Any, input_ids: Tensor, chunk: int = CHUNK, past: Any = None, progress: bool = False
) -> tuple[Tensor, Any]:
    """(logits after the last token [B, V], cache) of a causal language model, fed `chunk` tokens at a time.

    The values are those of one pass; logits of earlier tokens are not computed.
    input_ids: [B, N], N of at least 1; they may lie on the CPU.  past: a cache to go on from, advanced in place.
    progress: show a bar.  Raises ValueError for no tokens and for a chunk below 1.
    """
    if chunk < 1 or input_ids.ndim != 2 or input_ids.shape[1] < 1:
        raise ValueError(
            f"prefill expects input_ids [B, N] with a token at least and a chunk of 1 or more, got "
            f"{list(input_ids.shape)} and {chunk}"
        )
    device = model.get_input_embeddings().weight.device
    bar = tqdm(total=input_ids.shape[1], unit="token", unit_scale=True, disable=not progress, leave=False)
    with bar:
        for part in input_ids.split(chunk, dim=1):
            out = model(part.to(device), past_key_values=past, use_cache=True, logits_to_keep=1)
            past = out.past_key_values
            bar.update(part.shape[1])
    return out.logits[:, -1], past
