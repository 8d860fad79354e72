"""What defines a model of sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tost.models.configuration import Fields
from tost.nn.pooling import POOLS

POSITIONS = ("sinusoidal", "learned", "none")


@dataclass(frozen=True)
class SequenceConfig(Fields):
    """Sizes and options of a ToSTSequence."""

    SIGN: ClassVar[str] = "vocab_size"

    name: str = "sequence"
    vocab_size: int = 0  # tokens are ids below it; 0: every token is a row of in_features numbers
    in_features: int = 0
    num_classes: int = 2  # 0: no classifier
    max_length: int = 1024  # of the table of learned positions; other positions have no end
    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 256
    mixer: str = "tssa"
    positions: str = "sinusoidal"
    pool: str = "mean"  # or "max", "last": one vector for a sequence
    pair: bool = False  # classify two sequences together
    per_token: bool = False  # classify every token
    causal: bool = False  # a token sees those before it: the model can stream
    decay: float | None = None  # of causal tssa, what of the statistics survives a token
    norm_first: bool = True
    layer_scale_init: float | None = None
    drop: float = 0.0
    attn_drop: float = 0.0

    def __post_init__(self) -> None:
        if (self.vocab_size > 0) == (self.in_features > 0):
            raise ValueError(
                "SequenceConfig wants vocab_size (tokens are ids) or in_features (tokens are rows of numbers), "
                f"one of them above 0, got {self.vocab_size} and {self.in_features}"
            )
        if self.positions not in POSITIONS:
            raise ValueError(f"positions is one of {', '.join(POSITIONS)}, got {self.positions!r}")
        if self.pool not in POOLS:
            raise ValueError(f"pool is one of {', '.join(POOLS)}, got {self.pool!r}")
        if self.pair and (self.per_token or self.causal):
            raise ValueError("a pair of sequences is classified as a whole; leave per_token and causal out")
        if self.decay is not None and not self.causal:
            raise ValueError("decay is of causal statistics; set causal as well, or leave decay out")
        if min(self.num_layers, self.mlp_dim, self.max_length) < 1 or self.num_classes < 0:
            raise ValueError(
                "SequenceConfig wants num_layers, mlp_dim and max_length above 0 and num_classes from 0, got "
                f"{self.num_layers}, {self.mlp_dim}, {self.max_length} and {self.num_classes}"
            )
