"""The generic encoder: blocks over any sequence of tokens."""

# B batch, N tokens, C features

from __future__ import annotations

from torch import Tensor, nn

from tost.nn import Block, init_weights, no_weight_decay
from tost.nn.checks import check_tokens


class ToST(nn.Module):
    """A stack of blocks and a final LayerNorm: ToST(num_layers=12, dim=768, heads=12) on tokens [B, N, C] -> [B, N, C].

    mask: [B, N] bool, True = a real token; real tokens come out as they would without the others.
    cu_seqlens: boundaries of sequences packed along N (B = 1); each comes out as if it were alone.
    mixer: a name in tost.nn.MIXERS.  heads: another name for num_heads.
    layer_scale_init: 1.0 suits 12 layers, 1e-5 suits 24; None leaves LayerScale out.
    Raises ValueError for sizes that don't divide, an unknown mixer, or tokens of another width.
    """

    def __init__(
        self,
        num_layers: int = 12,
        dim: int = 768,
        num_heads: int | None = None,
        *,
        heads: int | None = None,
        mixer: str = "tssa",
        mlp_ratio: float = 4.0,
        drop: float = 0.0,
        attn_drop: float = 0.0,
        drop_path: float = 0.0,
        layer_scale_init: float | None = 1.0,
    ) -> None:
        super().__init__()
        if num_heads is not None and heads is not None:
            raise ValueError(f"ToST: heads is another name for num_heads; pass one, got {heads} and {num_heads}")
        num_heads = num_heads or heads or 12
        self.dim, self.num_heads = dim, num_heads
        self.blocks = nn.ModuleList(
            Block(
                dim,
                num_heads,
                mixer,
                mlp_ratio=mlp_ratio,
                drop=drop,
                attn_drop=attn_drop,
                drop_path=drop_path,
                layer_scale_init=layer_scale_init,
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        init_weights(self)

    def forward(self, x: Tensor, mask: Tensor | None = None, cu_seqlens: Tensor | None = None) -> Tensor:
        check_tokens("ToST", x, self.dim)
        for block in self.blocks:
            x = block(x, mask=mask, cu_seqlens=cu_seqlens)
        return self.norm(x)

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay."""
        return no_weight_decay(self)
