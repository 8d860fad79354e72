"""The three language models of a comparison, of one size: ours, the published one, and GPT-2."""

# L positions

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GPT2Config, GPT2LMHeadModel, StaticCache

from tost.bench.published_language import PublishedLanguage
from tost.models.language import ToSTConfig, ToSTForCausalLM, preset, to_official

LABELS = {
    "tost": "tost",
    "tost_usual": "tost, torch's usual matrix products",
    "published": "published model, eager",
    "gpt2": "GPT-2, fused attention (SDPA)",
    "gpt2_dynamic": "GPT-2, cache as generate grows it",
    "gpt2_static": "GPT-2, cache allocated beforehand",
}


class Size(NamedTuple):
    """What the models share."""

    dim: int
    layers: int
    heads: int
    vocab: int


def size_of(name: str, **changes: int) -> Size:
    """The size of a preset, some of it changed."""
    config = preset(name)
    size = Size(config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.vocab_size)
    return size._replace(**changes)


def tost_model(size: Size, positions: int | None, scale: float = 1e-5) -> Any:
    """The paper's variant with random weights, in evaluation mode; positions None: any length, without tables."""
    torch.manual_seed(0)
    config = ToSTConfig(
        vocab_size=size.vocab,
        hidden_size=size.dim,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        max_position_embeddings=positions or 1,
        position_mode="learned" if positions else "none",
        layer_scale_init=scale,
    )
    return ToSTForCausalLM(config).eval()


def published_model(size: Size, positions: int, like: nn.Module | None = None) -> PublishedLanguage:
    """The published model, with random weights or those of one of ours."""
    torch.manual_seed(0)
    model = PublishedLanguage(size.vocab, positions, size.layers, size.heads, size.dim).eval()
    if like is not None:
        model.load_state_dict(to_official(like.state_dict()))
    return model


def gpt2_model(size: Size, positions: int) -> Any:
    """transformers' GPT-2 with fused attention, no dropout, and its GELU (tanh) as one operation, which is faster."""
    torch.manual_seed(0)
    config: Any = GPT2Config(
        vocab_size=size.vocab,
        n_embd=size.dim,
        n_layer=size.layers,
        n_head=size.heads,
        n_positions=positions,
        activation_function="gelu_pytorch_tanh",
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
    )
    config._attn_implementation = "sdpa"
    model: Any = GPT2LMHeadModel(config).eval()
    model.loss_type = "ForCausalLM"  # or transformers warns that it guesses it
    return model


def gpt2_cache(model: GPT2LMHeadModel, context: int, static: bool) -> Cache:
    """A cache of `context` tokens with random keys and values: a step's time does not depend on what they are."""
    config: Any = model.config
    like: dict[str, Any] = {"device": model.device, "dtype": model.dtype}
    cache: Cache = StaticCache(config=config, max_cache_len=context + 1) if static else DynamicCache(config=config)
    shape = (1, config.n_head, context, config.n_embd // config.n_head)
    for layer in range(config.n_layer):
        cache.update(torch.randn(shape, **like), torch.randn(shape, **like), layer)
    return cache


def cache_nbytes(cache: Cache) -> int:
    """Bytes of all keys and values."""
    layers: list[Any] = cache.layers
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def random_text(size: Size, tokens: int, device: str = "cpu") -> Tensor:
    """Token ids [1, tokens], the same at every call."""
    return torch.randint(size.vocab, (1, tokens), generator=torch.Generator().manual_seed(0)).to(device)
