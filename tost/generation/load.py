"""A language model and its tokenizer: from a run, from a folder of save_pretrained, or from the Hub."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tost.training.runs import CONFIG, read_summary

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def is_language(run: str | Path) -> bool:
    """Whether `run` is a language model: a run with `task: language`, a folder of save_pretrained, or a Hub name."""
    folder = Path(run)
    if (folder / CONFIG).is_file():
        return task_of(folder) == "language"
    if folder.is_dir():
        return _model_type(folder) is not None
    return on_the_hub(run)


def task_of(folder: Path) -> str:
    """What the run in `folder` trains: the `task` of its config.yaml, vision if it names none."""
    import yaml

    try:
        settings = yaml.safe_load((folder / CONFIG).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        return "vision"  # reading it as a recipe says what is wrong
    return str(settings.get("task", "vision")) if isinstance(settings, dict) else "vision"


def on_the_hub(run: str | Path) -> bool:
    """Whether `run`, no folder here, can be a name on the Hub: NAME or OWNER/NAME, and OWNER is no folder either."""
    name = str(run)
    return HUB_NAME.fullmatch(name) is not None and not ("/" in name and Path(name).parent.is_dir())


def load_language(
    run: str | Path, *, device: str | torch.device | None = None, position_mode: str | None = None
) -> tuple[Any, Any]:
    """(model in eval mode, tokenizer) of a language run, a folder of save_pretrained, or a model on the Hub.

    device: where the model goes, by default cuda where there is one.  position_mode: ToST's, in place of the saved one
    ("clamped" lets a model with learned positions go on past its table).
    Raises ValueError for a folder that is no language model, an unfinished run, damaged weights, no tokenizer, and a
    tokenizer with more tokens than the model.
    """
    from tost.models.language import ToSTConfig  # registers the Auto classes
    from tost.models.quantized import is_quantized, load_quantized

    check_language(run)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if is_quantized(run):
        if position_mode is not None:
            raise ValueError(f"{run} is quantised as it was trained; position_mode is for the run it was made from")
        model = load_quantized(run, device=device)
        return model, load_tokenizer(run, model.config.vocab_size)
    from transformers import AutoConfig, AutoModelForCausalLM

    changes = {}
    if position_mode is not None:
        config = _read(AutoConfig, run)
        if not isinstance(config, ToSTConfig):
            raise ValueError(f"{run} is a {config.model_type}; position_mode is an option of ToST alone")
        if position_mode != config.position_mode and not config.tables:
            raise ValueError(
                f"{run} has position_mode {config.position_mode!r}, which cannot become {position_mode!r}; "
                "only 'learned' and 'clamped' share their tables"
            )
        changes["position_mode"] = position_mode
    model = _read(AutoModelForCausalLM, run, use_safetensors=True, **changes).eval()
    tokenizer = load_tokenizer(run, model.config.vocab_size)
    return model.to(device), tokenizer


def load_tokenizer(run: str | Path, vocab_size: int) -> Any:
    """The tokenizer beside a model; ValueError if there is none, or if it makes ids that the model doesn't have."""
    from transformers import AutoTokenizer

    folder = Path(run)
    if folder.is_dir() and not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
        raise ValueError(
            f"{run} has no tokenizer files; save the tokenizer the model was trained with there: "
            "tokenizer.save_pretrained(folder)"
        )
    tokenizer = _read(AutoTokenizer, run)
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"{run}: the tokenizer has {len(tokenizer)} tokens, the model knows {vocab_size}; put there the one "
            "the model was trained with, or call model.resize_token_embeddings"
        )
    return tokenizer


def check_language(run: str | Path) -> None:
    """ValueError, with the way out, unless `run` can be read as a language model."""
    folder = Path(run)
    if not folder.exists():
        if not on_the_hub(run):
            raise ValueError(f"{run}: no such run; `tost train lm-stdlib` makes one")
    elif (folder / CONFIG).is_file():
        if task_of(folder) != "language":
            raise ValueError(
                f"{run} is a {task_of(folder)} run; this needs a language model, such as `tost train lm-stdlib` makes"
            )
        if read_summary(folder) is None:
            raise ValueError(f"{run} is not finished; the `tost train` command that started it goes on with it")
    elif not folder.is_dir() or _model_type(folder) is None:
        raise ValueError(f"{run} is not a run of `tost train` and not a folder of save_pretrained")


def _model_type(folder: Path) -> str | None:
    """The model_type in config.json, which every model of transformers has and a vision model of ours has not."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config.get("model_type") if isinstance(config, dict) else None


@contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' warnings and progress bars: what matters is raised."""
    from transformers.utils import logging

    bars, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _read(kind: Any, run: str | Path, **options: Any) -> Any:
    """kind.from_pretrained(run), its many kinds of errors as one ValueError."""
    import safetensors

    try:
        with quietly():
            return kind.from_pretrained(run, **options)
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        told = next(iter(str(error).strip().splitlines()), type(error).__name__)
        where = "" if Path(run).is_dir() else "no such run here, and no such model on the Hub: "
        raise ValueError(f"{run}: {where}{told}") from None
