"""Saving and loading through huggingface_hub: safetensors only, whole files only, errors in one line."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from torch import Tensor

from tost.files import atomic_write
from tost.models.configuration import Fields
from tost.models.vision_config import VisionConfig

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
Model = TypeVar("Model", bound="SafetensorsModel")


class SafetensorsModel(PyTorchModelHubMixin):
    """save_pretrained, from_pretrained and push_to_hub for a model built from one `config`, of its config_class."""

    config_class: type[Fields] = VisionConfig
    config: Any
    state_dict: Any  # from nn.Module, which every subclass also is

    def _save_pretrained(self, save_directory: Path) -> None:
        tensors = {name: t.detach().contiguous() for name, t in self.state_dict().items()}
        with atomic_write(save_directory / WEIGHTS) as file:
            file.write(safetensors.torch.save(tensors, metadata={"format": "pt"}))
        with atomic_write(save_directory / CONFIG, "w") as file:
            file.write(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls: type[Model], source: str | os.PathLike[str], *, device: str | torch.device = "cpu", **options: Any
    ) -> Model:
        """The model saved in a folder or in a Hugging Face repository ("owner/name"), in eval mode.

        options: fields of the configuration (img_size, drop_path_rate, ...), or what hf_hub_download takes (revision,
        token, cache_dir, force_download, local_files_only).
        Raises ValueError if there is no safetensors checkpoint, or it is corrupt or of another model.
        """
        download = ("revision", "token", "cache_dir", "force_download", "local_files_only")
        hub = {key: options.pop(key) for key in download if key in options}
        config = read_config(_find(source, CONFIG, hub), cls.config_class, cls.__name__).with_fields(**options)
        tensors = read_tensors(_find(source, WEIGHTS, hub))
        model = cls(config)
        load_strictly(model, tensors, str(source))  # type: ignore[arg-type]
        return model.to(device).eval()  # type: ignore[attr-defined]


def read_config(path: Path, kind: type[Fields] = VisionConfig, model: str = "ToSTVision") -> Any:
    """The configuration in a config.json; ValueError if that is none of this kind."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or kind.SIGN not in values:
            raise ValueError(f"it lacks {kind.SIGN}")
        if isinstance(values.get("img_size"), list):
            values["img_size"] = tuple(values["img_size"])
        known = [field.name for field in fields(kind)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"it has no option {', '.join(unknown)}; it has {', '.join(known)}")
        return kind(**values)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not the configuration of a {model}: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError if it is damaged."""
    try:
        return safetensors.torch.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}); download or save it again") from None


def load_features(model: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load the model's tensors as load_strictly does, but keep its own head where the number of classes differs."""
    own = model.state_dict()
    if tensors.get("head.weight", own["head.weight"]).shape != own["head.weight"].shape:
        tensors = tensors | {name: own[name] for name in ("head.weight", "head.bias")}
    load_strictly(model, tensors, source)


def load_strictly(model: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Load exactly the model's tensors, or raise one ValueError that says what differs."""
    own = model.state_dict()
    head = "head.weight"
    if head in own and head in tensors and own[head].shape != tensors[head].shape:
        raise ValueError(
            f"{source} has {len(tensors[head])} classes, asked for {len(own[head])}; "
            f"load it without num_classes, then call model.reset_classifier({len(own[head])})"
        )
    problems = {
        "lacks": [n for n in own if n not in tensors],
        "has unknown": [n for n in tensors if n not in own],
        "differs in the shape of": [n for n in own if n in tensors and own[n].shape != tensors[n].shape],
    }
    found = [f"{what} {_some(names)}" for what, names in problems.items() if names]
    if found:
        raise ValueError(
            f"{source} does not hold this model: it {', '.join(found)}; load it with the configuration it was saved "
            "with (a published checkpoint: convert it by tost.models.from_official)"
        )
    model.load_state_dict(tensors)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _find(source: str | os.PathLike[str], name: str, hub: dict[str, Any]) -> Path:
    """The path of a file of a folder or of a repository of the hub."""
    folder = Path(source)
    if folder.is_dir():
        if (folder / name).is_file():
            return folder / name
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        if pickles:
            raise ValueError(
                f"{folder} holds a pickle ({pickles[0]}), which can run code when read, and no {name}; read it with "
                "torch.load(..., weights_only=True), then load_state_dict and save_pretrained"
            )
        raise ValueError(f"{folder} holds no {name}; pass the folder that save_pretrained wrote")
    if folder.exists() or folder.is_absolute() or str(source).startswith(".") or len(folder.parts) > 2:
        raise ValueError(f"from_pretrained expects a folder or a repository 'owner/name', got {str(source)!r}")
    try:
        return Path(hf_hub_download(str(source), name, **hub))
    except EntryNotFoundError:
        raise ValueError(f"{source} has no {name}, or it is not in the cache; only safetensors are read") from None
    except HfHubHTTPError as error:
        raise ValueError(f"cannot get {name} of {source}: {str(error).splitlines()[0]}") from None
