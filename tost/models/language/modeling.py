"""The causal ToST in transformers' conventions: blocks, and the model without a head."""

# B batch, N tokens, H heads, C = hidden_size, L = max_position_embeddings, V = vocab_size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tost.models.language.cache import TSSALayer, tssa_layers
from tost.models.language.config import ToSTConfig
from tost.models.language.inputs import check_input, positions_of, real_tokens
from tost.nn import CausalTSSA
from tost.nn.mlp import Mlp


class ToSTBlock(GradientCheckpointingLayer):
    """Pre-norm residual block with LayerScale, GPT-2's with causal token statistics in place of attention.

        x = x + gamma1 * mixer(LN(x))      x = x + gamma2 * MLP(LN(x))

    x: [B, N, C] -> [B, N, C].  mask: [B, N] bool, True = a real token.  past: the layer of a cache to go on from.
    """

    undecayed = ("gamma1", "gamma2")

    def __init__(self, config: ToSTConfig) -> None:
        super().__init__()
        dim, bias = config.hidden_size, config.bias
        self.norm1 = nn.LayerNorm(dim, config.layer_norm_eps, bias=bias)
        self.mixer = CausalTSSA(
            dim,
            config.num_attention_heads,
            bias=bias,
            max_positions=None if config.position_mode == "none" else config.max_position_embeddings,
            clamp_positions=config.position_mode == "clamped",
            attn_drop=config.dropout,
            proj_drop=config.dropout,
        )
        self.gamma1 = nn.Parameter(torch.full((dim,), config.layer_scale_init))
        self.norm2 = nn.LayerNorm(dim, config.layer_norm_eps, bias=bias)
        self.mlp = Mlp(dim, 4 * dim, bias=bias)
        self.mlp_drop = nn.Dropout(config.dropout)  # GPT-2 drops at the end of the MLP alone
        self.gamma2 = nn.Parameter(torch.full((dim,), config.layer_scale_init))

    def forward(self, x: Tensor, mask: Tensor | None = None, past: TSSALayer | None = None) -> Tensor:
        h = self.norm1(x)
        mixed = self.mixer(h, mask=mask) if past is None else past.advance(self.mixer, h, mask)
        x = torch.addcmul(x, self.gamma1, mixed)
        return torch.addcmul(x, self.gamma2, self.mlp_drop(self.mlp(self.norm2(x))))


class ToSTPreTrainedModel(PreTrainedModel):
    """What all ToST language models share: initialisation, saving and loading (safetensors only)."""

    config: ToSTConfig
    config_class = ToSTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ToSTBlock"]  # noqa: RUF012 (transformers' declaration)
    _skip_keys_device_placement = ["past_key_values", "past"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's: normal weights, and the two projections that end a branch smaller by sqrt(2 * layers)."""
        super()._init_weights(module)
        if isinstance(module, CausalTSSA):
            init.ones_(module.temperature)
            if module.position_bias is not None:
                init.zeros_(module.position_bias)
        elif isinstance(module, ToSTBlock):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            for last in (module.mixer.out_proj, module.mlp.fc2):
                init.normal_(last.weight, mean=0.0, std=std)
            for gamma in (module.gamma1, module.gamma2):
                init.constant_(gamma, self.config.layer_scale_init)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', but never reads a pickle; options of ToSTConfig may be given (position_mode="clamped")."""
        return super().from_pretrained(*args, **{"use_safetensors": True, **kwargs})


class ToSTModel(ToSTPreTrainedModel):
    """Embedding, positions, blocks, final norm.

    input_ids [B, N] -> last_hidden_state [B, N, C], past_key_values (a cache of TSSALayers), hidden_states.
    """

    def __init__(self, config: ToSTConfig) -> None:
        super().__init__(config)
        tables = config.position_mode != "none"
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if tables else None
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(ToSTBlock(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, config.layer_norm_eps, bias=config.bias)
        self.gradient_checkpointing = False
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value  # type: ignore[assignment]

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutputWithPast:
        """input_ids [B, N], or inputs_embeds [B, N, C].

        attention_mask: [B, N], or [B, past + N]; 0 where padding is, left, right or between.
        position_ids: [B or 1, N], rows of the learned positions; by default the real tokens are counted. The operator's
        own position bias always counts them.
        past_key_values: a cache to go on from; it is advanced in place.  use_cache: whether to return one; by default
        config.use_cache, and False in training.
        """
        check_input(self.config, input_ids, inputs_embeds, output_attentions)
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        cache = self._cache(past_key_values, use_cache)
        layers = tssa_layers(cache, len(self.blocks)) if cache is not None else [None] * len(self.blocks)
        mask = real_tokens(attention_mask, x, layers[0])
        if self.positions is not None:
            rows = positions_of(self.config, x, mask, position_ids, layers[0])
            x = x + self.positions(rows.to(self.positions.weight.device)).to(x.device)
        x = self.drop(x)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = []
        for block, past in zip(self.blocks, layers):
            if output_hidden_states:
                hidden.append(x)
            x = block(x, mask, past)
        x = self.norm(x)
        return BaseModelOutputWithPast(
            last_hidden_state=x,
            past_key_values=None if use_cache is False else cache,
            hidden_states=(*hidden, x) if output_hidden_states else None,
        )

    def _cache(self, given: Cache | None, use_cache: bool | None) -> Cache | None:
        """The cache to advance: the given one, or a new one if one is wanted."""
        if self.gradient_checkpointing and self.training:
            if given is not None:
                raise ValueError(
                    "gradient checkpointing runs a block twice, which would feed its tokens to past_key_values twice; "
                    "call model.gradient_checkpointing_disable() or leave past_key_values out"
                )
            return None
        if use_cache is None:
            use_cache = self.config.use_cache and not self.training
        return DynamicCache(config=self.config) if given is None and use_cache else given
