"""What a language model allocates: its own code, run on tensors without data, every byte counted."""

# B batch, N tokens of a call, T tokens of the context

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from tost.deploy.tally import Tally
from tost.models.language import ToSTBlock, ToSTConfig, ToSTForCausalLM
from tost.nn.states import KeyValueState, state_tensors

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "int8": torch.bfloat16}  # int8: what is computed in


@dataclass(frozen=True)
class Reading:
    """Bytes of a prompt read in chunks; `working` is what a chunk needs at its highest, beyond the others."""

    weights: int
    state: int
    tokens: int
    working: int


@dataclass(frozen=True)
class Step:
    """Bytes of a training step.

    kept: what the forward pass leaves for the backward pass, without the loss' part.
    beginning, ending, updating: the highest beyond weights, optimiser and tokens, until the backward pass reaches the
    first block, from there to its end, and in the optimiser's step. Each is a straight line in the number of layers.
    """

    weights: int
    gradients: int
    optimiser: int
    tokens: int
    kept: int
    beginning: int
    ending: int
    updating: int

    @property
    def working(self) -> int:
        """The highest beyond the gradients, too."""
        return max(self.beginning, self.ending, self.updating) - self.gradients


class Int8Linear(nn.Module):
    """A linear layer as torchao's weight-only int8 computes it: product with the widened weights, scale by row."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight", torch.empty(layer.weight.shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(len(layer.weight), dtype=layer.weight.dtype))
        self.bias, self.out_features = layer.bias, layer.out_features

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight
        y = torch.mm(x.flatten(0, -2), weight.t().to(x.dtype)) * self.scale  # type: ignore[operator]
        return (y if self.bias is None else y + self.bias).view(*x.shape[:-1], -1)


def trace_reading(config: ToSTConfig, dtype: str, batch: int, context: int, chunk: int) -> Reading:
    """A prompt of `context` tokens, `chunk` at a time: the first chunk and the last one, which has all before it."""
    chunk = min(chunk, context)
    with fake() as tally, torch.no_grad():
        model = build(config, dtype).eval()
        weights, ids = nbytes(model), torch.zeros(batch, context, dtype=torch.int64)
        options: dict[str, Any] = {"use_cache": True, "logits_to_keep": 1}
        before = tally.live - ids.nbytes
        tally.restart()
        cache = model(ids[:, :chunk], **options).past_key_values
        if chunk < context:
            for layer in cache.layers:
                layer.state = longer(layer.state, context - chunk)
                layer.columns = context - chunk
            model(ids[:, context - chunk :], past_key_values=cache, **options)
        state = sum(part.nbytes for layer in cache.layers for part in state_tensors(layer.state).values())
        return Reading(weights, state, ids.nbytes, tally.peak - before - ids.nbytes - state)


def trace_step(
    config: ToSTConfig, dtype: str, batch: int, context: int, checkpointing: bool, foreach: bool | None
) -> Step:
    """A step as `tost train` makes it: float32 weights, products in `dtype` by autocast, AdamW.

    foreach: whether AdamW updates all weights at once, as torch does on GPUs (None: as on this device).
    """
    with fake() as tally:
        model = build(config, "float32").train()
        if checkpointing:
            model.activation_checkpointing_enable()
        optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=foreach)
        ids = torch.zeros(batch, context, dtype=torch.int64)
        loss_of(model, ids, dtype).backward()
        optimiser.step()
        states = sum(part.nbytes for kept in optimiser.state.values() for part in kept.values())
        gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
        optimiser.zero_grad()
        peaks, before = [], tally.live

        def note(*_: Any) -> None:
            peaks.append(tally.peak - before)
            tally.restart()

        model.model.blocks[0].mlp.fc2.weight.register_post_accumulate_grad_hook(note)
        ids_and_states = states + ids.nbytes
        tally.restart()
        loss = loss_of(model, ids, dtype)
        kept = tally.live - before
        loss.backward()
        note()
        optimiser.step()
        note()
        return Step(before - ids_and_states, gradients, states, ids.nbytes, kept, *peaks)


def loss_of(model: Any, ids: Tensor, dtype: str) -> Tensor:
    """The loss of next tokens, under autocast as the Trainer has it."""
    half = DTYPES[dtype] != torch.float32
    with torch.autocast("cpu", DTYPES[dtype]) if half else nullcontext():
        return model(ids, labels=ids, use_cache=False).loss


@contextmanager
def fake() -> Iterator[Tally]:
    """Tensors without data, counted; weights are not initialised."""
    from transformers.initialization import no_init_weights

    with no_init_weights(), FakeTensorMode(), Tally() as tally:
        yield tally


def build(config: ToSTConfig, dtype: str) -> Any:
    """The model, its blocks' linear layers in int8 if that is the dtype."""
    usual = torch.get_default_dtype()
    torch.set_default_dtype(DTYPES[dtype])
    try:
        model: Any = ToSTForCausalLM(config)
    finally:
        torch.set_default_dtype(usual)
    model.tie_weights()  # part of the initialisation that is left out
    if dtype == "int8":
        for block in model.modules():
            if isinstance(block, ToSTBlock):
                replace_linear(block)
    return model


def replace_linear(module: nn.Module) -> None:
    """Every linear layer below `module` as an Int8Linear."""
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            setattr(module, name, Int8Linear(child))
        else:
            replace_linear(child)


def deep(trace: Callable[..., Any], config: ToSTConfig, *options: Any) -> Any:
    """trace(config, ...) of a deep model, from two shallow ones: every number is a straight line in the layers."""
    period = period_of(config)
    few = next(n for n in range(2, 2 * period + 2) if (config.num_hidden_layers - n) % period == 0)
    rest = (config.num_hidden_layers - few) // period
    if rest <= 2:
        return trace(config, *options)
    near, far = (trace(with_layers(config, few + k * period), *options) for k in (0, 1))
    each = {name: value + rest * (getattr(far, name) - value) for name, value in asdict(near).items()}
    return type(near)(**each)


def period_of(config: ToSTConfig) -> int:
    """Layers after which their kinds repeat."""
    lists = (config.mixer, config.intermediate_size)
    return math.lcm(*(len(given) if isinstance(given, list) else 1 for given in lists))


def with_layers(config: ToSTConfig, count: int) -> ToSTConfig:
    """The configuration with another number of layers."""
    changed = copy.copy(config)
    changed.num_hidden_layers = count
    return changed


def longer(state: Any, tokens: int) -> Any:
    """The state as it is after `tokens` tokens: keys and values grow, sums don't."""
    if isinstance(state, KeyValueState):
        keys, values, real = (part.new_empty(len(part), tokens, *part.shape[2:]) for part in state[:3])
        return KeyValueState(keys, values, real, state.length)
    if isinstance(state, tuple):
        parts = [longer(part, tokens) for part in state]
        return type(state)(*parts) if hasattr(state, "_fields") else type(state)(parts)
    return state


def nbytes(model: nn.Module) -> int:
    """Bytes of parameters and buffers, shared ones once."""
    return sum(part.nbytes for part in [*model.parameters(), *model.buffers()])
