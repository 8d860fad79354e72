"""What defines a language model."""

# L positions, C = hidden_size, H heads

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig

LAYER_TYPE = "token_statistics"  # the name under which transformers finds the cache layer
POSITION_MODES = ("learned", "clamped", "rotary", "none")
NORMS, MLPS = ("layer", "rms"), ("gelu", "swiglu")
MIXERS = ("tssa", "softmax", "none", "token")  # tost.nn.CAUSAL_MIXERS


class ToSTConfig(PreTrainedConfig):
    """Sizes and options of a causal ToST; the defaults are the published Base model (110M parameters).

    max_position_embeddings L: rows of the learned positions [L, C] and of each layer's position bias [H, L].
    position_mode: what happens at token L + 1. "learned", as published: ValueError. "clamped": it and all later tokens
    reuse the last row of both tables. "rotary": softmax layers turn queries and keys instead, tssa
    layers need nothing.  "none": nothing.
    layer_scale_init: the initial factor of every residual branch, None for no factors.  dropout: as GPT-2, after the
    embedding, on 1 / (1 + m), and at the end of both branches.

    Options beyond the paper, all off by default; docs/math.md has their equations:
    mixer: "tssa", "softmax" (GPT-2's), "none" or "token" (controls without memory); a list is repeated over the layers.
    conv_width: a causal convolution of so many tokens before every mixer (0: none).
    half_lives: tokens after which a head's statistics count half (0: never forget), repeated over the heads.
    learn_decay: the half-lives are learned, and these their initial values.
    separate_values, group_means, full_covariance, length_temperature: of tssa layers (tost.nn.causal_mixture).
    output_gate, head_norm: of every mixer (tost.nn.readout).
    norm: "layer" or "rms".  mlp: "gelu" or "swiglu".
    intermediate_size: hidden features of the MLP, or a list repeated over the layers (None: 4 C; swiglu: 8 C / 3).
    Raises ValueError for sizes that don't divide and for options out of range.
    """

    model_type = "tost"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]  # a list: Trainer.evaluate adds to it

    vocab_size: int = 50304  # GPT-2's 50257, padded to a multiple of 64
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    max_position_embeddings: int = 1024
    position_mode: str = "learned"
    layer_scale_init: float | None = 1e-5
    mixer: str | list[str] = "tssa"
    conv_width: int = 0
    half_lives: list[float] | None = None
    learn_decay: bool = False
    separate_values: bool = False
    group_means: bool = False
    full_covariance: bool = False
    length_temperature: bool = False
    output_gate: bool = False
    head_norm: bool = False
    norm: str = "layer"
    mlp: str = "gelu"
    intermediate_size: int | list[int] | None = None
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
        choices = {"position_mode": POSITION_MODES, "norm": NORMS, "mlp": MLPS}
        given = [(name, getattr(self, name), known) for name, known in choices.items()]
        for name, value, known in [*given, *(("mixer", mixer, MIXERS) for mixer in self.mixers)]:
            if value not in known:
                raise ValueError(f"ToSTConfig expects {name} in {known}, got {value!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"ToSTConfig expects dropout in [0, 1), got {self.dropout}")
        if self.conv_width < 0 or self.conv_width == 1:
            raise ValueError(
                f"ToSTConfig expects conv_width of 2 tokens at least, or 0 for none, got {self.conv_width}"
            )
        if self.learn_decay and not self.half_lives:
            raise ValueError(
                "ToSTConfig learns half-lives from their initial values; give half_lives, such as [4, 16, 64]"
            )
        for tokens in self.half_lives or ():
            if tokens < 0 or (self.learn_decay and not tokens):
                raise ValueError(
                    f"ToSTConfig expects half_lives in tokens, 0 for never (not with learn_decay), got {tokens}"
                )

    @property
    def mixers(self) -> list[str]:
        """The mixer of every layer: `mixer`, repeated."""
        names = [self.mixer] if isinstance(self.mixer, str) else self.mixer
        if not names:
            raise ValueError("ToSTConfig expects a mixer, or a list of them, got an empty list")
        return [names[i % len(names)] for i in range(self.num_hidden_layers)]

    @property
    def decay(self) -> list[float] | None:
        """What of a head's statistics survives a token, for every head: 2^(-1 / half-life)."""
        if not self.half_lives:
            return None
        tokens = [self.half_lives[i % len(self.half_lives)] for i in range(self.num_attention_heads)]
        return [2 ** (-1 / t) if t else 1.0 for t in tokens]

    @property
    def tables(self) -> bool:
        """Whether there are learned positions."""
        return self.position_mode in ("learned", "clamped")

    def hidden_features(self, layer: int) -> int:
        """Hidden features of a layer's MLP."""
        given = self.intermediate_size
        if isinstance(given, list):
            given = given[layer % len(given)]
        return given or (4 * self.hidden_size if self.mlp == "gelu" else 8 * self.hidden_size // 3)

    @property
    def layer_types(self) -> list[str]:
        """One name a layer, from which transformers builds the cache by itself."""
        return [LAYER_TYPE] * self.num_hidden_layers
