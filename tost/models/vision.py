"""The vision backbone: convolutional stem, token-statistics blocks, class attention (arXiv 2412.17810, section 4)."""

# B batch, N = Hp*Wp patches, C features

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tost.models.pretrained import SafetensorsModel
from tost.models.vision_config import VisionConfig
from tost.nn import Block, ClassAttentionBlock, ConvPatchEmbed, FourierPositions, init_weights, no_weight_decay

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class ToSTVision(
    nn.Module,
    SafetensorsModel,
    library_name="tost",
    license="apache-2.0",
    tags=["image-classification", "token-statistics-transformer"],
    paper_url="https://arxiv.org/abs/2412.17810",
):
    """ToST for images: [B, in_chans, H, W], H and W divisible by the patch -> logits [B, num_classes].

        tokens = stem(x) + positions      L blocks      [CLS] gathers in class-attention blocks      LN, linear head

    It follows timm's model contract, and always returns one tensor (the released code returns a pair in training).
    With global_pool="avg" the patches are averaged after the class-attention blocks, and [CLS] learns nothing.
    Raises ValueError for sizes that don't divide.
    """

    undecayed = ("cls_token",)

    def __init__(self, config: VisionConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or VisionConfig()
        self.num_classes, self.num_features, self.global_pool = c.num_classes, c.dim, c.global_pool
        self.embed_dim = self.head_hidden_size = c.dim
        self.grad_checkpointing = False
        self.patch_embed = ConvPatchEmbed(c.patch_size, c.in_chans, c.dim)
        self.pos_embed = FourierPositions(c.dim)
        self.pos_drop = nn.Dropout(c.drop_rate)
        shared: dict[str, Any] = {
            "mlp_ratio": c.mlp_ratio,
            "drop": c.drop_rate,
            "attn_drop": c.attn_drop_rate,
            "layer_scale_init": c.layer_scale_init,
        }
        self.blocks = nn.ModuleList(
            Block(c.dim, c.num_heads, c.mixer, drop_path=c.drop_path_rate, feed_forward=c.feed_forward, **shared)
            for _ in range(c.num_layers)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, c.dim))
        self.cls_blocks = nn.ModuleList(
            ClassAttentionBlock(c.dim, c.num_heads, **shared) for _ in range(c.num_cls_layers)
        )
        self.norm = nn.LayerNorm(c.dim, eps=1e-6)
        self.head = nn.Linear(c.dim, c.num_classes) if c.num_classes else nn.Identity()
        self.feature_info = [
            {"num_chs": c.dim, "reduction": c.patch_size, "module": f"blocks.{i}"} for i in range(c.num_layers)
        ]
        self.default_cfg = self.pretrained_cfg = default_cfg(c)
        init_weights(self)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """[B, 1 + N, C]: the normalised [CLS] token, then the patches in row order."""
        tokens, _ = self._embed(x)
        for block in self.blocks:
            tokens = self._run(block, tokens)
        return self._gather(tokens)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits [B, num_classes], or with pre_logits the pooled features [B, C], of forward_features' result."""
        x = x[:, 0] if self.global_pool == "token" else x[:, 1:].mean(dim=1)
        return x if pre_logits else self.head(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Any] | tuple[Tensor, list[Any]]:
        """Outputs of some blocks, as maps [B, C, Hp, Wp] ("NCHW") or tokens [B, N, C] ("NLC"); norm: after the LN.

        indices: the last n blocks (int), these blocks (sequence, negative from the end), or all (None).
        Returns (forward_features(x), outputs), or the outputs alone with intermediates_only; stop_early then skips the
        blocks after the last one asked for. return_prefix_tokens pairs each output with its prefix tokens, of which
        there are none, [B, 0, C]: the [CLS] token joins after the blocks.
        """
        if output_fmt not in ("NCHW", "NLC"):
            raise ValueError(f"forward_intermediates: output_fmt is 'NCHW' or 'NLC', got {output_fmt!r}")
        take = take_indices(len(self.blocks), indices)
        tokens, (height, width) = self._embed(x)
        found: dict[int, Any] = {}
        for i, block in enumerate(self.blocks):
            if stop_early and intermediates_only and i > max(take):
                break
            tokens = self._run(block, tokens)
            if i in take:
                y = self.norm(tokens) if norm else tokens
                out = y.transpose(1, 2).unflatten(2, (height, width)) if output_fmt == "NCHW" else y
                found[i] = (out, y[:, :0]) if return_prefix_tokens else out
        outputs = [found[i] for i in take]
        return outputs if intermediates_only else (self._gather(tokens), outputs)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop what forward_intermediates(indices, intermediates_only=True) leaves unused; returns absolute indices."""
        take = take_indices(len(self.blocks), indices)
        self.blocks = self.blocks[: max(take) + 1]
        if prune_norm:
            self.norm = nn.Identity()  # type: ignore[assignment]
        if prune_head:
            self.cls_blocks = nn.ModuleList()
            self.reset_classifier(0)
        return take

    def get_classifier(self) -> nn.Module:
        """The linear head (an identity if num_classes is 0)."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh head for num_classes (0: none), on the model's device and in its dtype."""
        self.config = replace(self.config, num_classes=num_classes, global_pool=global_pool or self.global_pool)
        self._hub_mixin_config = self.config  # what save_pretrained and push_to_hub describe
        self.num_classes, self.global_pool = num_classes, self.config.global_pool
        self.default_cfg = self.pretrained_cfg = {**self.default_cfg, "num_classes": num_classes}
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes).to(self.cls_token)
            init_weights(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute every block in the backward pass instead of keeping its activations."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Names of the parameters that an optimiser should not decay, as their modules say."""
        return no_weight_decay(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns for layer-wise learning rates; coarse keeps the blocks together."""
        return {
            "stem": r"^cls_token|^pos_embed|^patch_embed",
            "blocks": r"^blocks" if coarse else [(r"^blocks\.(\d+)", None)],
            "cls_blocks": r"^cls_blocks|^norm" if coarse else [(r"^cls_blocks\.(\d+)", None), (r"^norm", (99999,))],
        }

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        tokens, (height, width) = self.patch_embed(x)
        return self.pos_drop(tokens + self.pos_embed(height, width)), (height, width)

    def _gather(self, tokens: Tensor) -> Tensor:
        cls = self.cls_token.expand(tokens.shape[0], -1, -1)
        for block in self.cls_blocks:
            cls, tokens = self._run(block, cls, tokens)
        return self.norm(torch.cat((cls, tokens), dim=1))

    def _run(self, block: nn.Module, *inputs: Tensor) -> Any:
        if self.grad_checkpointing and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)
        return block(*inputs)


def take_indices(count: int, indices: int | Sequence[int] | None) -> list[int]:
    """Absolute positions among `count` blocks: the last n (int), those given, or all (None); ValueError beyond them."""
    if indices is None:
        indices = count
    if isinstance(indices, int):
        asked = list(range(count - indices, count))
    else:
        asked = [count + i if i < 0 else i for i in indices]
    if not asked or not all(0 <= i < count for i in asked):
        raise ValueError(f"indices choose among {count} blocks (an int n: the last n), got {indices}")
    return asked


def default_cfg(config: VisionConfig) -> dict[str, Any]:
    """timm's description of a model and of the images it expects."""
    return {
        "url": "",
        "architecture": config.name,
        "num_classes": config.num_classes,
        "input_size": (config.in_chans, *config.image_size),
        "fixed_input_size": False,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "patch_embed.layers.0.conv",
        "classifier": "head",
        "license": "apache-2.0",
    }
