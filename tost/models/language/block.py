"""One layer of the causal ToST, in its published form and with the options beyond it."""

# B batch, N tokens, H heads, C = hidden_size

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from tost.models.language.cache import StateLayer
from tost.models.language.config import ToSTConfig
from tost.nn.causal_mixers import CAUSAL_MIXERS
from tost.nn.causal_mixture import CausalMixture, MixtureOptions
from tost.nn.mlp import GatedMlp, Mlp
from tost.nn.short_conv import ShortConv
from tost.nn.states import ConvolvedState


class ToSTBlock(GradientCheckpointingLayer):
    """Pre-norm residual block with LayerScale, GPT-2's with causal token statistics in place of attention.

        x = x + gamma1 * mixer(conv(LN(x)))      x = x + gamma2 * MLP(LN(x))

    x: [B, N, C] -> [B, N, C].  mask: [B, N] bool, True = a real token.  cu_seqlens: packed documents (B = 1).
    past: the layer of a cache to go on from.  The convolution, the norms, the MLP's kind and the mixer of this `layer`
    are the configuration's.
    """

    undecayed = ("gamma1", "gamma2")

    def __init__(self, config: ToSTConfig, layer: int) -> None:
        super().__init__()
        dim, scale = config.hidden_size, config.layer_scale_init
        self.norm1 = make_norm(config)
        self.conv = ShortConv(dim, config.conv_width) if config.conv_width else None
        self.mixer = make_mixer(config, layer)
        self.gamma1 = None if scale is None else nn.Parameter(torch.full((dim,), scale))
        self.norm2 = make_norm(config)
        self.mlp = (GatedMlp if config.mlp == "swiglu" else Mlp)(dim, config.hidden_features(layer), bias=config.bias)
        self.mlp_drop = nn.Dropout(config.dropout)  # GPT-2 drops at the end of the MLP alone
        self.gamma2 = None if scale is None else nn.Parameter(torch.full((dim,), scale))

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        past: StateLayer | None = None,
    ) -> Tensor:
        h = self.norm1(x)
        mixed = self.mix(h, mask, cu_seqlens) if past is None else past.advance(self.mix, h, mask)
        x = add(x, self.gamma1, mixed)
        return add(x, self.gamma2, self.mlp_drop(self.mlp(self.norm2(x))))

    def mix(
        self,
        h: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Any = None,
        return_state: bool = False,
    ) -> Any:
        """Convolution and mixer, with one state of both: [B, N, C], or (that, state) with return_state=True."""
        if self.conv is None:
            return self.mixer(h, mask=mask, cu_seqlens=cu_seqlens, state=state, return_state=return_state)
        tail, inner = (None, None) if state is None else state
        h, tail = self.conv(h, mask, cu_seqlens, tail)
        if not return_state:
            return self.mixer(h, mask=mask, cu_seqlens=cu_seqlens, state=inner)
        out, inner = self.mixer(h, mask=mask, state=inner, return_state=True)
        return out, ConvolvedState(tail, inner)


def add(x: Tensor, gamma: Tensor | None, branch: Tensor) -> Tensor:
    """x + gamma * branch, gamma [C] or None for 1."""
    return x + branch if gamma is None else torch.addcmul(x, gamma, branch)


def make_norm(config: ToSTConfig) -> nn.Module:
    """The configuration's norm over C features."""
    if config.norm == "rms":
        return nn.RMSNorm(config.hidden_size, config.layer_norm_eps)
    return nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)


def make_mixer(config: ToSTConfig, layer: int) -> nn.Module:
    """The mixer of a layer, by the configuration's name for it."""
    name = config.mixers[layer]
    kind = CAUSAL_MIXERS[name]
    options: dict[str, Any] = {"output_gate": config.output_gate, "head_norm": config.head_norm}
    if name == "softmax":
        options["rotary"] = config.position_mode == "rotary"
    elif name == "tssa":
        options = {
            "max_positions": config.max_position_embeddings if config.tables else None,
            "clamp_positions": config.position_mode == "clamped",
            "decay": config.decay,
            "learn_decay": config.learn_decay,
        }
        mixture = MixtureOptions(**{field.name: getattr(config, field.name) for field in fields(MixtureOptions)})
        if mixture.any:
            kind, options = CausalMixture, {**options, "options": mixture}
    return kind(
        config.hidden_size,
        config.num_attention_heads,
        bias=config.bias,
        attn_drop=config.dropout,
        proj_drop=config.dropout,
        **options,
    )
