"""Watching a model compress: rates and memberships of every layer, by hooks that leave the model as it was."""

# B batch, N tokens, H heads, D features per head, C = H*D, L layers

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tost.nn import TSSA, CausalTSSA, ClassAttention
from tost.rates.concave import Concave, LogRate
from tost.rates.rates import projected_rate


@dataclass(frozen=True)
class RateRecord:
    """Variational compression rate of every layer and sample, in nats per token (see `record_rates`).

    layers: L module names.  before, mixed, after: [L, B] at the block's input, after its attention half, at its output.
    """

    layers: list[str]
    before: Tensor
    mixed: Tensor
    after: Tensor

    def mean(self, which: str = "after") -> Tensor:
        """[L], mean over the samples."""
        return getattr(self, which).mean(1)

    def spread(self, which: str = "after") -> Tensor:
        """[L], standard deviation over the samples (0 for a single one)."""
        rates = getattr(self, which)
        return rates.std(1) if rates.shape[1] > 1 else torch.zeros_like(rates[:, 0])

    @staticmethod
    def cat(records: Sequence[RateRecord]) -> RateRecord:
        """One record of the samples of several batches."""
        parts = [torch.cat([getattr(r, which) for r in records], 1) for which in ("before", "mixed", "after")]
        return RateRecord(records[0].layers, *parts)


@torch.no_grad()
def record_rates(model: nn.Module, batch: Any, *, f: Concave | None = None) -> RateRecord:
    """Rvar_c of every block's input and output, in the block's own subspaces and with the block's own memberships.

    For a block with a token-statistics mixer, with x the block's input, x' after its attention half, x'' its output:

        w(z) = in_proj(LN1(z)), split into heads       Pi = the operator's memberships for w(x)
        before = Rvar(w(x), Pi)      mixed = Rvar(w(x'), Pi)      after = Rvar(w(x''), Pi)

    that is, tokens as the operator sees them: normalised by the block's LN1 (and mixed by its short convolution, if it
    has one), projected by in_proj (whose rows by head are U, bias included). The operator is a descent step on this
    quantity for fixed Pi, so Pi stays that of the input.
    Rvar is `projected_rate` with f, by default log(1 + x), the one that the operator's gate 1 / (1 + m) descends.
    A learned U isn't orthonormal, so the numbers of two layers are in units of their own; before and after share them.

    model: any module with such blocks (ToSTVision, ToSTEncoder, ToSTForCausalLM), run in eval mode; its modes come
    back, nothing else of it changes.
    batch: the tensor it takes, or a tuple or a mapping of its arguments.  Masks given to a block are honoured.
    Raises ValueError if no block has a token-statistics mixer, tokens come packed or go on from a cache.
    """
    rate = f or LogRate(1.0)
    blocks = _blocks(model)
    found: dict[str, dict[str, Tensor]] = {name: {} for name in blocks}

    def watch(name: str, block: Any) -> Iterator[Any]:
        seen: dict[str, Tensor] = {}

        def start(_: nn.Module, inputs: tuple, given: dict[str, Any]) -> None:
            seen["before"] = _arguments(inputs, given, ("x", "mask", "cu_seqlens", "past"))["x"]

        def share(mixer: Any, inputs: tuple, given: dict[str, Any]) -> None:
            if given.get("state") is not None:
                raise ValueError("record_rates expects whole sequences, got a cache to go on from; leave it out")
            seen["mask"] = _arguments(inputs, given, ("x", "mask", "cu_seqlens"))["mask"]
            seen["membership"] = _membership(mixer, inputs, given)

        def halfway(_: nn.Module, inputs: tuple) -> None:
            seen["mixed"] = inputs[0]

        def finish(_: nn.Module, inputs: tuple, output: Tensor) -> None:
            mask, membership = seen.pop("mask"), seen.pop("membership")
            for which, tokens in (*seen.items(), ("after", output)):
                w = _projected(block, tokens, mask)
                found[name][which] = projected_rate(w, membership, f=rate, mask=mask)
            seen.clear()

        yield block.register_forward_pre_hook(start, with_kwargs=True)
        yield block.mixer.register_forward_pre_hook(share, with_kwargs=True)
        yield block.norm2.register_forward_pre_hook(halfway)
        yield block.register_forward_hook(finish)

    _run(model, batch, [handle for name, block in blocks.items() for handle in watch(name, block)])
    parts = [torch.stack([found[name][which].cpu() for name in blocks]) for which in ("before", "mixed", "after")]
    return RateRecord(list(blocks), *parts)


