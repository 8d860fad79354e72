"""Context parallelism of whole models: every process has a stretch of each sequence's tokens, layers exchange sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from tost.nn.causal_controls import CausalNone
from tost.nn.causal_mixture import CausalMixture
from tost.nn.causal_softmax import CausalSoftmax
from tost.nn.cbsa import CBSA
from tost.nn.class_attention import ClassAttention
from tost.nn.mixers import NoMixing, QKVMixer
from tost.nn.patch_embed import ConvPatchEmbed
from tost.nn.short_conv import ShortConv
from tost.nn.split import Split
from tost.nn.tssa2d import TSSA2d
from tost.nn.tssa_variants import TSSAVariant

MIXING = (
    *(QKVMixer, CBSA, TSSAVariant, TSSA2d, CausalMixture, CausalSoftmax, ShortConv, ClassAttention, ConvPatchEmbed),
    *(nn.MultiheadAttention, nn.RNNBase, nn.modules.batchnorm._BatchNorm),
)
ALONE = (NoMixing, CausalNone)  # no token sees another


@contextmanager
def context_parallel(model: nn.Module, group: Any = None) -> Iterator[Split]:
    """A `with` in which `model` takes one stretch of every sequence and the other processes of `group` take the others.

        with context_parallel(model, group) as split:
            loss = split.mean(token_loss(model(split.take(tokens)), split.take(targets)))
            loss.backward()

    All processes of `group` (None: of all) have the same rows, the first rank their first tokens and so on, and all go
    through the same backward pass. Stretches may differ in length and be empty. The mixers tssa and none work, so
    TSSA, CausalTSSA, Block, CausalBlock, ToST, ToSTSequence with every pooling, and ToSTForCausalLM up to its logits.
    Each layer sends H (2D + 1) sums, whatever the length. Pooled vectors are whole in every process, positions go on
    from one to the next. Dropout that is drawn once a sequence is shared; that of single tokens is each process's own.
    Average the parameters' gradients over the processes, as DDP and FSDP do.
    Raises ValueError for a model with other mixers of tokens, and without a process group.
    """
    check_splits(model)
    split = Split(group)
    parts: list[Any] = [module for module in model.modules() if hasattr(type(module), "split_over")]
    outer = [part.split_over for part in parts]
    try:
        for part in parts:
            part.split_over = split
        yield split
    finally:
        for part, old in zip(parts, outer):
            part.split_over = old


def check_splits(model: nn.Module) -> None:
    """Raise ValueError if a part of `model` mixes tokens in a way that can't be split over processes."""
    wrong = []
    for name, module in model.named_modules():
        mixer = getattr(module, "mixer", None)
        if isinstance(module, MIXING):
            wrong.append(f"{name or 'the model'} ({type(module).__name__})")
        elif isinstance(mixer, nn.Module) and not (isinstance(mixer, (*MIXING, *ALONE)) or splits(mixer)):
            wrong.append(f"{name}.mixer ({type(mixer).__name__})".lstrip("."))
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(
            f"context_parallel expects token statistics (the mixers tssa, none) and token-wise layers, got {shown}; "
            "build the model with mixer='tssa', or let each process have whole sequences"
        )


def splits(mixer: nn.Module) -> bool:
    """Whether a layer works on a stretch of a sequence."""
    return hasattr(type(mixer), "split_over")
