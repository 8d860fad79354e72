"""The causal ToST in transformers' conventions: what all models share, and the model without a head."""

# B batch, N tokens, H heads, C = hidden_size, L = max_position_embeddings, V = vocab_size

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast
from transformers.utils.generic import can_return_tuple

from tost.models.language.block import ToSTBlock, make_norm
from tost.models.language.cache import state_layers
from tost.models.language.config import ToSTConfig
from tost.models.language.inputs import check_input, check_packing, positions_of, real_tokens
from tost.nn import CausalTSSA
from tost.nn.causal import log_half_life
from tost.nn.causal_controls import CausalToken
from tost.nn.causal_mixture import CausalMixture
from tost.nn.readout import Readout
from tost.nn.short_conv import ShortConv
from tost.nn.split import Split


class ToSTPreTrainedModel(PreTrainedModel):
    """What all ToST language models share: initialisation, saving and loading (safetensors only)."""

    config: ToSTConfig
    config_class = ToSTConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ToSTBlock"]  # noqa: RUF012 (transformers' declaration)
    _skip_keys_device_placement = ["past_key_values", "past"]  # noqa: RUF012

    @torch.no_grad()
    def _init_weights(self, module: Any) -> None:
        """GPT-2's: normal weights, and the two projections that end a branch smaller by sqrt(2 * layers)."""
        super()._init_weights(module)
        if isinstance(module, (CausalTSSA, CausalToken)):
            init.ones_(module.temperature)
        if isinstance(module, CausalTSSA):
            if module.position_bias is not None:
                init.zeros_(module.position_bias)
            if module.decay is not None:
                init.copy_(module.decay, torch.tensor(self.config.decay))
            if module.log_half_life is not None:
                init.copy_(module.log_half_life, log_half_life(self.config.decay))
            if isinstance(module, CausalMixture) and module.power is not None:
                init.zeros_(module.power)
        elif isinstance(module, Readout) and module.head_weight is not None:
            init.ones_(module.head_weight)
        elif isinstance(module, ShortConv):
            init.copy_(module.weight, module.identity())
        elif isinstance(module, ToSTBlock):
            std = self.config.initializer_range / (2 * self.config.num_hidden_layers) ** 0.5
            mixer: Any = module.mixer
            for last in (mixer.out_proj, module.mlp.fc2):
                init.normal_(last.weight, mean=0.0, std=std)
            for gamma in (module.gamma1, module.gamma2):
                if gamma is not None and self.config.layer_scale_init is not None:
                    init.constant_(gamma, self.config.layer_scale_init)

    def get_position_embeddings(self) -> nn.Module | None:  # type: ignore[override]
        return self.base_model.positions  # type: ignore[return-value]

    @torch.no_grad()
    def resize_position_embeddings(self, new_num_position_embeddings: int) -> None:
        """Stretch the learned positions and every layer's position bias to another number L' of rows, in place.

        Row i of L' is read at i (L - 1) / (L' - 1) of the old table, between its neighbours in proportion.
        Raises ValueError without learned positions.
        """
        model: Any = self.base_model
        if model.positions is None or new_num_position_embeddings < 1:
            raise ValueError(
                f"resize_position_embeddings expects a model with learned positions and a length of at least 1, got "
                f"position_mode={self.config.position_mode!r} and {new_num_position_embeddings}"
            )
        weight = stretched(model.positions.weight.T, new_num_position_embeddings).T.contiguous()
        model.positions = nn.Embedding.from_pretrained(weight, freeze=False)
        for block in model.blocks:
            if getattr(block.mixer, "position_bias", None) is not None:
                block.mixer.position_bias = nn.Parameter(stretched(block.mixer.position_bias, len(weight)))
        self.config.max_position_embeddings = len(weight)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As transformers', but never reads a pickle; options of ToSTConfig may be given (position_mode="clamped")."""
        return super().from_pretrained(*args, **{"use_safetensors": True, **kwargs})


class ToSTModel(ToSTPreTrainedModel):
    """Embedding, positions, blocks, final norm.

    input_ids [B, N] -> last_hidden_state [B, N, C], past_key_values (a cache of StateLayers), hidden_states.
    """

    split_over: Split | None = None  # other processes, while they hold other stretches of the sequences

    def __init__(self, config: ToSTConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size) if config.tables else None
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(ToSTBlock(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = make_norm(config)
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
        cu_seqlens: Tensor | None = None,
    ) -> BaseModelOutputWithPast:
        """input_ids [B, N], or inputs_embeds [B, N, C].

        attention_mask: [B, N], or [B, past + N]; 0 where padding is, left, right or between.
        position_ids: [B or 1, N], rows of the learned positions; by default the real tokens are counted. The operator's
        own position bias always counts them.
        past_key_values: a cache to go on from; it is advanced in place.  use_cache: whether to return one; by default
        config.use_cache, and False in training.
        cu_seqlens: [S + 1] int, the boundaries of packed documents among the B N tokens read row by row, the rows' own
        among them. No document sees another, positions restart in each. No cache then.
        """
        check_input(self.config, input_ids, inputs_embeds, output_attentions)
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        B, N, C = x.shape
        if cu_seqlens is not None:
            check_packing(cu_seqlens, B, N, past_key_values, use_cache)
            use_cache = False
        cache = self._cache(past_key_values, use_cache)
        layers = state_layers(cache, len(self.blocks)) if cache is not None else [None] * len(self.blocks)
        mask = real_tokens(attention_mask, x, layers[0])
        if cu_seqlens is not None:  # one row, as the layers take packed documents
            x, mask = x.reshape(1, B * N, C), None if mask is None else mask.reshape(1, B * N)
            position_ids = None if position_ids is None else position_ids.expand(B, N).reshape(1, B * N)
        if self.positions is not None:
            if self.split_over is not None and position_ids is None:
                table = None if self.config.position_mode == "clamped" else self.config.max_position_embeddings
                position_ids = self.split_over.positions(x, mask, table)
            rows = positions_of(self.config, x, mask, cu_seqlens, position_ids, layers[0])
            x = x + self.positions(rows.to(self.positions.weight.device)).to(x.device)
        x = self.drop(x)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden = []
        for block, past in zip(self.blocks, layers):
            if output_hidden_states:
                hidden.append(x.view(B, N, C))
            x = block(x, mask, cu_seqlens, past)
        x = self.norm(x).view(B, N, C)
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


def stretched(table: Tensor, length: int) -> Tensor:
    """A table [rows, L] as [rows, length], its ends kept and read linearly in between."""
    wide = functional.interpolate(table[None].float(), size=length, mode="linear", align_corners=True)
    return wide[0].to(table.dtype)
