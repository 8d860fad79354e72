"""Tiny language models with nothing left at its initial value, and text for them."""

import torch

from tests.nn.helpers import scramble
from tost.models.language import ToSTConfig, ToSTForCausalLM

V, L = 61, 48


def tiny_config(**options):
    sizes = {
        "vocab_size": V,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": L,
    }
    return ToSTConfig(**{**sizes, **options})


def tiny(seed=0, kind=ToSTForCausalLM, **options):
    return scramble(kind(tiny_config(**options)), seed, std=0.3).eval()


def text(n, batch=1, seed=0):
    return torch.randint(1, V, (batch, n), generator=torch.Generator().manual_seed(seed))


def pad(rows, side, length=None):
    """Rows of different lengths as input_ids and attention_mask: 0 on one side, or after the first token."""
    length = length or max(len(row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = torch.arange(len(row))
        if side != "right":
            place[side == "between" :] += length - len(row)
        ids[i, place], mask[i, place] = row, 1
    return ids, mask
