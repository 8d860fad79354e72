"""What defines a language model."""

# L positions, C = hidden_size

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig

LAYER_TYPE = "token_statistics"  # the name under which transformers finds the cache layer
POSITION_MODES = ("learned", "clamped", "none")


class ToSTConfig(PreTrainedConfig):
    """Sizes and options of a causal ToST; the defaults are the published Base model (110M parameters).

    max_position_embeddings L: rows of the learned positions [L, C] and of each layer's position bias [H, L].
    position_mode: what happens at token L + 1. "learned", as published: ValueError. "clamped": it and all later tokens
    reuse the last row of both tables. "none": there are no tables.
    layer_scale_init: the initial factor of every residual branch.  dropout: as GPT-2, after the embedding, on
    1 / (1 + m), and at the end of both branches.
    Raises ValueError for sizes that don't divide and for options out of range.
    """

    model_type = "tost"
    keys_to_ignore_at_inference = ("past_key_values",)

    vocab_size: int = 50304  # GPT-2's 50257, padded to a multiple of 64
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 1024
    position_mode: str = "learned"
    layer_scale_init: float = 1e-5
    bias: bool = False
    dropout: float = 0.0
    layer_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.validate()

    def validate(self) -> None:
        """Raise ValueError unless the options fit together; transformers asks again before it saves."""
        for name in (
            "vocab_size",
            "hidden_size",
            "num_hidden_layers",
            "num_attention_heads",
            "max_position_embeddings",
        ):
            if not getattr(self, name) >= 1:
                raise ValueError(f"ToSTConfig expects {name} of at least 1, got {getattr(self, name)}")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"ToSTConfig splits hidden_size into num_attention_heads equal heads, got {self.hidden_size} and "
                f"{self.num_attention_heads}; choose a hidden_size that num_attention_heads divides"
            )
        if self.position_mode not in POSITION_MODES:
            raise ValueError(f"ToSTConfig expects position_mode in {POSITION_MODES}, got {self.position_mode!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"ToSTConfig expects dropout in [0, 1), got {self.dropout}")

    @property
    def layer_types(self) -> list[str]:
        """One name a layer, from which transformers builds the cache by itself."""
        return [LAYER_TYPE] * self.num_hidden_layers
