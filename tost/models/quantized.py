"""Models in eight bits: made from a trained one, saved, and read back to the same numbers.

A folder holds `model.int8.safetensors`, where an int8 tensor has its scales by row beside it (NAME.scale), the model's
own config.json, and quantization.json, which says how its layers compute.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tost.extras import require
from tost.files import atomic_write
from tost.models.pretrained import read_config, read_tensors
from tost.nn.int8 import gates_to_int8
from tost.nn.linear import Linear

FORMAT = "tost-int8-1"
WEIGHTS, ABOUT = "model.int8.safetensors", "quantization.json"
LINEAR = ("dynamic", "weight", "none")
SMALLEST = 4096  # entries of a table from which eight bits save something
SCALE = ".scale"


@dataclass
class Quantization:
    """How a model computes.

    linear: "dynamic" multiplies int8 activations, rounded by token, with int8 weights; "weight" rounds the weights
    alone; "none" leaves them.  gates: the operator of token statistics in eight bits.  layers: the linear layers that
    torchao computes.  stored: weights kept in eight bits in the file and used as floats (embeddings, class attention).
    reduced: seven bits in the dynamic form, for processors without VNNI.
    """

    linear: str = "dynamic"
    gates: bool = False
    bits: int = 8
    layers: list[str] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    reduced: bool = False
    format: str = FORMAT
    measured: dict[str, Any] = field(default_factory=dict)


def quantize_model(model: nn.Module, linear: str = "dynamic", gates: bool = False) -> Quantization:
    """Quantise a trained model in place, for inference.

    Linear layers of ours, but for tied ones, by torchao; embeddings and the other linear layers are rounded to what the
    file will hold; with `gates` also the operator of every TSSA and CausalTSSA.
    Raises ValueError for another `linear`, if there is nothing to do, and for a model that is quantised already.
    """
    if linear not in LINEAR:
        raise ValueError(f"linear is one of {', '.join(LINEAR)}, got {linear!r}")
    if getattr(model, "quantization", None) is not None:
        raise ValueError("the model is quantised already; quantise the one it was made from")
    if linear == "none" and not gates:
        raise ValueError("nothing to quantise: linear is 'none' and the gates stay; choose one of the two")
    how = Quantization(linear, gates)
    model.eval().requires_grad_(False)
    if linear != "none":
        how.layers = linear_layers(model)
        how.stored = tables(model, how.layers)
        how.reduced = linear == "dynamic" and bool(_torchao("utils").should_reduce_range(device_of(model)))
        for name in how.stored:
            weight = model.get_parameter(name)
            weight.copy_(restored(*by_row(weight)))
    apply(model, how)
    return how


def apply(model: nn.Module, how: Quantization) -> None:
    """Let the model compute as `how` says; its weights are rounded here, or filled in afterwards."""
    if how.layers:
        config = _config(how)
        chosen = set(how.layers)
        _torchao("quantization").quantize_(model, config, lambda module, name: name in chosen)
    if how.gates and gates_to_int8(model) == 0:
        raise ValueError(
            "there are no gates to quantise: no layer of this model is a TSSA or a CausalTSSA in its published form; "
            "leave --gates out"
        )
    model.quantization = how  # type: ignore[assignment]


def linear_layers(model: nn.Module) -> list[str]:
    """Names of the layers that are ours and nobody else's weights."""
    users = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    return [
        name
        for name, module in model.named_modules()
        if type(module) is Linear and users[id(module.weight)] == 1 and min(module.weight.shape) >= 8
    ]


def tables(model: nn.Module, layers: list[str]) -> list[str]:
    """Names of the other weights that the file keeps in eight bits, each once."""
    found: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, (nn.Linear, nn.Embedding)) and name not in layers and module.weight.numel() >= SMALLEST:
            found.setdefault(id(module.weight), f"{name}.weight")
    return list(found.values())


