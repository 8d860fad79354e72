"""A block whose tokens see only those before them, and which can go on from a state."""

# B batch, N tokens, C features

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tost.nn.block import Block
from tost.nn.causal_mixers import CAUSAL_MIXERS


class CausalBlock(Block):
    """Block with a causal mixer: any split of a sequence over calls gives what one call gives.

    x: [B, N, C] -> [B, N, C], or (that, the mixer's state) with return_state=True; `state` goes on from one.
    mixer: a name in CAUSAL_MIXERS.  decay: of CausalTSSA, what of the statistics survives a token (None: all).
    options: those of Block.  Raises ValueError for an unknown mixer, and for a decay of another than tssa.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mixer: str = "tssa",
        *,
        decay: float | Sequence[float] | None = None,
        bias: bool = True,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(dim, num_heads, "none", bias=bias, drop=drop, **options)
        if mixer not in CAUSAL_MIXERS:
            raise ValueError(f"unknown causal mixer {mixer!r}; choose one of {', '.join(CAUSAL_MIXERS)}")
        own: dict[str, Any] = {"decay": decay} if mixer == "tssa" else {}
        if decay is not None and not own:
            raise ValueError(f"decay is an option of the mixer 'tssa', got the mixer {mixer!r}; leave decay out")
        self.mixer_name = mixer
        self.mixer = CAUSAL_MIXERS[mixer](dim, num_heads, bias=bias, attn_drop=attn_drop, proj_drop=drop, **own)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
        state: Any = None,
        return_state: bool = False,
    ) -> Any:
        h = self.norm1(x) if self.norm_first else x
        if not return_state:
            return self._finish(x, self.mixer(h, mask=mask, cu_seqlens=cu_seqlens, state=state))
        mixed, state = self.mixer(h, mask=mask, cu_seqlens=cu_seqlens, state=state, return_state=True)
        return self._finish(x, mixed), state
