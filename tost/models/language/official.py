"""Checkpoints of the released language code: their names and ours, both ways, bit for bit."""

# H heads, L positions, C features

from __future__ import annotations

import re

from torch import Tensor

from tost.models.language.config import ToSTConfig

# published name, our name; {i} is the layer, {p} weight or bias. The released code is nanoGPT with another attention.
NAMES = [
    ("transformer.wte.{p}", "model.embedding.{p}"),
    ("transformer.wpe.{p}", "model.positions.{p}"),
    ("transformer.h.{i}.ln_1.{p}", "model.blocks.{i}.norm1.{p}"),
    ("transformer.h.{i}.attn.temp", "model.blocks.{i}.mixer.temperature"),
    ("transformer.h.{i}.attn.denom_bias", "model.blocks.{i}.mixer.position_bias"),
    ("transformer.h.{i}.attn.c_attn.{p}", "model.blocks.{i}.mixer.in_proj.{p}"),
    ("transformer.h.{i}.attn.c_proj.{p}", "model.blocks.{i}.mixer.out_proj.{p}"),
    ("transformer.h.{i}.gamma1", "model.blocks.{i}.gamma1"),
    ("transformer.h.{i}.ln_2.{p}", "model.blocks.{i}.norm2.{p}"),
    ("transformer.h.{i}.mlp.c_fc.{p}", "model.blocks.{i}.mlp.fc1.{p}"),
    ("transformer.h.{i}.mlp.c_proj.{p}", "model.blocks.{i}.mlp.fc2.{p}"),
    ("transformer.h.{i}.gamma2", "model.blocks.{i}.gamma2"),
    ("transformer.ln_f.{p}", "model.norm.{p}"),
    ("lm_head.{p}", "lm_head.{p}"),
]
COMPILED = "_orig_mod."  # torch.compile's prefix, in every checkpoint that was trained compiled


def from_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """ToSTForCausalLM's state dict from the released code's (its checkpoint["model"]); tensors are views, not copies.

    temp [H, 1] becomes temperature [H], denom_bias [H, L, 1] position_bias [H, L].
    Raises ValueError naming the keys it doesn't know.
    """
    stripped = {name.removeprefix(COMPILED): t for name, t in state_dict.items()}
    ours = _rename(stripped, [(_pattern(theirs), our) for theirs, our in NAMES], "the released language code")
    return {name: t.squeeze(-1) if name.endswith(SQUEEZED) else t for name, t in ours.items()}


def to_official(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The released code's state dict from ToSTForCausalLM's: the inverse of from_official.

    Raises ValueError naming the keys it doesn't know.
    """
    theirs = {name: t.unsqueeze(-1) if name.endswith(SQUEEZED) else t for name, t in state_dict.items()}
    return _rename(theirs, [(_pattern(our), their) for their, our in NAMES], "a ToSTForCausalLM")


def config_from_official(state_dict: dict[str, Tensor]) -> ToSTConfig:
    """The configuration that a released checkpoint's state dict has, read off its shapes."""
    state = from_official(state_dict)
    H, L = state["model.blocks.0.mixer.position_bias"].shape
    V, C = state["model.embedding.weight"].shape
    return ToSTConfig(
        vocab_size=V,
        hidden_size=C,
        num_hidden_layers=1 + max(int(n.split(".")[2]) for n in state if n.startswith("model.blocks.")),
        num_attention_heads=H,
        max_position_embeddings=L,
        bias="model.norm.bias" in state,
    )


SQUEEZED = (".temperature", ".position_bias")


def _rename(state_dict: dict[str, Tensor], rules: list[tuple[str, str]], layout: str) -> dict[str, Tensor]:
    renamed, unknown = {}, []
    for name, tensor in state_dict.items():
        for pattern, new in rules:
            match = re.fullmatch(pattern, name)
            if match:
                renamed[new.format(**{"i": "", "p": "", **match.groupdict()})] = tensor
                break
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise ValueError(
            f"not a state dict of {layout}: unknown keys {', '.join(unknown[:5])}{more} "
            "(a training checkpoint keeps the state dict under 'model')"
        )
    return renamed


def _pattern(template: str) -> str:
    """A regular expression for a name of the table."""
    return template.replace(".", r"\.").replace("{i}", r"(?P<i>\d+)").replace("{p}", "(?P<p>weight|bias)")
