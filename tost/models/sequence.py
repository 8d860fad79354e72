"""Sequences of any length: an encoder with a head for one sequence, two, or every token; it streams if causal."""

# B batch, N tokens, C features, F numbers of a token, K classes, S packed sequences, P pairs

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tost.models.pretrained import SafetensorsModel
from tost.models.sequence_config import SequenceConfig
from tost.nn import Block, init_weights, no_weight_decay
from tost.nn.causal_block import CausalBlock
from tost.nn.order import token_positions
from tost.nn.pooling import PoolState, pool, pool_stream
from tost.nn.split import Split, refuse


class SequenceState(NamedTuple):
    """All that a causal ToSTSequence remembers: a state of each layer, and of the pooling. Its size is constant.

    tost.nn.states.map_state and state_tensors work on it: map_state(state, lambda t: t[rows]) takes some of the batch.
    """

    layers: tuple[Any, ...]
    pooled: PoolState

    @property
    def length(self) -> Tensor:
        """[B] int64, real tokens so far."""
        return self.pooled.length


class ToSTSequence(
    nn.Module,
    SafetensorsModel,
    library_name="tost",
    license="apache-2.0",
    tags=["token-statistics-transformer"],
    paper_url="https://arxiv.org/abs/2412.17810",
):
    """ToST for sequences: ids [B, N] or numbers [B, N, F] -> logits [B, K].

        tokens = embedding(x) + positions      L blocks, LN      mean, maximum or last of the tokens, linear head

    mask: [B, N] bool, True = a real token.  cu_seqlens: [S + 1], sequences packed along N (B = 1) -> [S, K]; each comes
    out as if it were alone.  pair: sequences 2i and 2i + 1 are a pair, [P, K] from (u, v, u v, u - v) of their vectors.
    per_token: [B, N, K].  causal: a token sees those before it, and `stream` goes on from a state.
    Raises ValueError for ids outside the vocabulary, numbers of another width, an odd number of sequences of pairs.
    """

    config_class = SequenceConfig
    config: SequenceConfig
    split_over: Split | None = None  # other processes, while they hold other stretches of the sequences

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        self.config = c = config
        self.num_classes, self.grad_checkpointing = c.num_classes, False
        self.embed = nn.Embedding(c.vocab_size, c.dim) if c.vocab_size else nn.Linear(c.in_features, c.dim)
        self.positions = nn.Parameter(torch.randn(c.max_length, c.dim) * 0.02) if c.positions == "learned" else None
        self.drop = nn.Dropout(c.drop)
        shared: dict[str, Any] = {
            "mlp_ratio": c.mlp_dim / c.dim,
            "drop": c.drop,
            "attn_drop": c.attn_drop,
            "layer_scale_init": c.layer_scale_init,
            "norm_first": c.norm_first,
        }
        if c.causal:
            shared["decay"] = c.decay
        kind = CausalBlock if c.causal else Block
        self.blocks = nn.ModuleList(kind(c.dim, c.num_heads, c.mixer, **shared) for _ in range(c.num_layers))
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.compare = nn.Sequential(nn.Linear(4 * c.dim, c.dim), nn.GELU()) if c.pair else None
        self.head = nn.Linear(c.dim, c.num_classes) if c.num_classes else nn.Identity()
        init_weights(self)
        if not c.vocab_size:  # numbers of unit scale become features of unit scale, as embeddings are
            nn.init.normal_(self.embed.weight, std=c.in_features**-0.5)

    undecayed = ("positions",)

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        tokens = self.forward_features(x, mask, cu_seqlens)
        if self.config.per_token:
            return self.head(tokens)
        return self.head(self.pooled(tokens, mask, cu_seqlens))

    def forward_features(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """The normalised tokens [B, N, C] of the last block."""
        if self.split_over is None:
            positions = token_positions(x, mask, cu_seqlens, None)
        else:
            positions = self.split_over.positions(x, mask, None if self.positions is None else self.config.max_length)
        tokens = self._embed(x, positions)
        for block in self.blocks:
            if self.grad_checkpointing and self.training:
                tokens = checkpoint(block, tokens, mask, cu_seqlens, use_reentrant=False)
            else:
                tokens = block(tokens, mask=mask, cu_seqlens=cu_seqlens)
        return self.norm(tokens)

    def pooled(self, tokens: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        """The vector of each sequence [B, C], or of each pair [P, C], that the head reads."""
        take = pool if self.split_over is None else self.split_over.pool
        pooled = take(tokens, self.config.pool, mask, cu_seqlens)
        if self.compare is None:
            return pooled
        if len(pooled) % 2:
            raise ValueError(f"ToSTSequence compares pairs: an even number of sequences, got {len(pooled)}")
        u, v = pooled[0::2], pooled[1::2]
        return self.compare(torch.cat([u, v, u * v, u - v], -1))

    def stream(
        self, x: Tensor, state: SequenceState | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor, SequenceState]:
        """(logits [B, N, K] after each token, tokens [B, N, C], the state to go on from): any split gives the same.

        The logits are those of the sequence up to there, or of the token itself with per_token. After a masked token
        they, and the state, are what they were. Raises ValueError if the model is not causal.
        """
        if self.split_over is not None:
            refuse("a stream")
        if not self.config.causal:
            raise ValueError("ToSTSequence streams when it is causal; build or train it with causal=True")
        length = None if state is None else state.length
        tokens, layers = self._embed(x, token_positions(x, mask, None, length)), []
        for i, block in enumerate(self.blocks):
            tokens, layer = block(tokens, mask=mask, state=state and state.layers[i], return_state=True)
            layers.append(layer)
        tokens = self.norm(tokens)
        pooled, end = pool_stream(tokens, self.config.pool, mask, state and state.pooled)
        logits = self.head(tokens if self.config.per_token else pooled)
        return logits, tokens, SequenceState(tuple(layers), end)

    def _embed(self, x: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, N, C] of ids [B, N] or numbers [B, N, F], at positions [B or 1, N]."""
        c = self.config
        if c.vocab_size and (x.ndim != 2 or x.is_floating_point()):
            raise ValueError(f"ToSTSequence expects ids of shape [B, N], got {x.dtype} {list(x.shape)}")
        if not c.vocab_size and (x.ndim != 3 or x.shape[-1] != c.in_features):
            raise ValueError(f"ToSTSequence expects numbers of shape [B, N, {c.in_features}], got {list(x.shape)}")
        if (
            c.vocab_size
            and x.device.type == "cpu"
            and x.numel()
            and not 0 <= int(x.min()) <= int(x.max()) < c.vocab_size
        ):
            raise ValueError(f"ToSTSequence knows ids 0 to {c.vocab_size - 1}, got {int(x.min())} to {int(x.max())}")
        tokens = self.embed(x.long() if c.vocab_size else x.to(self.embed.weight.dtype))
        if self.positions is not None:
            if positions.numel() and int(positions.max()) >= c.max_length:
                raise ValueError(
                    f"this model has learned positions for {c.max_length} tokens, got {int(positions.max()) + 1}; cut "
                    "the sequence, or build it with positions='sinusoidal'"
                )
            tokens = tokens + self.positions[positions]
        elif c.positions == "sinusoidal":
            tokens = tokens + sinusoids(positions, c.dim).to(tokens.dtype)
        return self.drop(tokens)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks' activations in the backward pass to save memory."""
        self.grad_checkpointing = enable

    def reset_classifier(self, num_classes: int) -> None:
        """A fresh head for other classes; 0 leaves the vectors as they are."""
        self.config = self.config.with_fields(num_classes=num_classes)
        self.num_classes = num_classes
        self.head = nn.Linear(self.config.dim, num_classes) if num_classes else nn.Identity()
        init_weights(self.head)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay."""
        return no_weight_decay(self)


def sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions [...] at dim / 2 wavelengths (arXiv 1706.03762): [..., dim] float32.

    The angles are float64: float32 would blur neighbours after ten million tokens.
    """
    half = (dim + 1) // 2
    frequency = 10000.0 ** (-torch.arange(half, device=positions.device, dtype=torch.float64) / half)
    angle = positions[..., None].double() * frequency
    return torch.cat([angle.sin(), angle.cos()], -1)[..., :dim].float()