def by_row(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(int8 [R, C], scale [R, 1] float32) of a weight [R, C]: the largest of a row becomes 127."""
    scale = weight.float().abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
    return (weight.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


def restored(values: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight that a file's int8 stands for."""
    return values.float() * scale


def save_quantized(model: nn.Module, folder: Path) -> None:
    """Write the weights and quantization.json of a model that quantize_model made; its config.json is the caller's."""
    how: Quantization = model.quantization  # type: ignore[assignment]
    tensors: dict[str, Tensor] = {}
    for name, tensor in model.state_dict().items():
        if name.removesuffix(".weight") in how.layers:
            tensors[name], tensors[name + SCALE] = tensor.qdata, tensor.scale.float()
        elif name in how.stored:
            tensors[name], tensors[name + SCALE] = by_row(tensor)
        elif name not in tied(model):
            tensors[name] = tensor
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_write(folder / WEIGHTS) as file:
        file.write(safetensors.torch.save(whole, metadata={"format": FORMAT}))
    with atomic_write(folder / ABOUT, "w") as file:
        file.write(json.dumps(asdict(how), indent=2) + "\n")


def is_quantized(folder: str | Path) -> bool:
    """Whether a folder holds a model in eight bits."""
    return (Path(folder) / ABOUT).is_file()


def check_float(folder: str | Path, why: str) -> None:
    """ValueError for a model in eight bits, where `why` says what needs floats."""
    if is_quantized(folder):
        raise ValueError(f"{folder} is in eight bits, and {why}; give the run it was made from")


def load_quantized(folder: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """The model in a folder that `tost quantize` wrote, in eval mode; it computes what it did when it was saved.

    Raises ValueError for a folder without one, damaged files, and files of another format or model; ImportError where
    torchao is missing.
    """
    folder = Path(folder)
    how = read_about(folder)
    tensors = read_tensors(folder / WEIGHTS) if (folder / WEIGHTS).is_file() else {}
    model = build(folder).eval().requires_grad_(False)
    own = {name: tensor.shape for name, tensor in model.state_dict().items() if name not in tied(model)}
    found = {name: tensor.shape for name, tensor in tensors.items() if not name.endswith(SCALE)}
    if own != found:
        wrong = sorted(name for name in {*own, *found} if own.get(name) != found.get(name))
        raise ValueError(
            f"{folder}/{WEIGHTS} does not hold the model of its config.json: {', '.join(wrong[:3])} and "
            f"{max(len(wrong) - 3, 0)} more differ; quantise the run again"
        )
    floats = {name: t for name, t in tensors.items() if t.dtype != torch.int8 and not name.endswith(SCALE)}
    floats |= {name: restored(tensors[name], tensors[name + SCALE]) for name in how.stored}
    model.load_state_dict(floats, strict=False)
    apply(model, how)
    for name in how.layers:
        weight = model.get_submodule(name).weight
        weight.qdata.copy_(tensors[f"{name}.weight"])
        weight.scale.copy_(tensors[f"{name}.weight{SCALE}"])
    return model.to(device)


def read_about(folder: Path) -> Quantization:
    """The quantization.json of a folder; ValueError if there is none or it is of another kind."""
    if not is_quantized(folder):
        raise ValueError(f"{folder} holds no model in eight bits (no {ABOUT}); `tost quantize RUN` makes one")
    try:
        values = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        if values.get("format") != FORMAT:
            raise ValueError(f"its format is {values.get('format')!r}, expected {FORMAT!r}")
        return Quantization(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{folder / ABOUT} is not what `tost quantize` writes: {error}; quantise the run again"
        ) from None


def build(folder: Path) -> Any:
    """The model of a config.json with fresh weights."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(f"{folder}/config.json cannot be read ({error}); quantise the run again") from None
    if kind is not None:
        from tost.models.language import ToSTConfig, ToSTForCausalLM

        return ToSTForCausalLM(ToSTConfig.from_pretrained(folder))
    from tost.models.vision import ToSTVision

    return ToSTVision(read_config(folder / "config.json"))


def tied(model: nn.Module) -> tuple[str, ...]:
    """Names of the weights that are another's."""
    config = getattr(model, "config", None)
    return tuple(model._tied_weights_keys) if getattr(config, "tie_word_embeddings", False) else ()  # type: ignore[arg-type]


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _config(how: Quantization) -> Any:
    """torchao's configuration of the linear layers."""
    api = _torchao("quantization")
    if how.linear == "weight":
        return api.Int8WeightOnlyConfig(set_inductor_config=False)
    return api.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False, reduce_range=how.reduced)


def _torchao(module: str) -> Any:
    """A module of torchao, whose import tells of kernels for GPUs that are not here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        return require(f"torchao.{module}", extra="deploy")
    finally:
        logging.disable(before)