@torch.no_grad()
def record_memberships(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Layer name -> Pi [B, N, H], how the operator of every block shares its tokens among its heads.

    Of a language model, whose blocks are causal, also with a cache of transformers in the batch ("past_key_values"):
    it moves on as in any call, so that a stream can be watched token by token.
    Arguments and errors as in `record_rates`.
    """
    blocks = _blocks(model)
    found: dict[str, Tensor] = {}

    def watch(name: str, mixer: nn.Module) -> Any:
        def start(mixer: Any, inputs: tuple, given: dict[str, Any]) -> None:
            found[name] = _membership(mixer, inputs, given).cpu()

        return mixer.register_forward_pre_hook(start, with_kwargs=True)

    _run(model, batch, [watch(name, block.mixer) for name, block in blocks.items()])
    return {name: found[name] for name in blocks}


@torch.no_grad()
def record_class_attention(model: nn.Module, batch: Any) -> dict[str, Tensor]:
    """Layer name -> [B, H, N], how the [CLS] token of each class attention shares its softmax among the tokens.

    Raises ValueError if the model has no class attention.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, ClassAttention)}
    if not layers:
        raise ValueError("record_class_attention expects a model with ClassAttention layers, got none")
    found: dict[str, Tensor] = {}

    def watch(name: str, layer: ClassAttention) -> Any:
        def start(_: nn.Module, inputs: tuple) -> None:
            found[name] = layer.weights(*inputs)[:, :, 1:].cpu()

        return layer.register_forward_pre_hook(start)

    _run(model, batch, [watch(name, layer) for name, layer in layers.items()])
    return {name: found[name] for name in layers}


def _blocks(model: nn.Module) -> dict[str, Any]:
    blocks = {
        name: module
        for name, module in model.named_modules()
        if isinstance(getattr(module, "mixer", None), (TSSA, CausalTSSA))
    }
    if not blocks:
        raise ValueError("expected a model with blocks whose mixer is TSSA, got none; create it with mixer='tssa'")
    return blocks


def _projected(block: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """w [B, N, H, D], what the block's operator would compress of `tokens`."""
    tokens = block.norm1(tokens)
    conv = getattr(block, "conv", None)
    return block.mixer.project(tokens if conv is None else conv(tokens, mask)[0])


def _membership(mixer: Any, inputs: tuple, given: Mapping[str, Any]) -> Tensor:
    """Pi [B, N, H] of a call of the mixer."""
    arguments = _arguments(inputs, given, ("x", "mask", "cu_seqlens"))
    own = {name: value for name, value in arguments.items() if name not in ("cu_seqlens", "return_state")}
    return mixer.membership(**own)


def _arguments(inputs: tuple, given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """The arguments of a call by name, however they were passed."""
    arguments = {**dict.fromkeys(names), **dict(zip(names, inputs)), **given}
    if arguments["cu_seqlens"] is not None:
        raise ValueError("recorders expect one sequence per row of a batch, got packed tokens (cu_seqlens); pad them")
    return arguments


def _run(model: nn.Module, batch: Any, handles: Sequence[Any]) -> None:
    """Run the model once in eval mode, then take the hooks away."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        stack.enter_context(evaluating(model))
        run: Callable = model
        if isinstance(batch, Mapping):
            run(**batch)
        elif isinstance(batch, (tuple, list)):
            run(*batch)
        else:
            run(batch)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode within, each module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
