"""The forms of a trained model that `tost quantize` compares, and what each costs: time, bytes, working memory."""

# B batch, N tokens

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import nn

from tost.bench.measure import paired
from tost.bench.peak import peaks
from tost.deploy.quality import InOwnType
from tost.generation.load import quietly
from tost.models.quantized import quantize_model
from tost.training import load_run
from tost.training.recipe_language import LanguageRecipe
from tost.training.runs import read_config

Call = Callable[[], object]
ROUNDS = 15


class Form(NamedTuple):
    """A way to compute: floats of a type, or eight bits."""

    name: str
    dtype: torch.dtype = torch.float32
    linear: str = "none"
    gates: bool = False


def forms_of(linear: str, gates: bool) -> list[Form]:
    """float32, bfloat16, torchao alone, and with `gates` those too; the last one is what is to be saved."""
    found = [Form("float32"), Form("bfloat16", torch.bfloat16)]
    if linear != "none":
        found.append(Form(f"int8 linear ({linear})", linear=linear))
    if gates:
        name = "int8 gates" if linear == "none" else f"int8 linear ({linear}) + gates"
        found.append(Form(name, linear=linear, gates=True))
    return found


def build(run: str, form: Form) -> Any:
    """The model of a run in a form."""
    with quietly():
        model, _ = load_run(run)
    if form.linear != "none" or form.gates:
        quantize_model(model, form.linear, form.gates)
    return model.to(form.dtype) if form.dtype != torch.float32 else model


def calls_of(model: nn.Module, recipe: Any) -> dict[str, Call]:
    """What is timed, the larger first: sixteen images and one; of a text a row of the context, and its last token."""
    random = torch.Generator().manual_seed(0)
    if not isinstance(recipe, LanguageRecipe):
        config: Any = model.config
        fed = InOwnType(model)
        side = recipe.data.image_size
        x = {count: torch.randn(count, config.in_chans, side, side, generator=random) for count in (1, 16)}
        return {"16 images": lambda: fed(x[16]), "1 image": lambda: fed(x[1])}
    context, vocabulary = recipe.data.context, int(model.config.vocab_size)  # type: ignore[union-attr, arg-type]
    ids = torch.randint(0, vocabulary, (1, context), generator=random)
    with torch.inference_mode():
        cache = model(ids[:, :-1], use_cache=True).past_key_values

    def decode() -> None:
        layers = [(layer, layer.state, layer.columns) for layer in cache.layers]
        model(ids[:, -1:], past_key_values=cache, use_cache=True)
        for layer, state, columns in layers:  # a state is a value: every call decodes the same token
            layer.state, layer.columns = state, columns

    return {f"{context} tokens": lambda: model(ids, use_cache=False, logits_to_keep=1), "next token": decode}


@torch.inference_mode()
def latencies(models: Sequence[nn.Module], recipe: Any, seconds: float = 20) -> list[dict[str, float]]:
    """Median milliseconds of every call of each model; the models take turns."""
    calls = [calls_of(model, recipe) for model in models]
    found: list[dict[str, float]] = [{} for _ in models]
    for name in calls[0]:
        times = paired({i: call[name] for i, call in enumerate(calls)}, ROUNDS, seconds)
        for i, samples in times.items():
            found[i][name] = 1e3 * median(samples)
    return found


def working_memory(run: str, forms: Sequence[Form]) -> list[int | None]:
    """Bytes that the larger call needs beyond the weights, of each form, in a process of its own; None: not known."""
    described = [[form.linear, form.gates, form.dtype == torch.bfloat16] for form in forms]
    return [peak.bytes for peak in peaks("tost.deploy.forms:large_calls", [run, described], len(forms))]


def large_calls(run: str, described: list[tuple[str, bool, bool]]) -> Iterator[Call]:
    """The largest call of each form, warm."""
    recipe = read_config(Path(run))
    for linear, gates, half in described:
        form = Form("", torch.bfloat16 if half else torch.float32, linear, gates)
        call = next(iter(calls_of(build(run, form), recipe).values()))
        call = torch.inference_mode()(call)
        call()
        yield call


def weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's tensors in memory, those within torchao's included, shared ones once."""
    total = 0
    for tensor in {id(p): p for p in [*model.parameters(), *model.buffers()]}.values():
        inner = getattr(tensor, "tensor_data_names", None)
        parts = [getattr(tensor, name) for name in inner] if inner else [tensor]
        total += sum(part.numel() * part.element_size() for part in parts)
    return total


def float_file(model: nn.Module) -> int:
    """Bytes of a safetensors file of the model's own types, shared tensors once."""
    tensors = {name: p.detach().contiguous() for name, p in model.named_parameters()}
    tensors |= {name: b.detach().contiguous() for name, b in model.named_buffers()}
    return io.BytesIO(safetensors.torch.save(tensors)).getbuffer().nbytes
