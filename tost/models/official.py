"""Checkpoints of the released vision code: their names and ours, both ways, bit for bit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from torch import Tensor

# published name, our name; {i} is a number, {2i} its double, {p} the last part (weight, bias, ...)
NAMES = [
    ("cls_token", "cls_token"),
    ("pos_embeder.token_projection.{p}", "pos_embed.proj.{p}"),
    ("patch_embed.proj.{2i}.0.{p}", "patch_embed.layers.{i}.conv.{p}"),
    ("patch_embed.proj.{2i}.1.{p}", "patch_embed.layers.{i}.norm.{p}"),
    ("blocks.{i}.norm1.{p}", "blocks.{i}.norm1.{p}"),
    ("blocks.{i}.attn.temp", "blocks.{i}.mixer.temperature"),
    ("blocks.{i}.attn.qkv.{p}", "blocks.{i}.mixer.in_proj.{p}"),
    ("blocks.{i}.attn.to_out.0.{p}", "blocks.{i}.mixer.out_proj.{p}"),
    ("blocks.{i}.gamma1", "blocks.{i}.gamma1"),
    ("blocks.{i}.norm2.{p}", "blocks.{i}.norm2.{p}"),
    ("blocks.{i}.mlp.fc1.{p}", "blocks.{i}.mlp.fc1.{p}"),
    ("blocks.{i}.mlp.fc2.{p}", "blocks.{i}.mlp.fc2.{p}"),
    ("blocks.{i}.gamma2", "blocks.{i}.gamma2"),
    ("cls_attn_blocks.{i}.norm1.{p}", "cls_blocks.{i}.norm1.{p}"),
    ("cls_attn_blocks.{i}.attn.qkv.{p}", "cls_blocks.{i}.attn.qkv.{p}"),
    ("cls_attn_blocks.{i}.attn.proj.{p}", "cls_blocks.{i}.attn.proj.{p}"),
    ("cls_attn_blocks.{i}.gamma1", "cls_blocks.{i}.gamma1"),
    ("cls_attn_blocks.{i}.norm2.{p}", "cls_blocks.{i}.norm2.{p}"),
    ("cls_attn_blocks.{i}.mlp.fc1.{p}", "cls_blocks.{i}.mlp.fc1.{p}"),
    ("cls_attn_blocks.{i}.mlp.fc2.{p}", "cls_blocks.{i}.mlp.fc2.{p}"),
    ("cls_attn_blocks.{i}.gamma2", "cls_blocks.{i}.gamma2"),
    ("norm.{p}", "norm.{p}"),
    ("head.{p}", "head.{p}"),
]
LAST = "weight|bias|running_mean|running_var|num_batches_tracked"


def from_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict from the released vision code's (its checkpoint["model"]); tensors are views, not copies.

    temp [H, 1] becomes temperature [H]; the 1x1 convolution [C, 2F, 1, 1] of the positions a linear layer [C, 2F].
    Raises ValueError naming the keys it doesn't know.
    """
    ours = dict(_rename(state_dict, to_ours=True))
    return {
        name: t.flatten(1) if name == POSITIONS else t.flatten() if name.endswith(TEMPERATURE) else t
        for name, t in ours.items()
    }


def to_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released code's state dict from ours: the inverse of from_official. Raises ValueError for unknown keys."""
    shaped = {
        name: t[:, :, None, None] if name == POSITIONS else t[:, None] if name.endswith(TEMPERATURE) else t
        for name, t in state_dict.items()
    }
    return dict(_rename(shaped, to_ours=False))


POSITIONS, TEMPERATURE = "pos_embed.proj.weight", ".temperature"


def _rename(state_dict: dict[str, Tensor], to_ours: bool) -> Iterator[tuple[str, Tensor]]:
    rules = [(p, o) if to_ours else (o, p) for p, o in NAMES]
    unknown = []
    for name, tensor in state_dict.items():
        for old, new in rules:
            match = re.fullmatch(_pattern(old), name)
            if match:
                found = match.groupdict()
                i = int(found.get("i") or 0) if "{i}" in old else int(found.get("ii") or 0) // 2
                new = new.replace("{i}", str(i)).replace("{2i}", str(2 * i))
                yield new.replace("{p}", found.get("p") or ""), tensor
                break
        else:
            unknown.append(name)
    if unknown:
        layout = "the released vision code" if to_ours else "a ToSTVision with the mixer 'tssa'"
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"not a state dict of {layout}: unknown keys {', '.join(unknown[:5])}{more} "
            "(a training checkpoint keeps the state dict under 'model')"
        )


def _pattern(template: str) -> str:
    """A regular expression for a name of the table."""
    escaped = template.replace(".", r"\.")
    return escaped.replace("{i}", r"(?P<i>\d+)").replace("{2i}", r"(?P<ii>\d+)").replace("{p}", f"(?P<p>{LAST})")
