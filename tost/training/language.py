"""The task of language: packed text, a causal model, nats and bits per byte.

B rows, N tokens in a row, V tokens in the vocabulary.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from tost.data.packing import IGNORE, collate
from tost.data.text import TextOptions, TextSets, load_text
from tost.data.tokens import load_tokenizer
from tost.files import atomic_write
from tost.models.language import PRESETS, ToSTConfig, ToSTForCausalLM, preset
from tost.training.checkpoints import publish_files
from tost.training.recipe_language import LanguageRecipe
from tost.training.task import Plan, Task

TEXT = "data.json"  # of a run: what its text was, so that no run goes on with another


def text_options(recipe: LanguageRecipe) -> TextOptions:
    """The settings of recipe.data as the data's own options."""
    return TextOptions(**vars(recipe.data))


class LanguageTask(Task):
    """Next tokens of a text."""

    warmup = "optim.warmup_steps"
    collate = staticmethod(collate)

    def __init__(self, recipe: LanguageRecipe, folder: Path) -> None:
        self.recipe, self.callbacks = recipe, []
        begun = folder / TEXT if not recipe.run.overwrite else folder / "none"
        if recipe.model.weights and recipe.data.tokenizer == "bpe":
            raise ValueError(
                "a model that starts from --model.weights knows its own tokens, a newly learned bpe has others; set "
                f"--data.tokenizer (to {recipe.model.weights}, if its tokenizer lies there too)"
            )
        check_sizes(recipe)
        self.items = f"rows of {recipe.data.context} tokens in the training text"
        self.text: TextSets = load_text(text_options(recipe), load_tokenizer(str(folder)) if begun.exists() else None)
        if begun.exists():
            _check_text(begun, self.text.facts)
        self.train, self.validation, self.test = self.text.train, self.text.validation, self.text.test
        self.bytes = torch.from_numpy(self.text.token_bytes)

    def plan(self) -> Plan:
        run, context = self.recipe.run, self.recipe.data.context
        epoch = self.epoch_steps("lower it, or shorten --data.context")
        steps = run.steps or (math.ceil(run.tokens / (run.batch_size * context)) if run.tokens else 0)
        steps = steps or max(1, round(run.epochs * epoch))
        disk = self.recipe.data.workers if not hasattr(self.train.documents, "ids") else 0
        return Plan(steps, every=max(1, run.checkpoint_steps), warmup=self.recipe.optim.warmup_steps, workers=disk)

    def build(self) -> nn.Module:
        self.model = build_language_model(self.recipe, self.text.tokenizer)
        return self.model

    @property
    def optimised(self) -> nn.Module:
        return self.model

    def prepare(self, folder: Path) -> None:
        """The tokenizer and the facts about the text: a run that is killed can be looked at, and goes on with both."""
        if not (folder / TEXT).exists():
            with publish_files(folder) as staging:
                self.text.tokenizer.save_pretrained(str(staging))
            with atomic_write(folder / TEXT, "w") as file:
                file.write(json.dumps(self.text.facts, indent=2) + "\n")

    def predict(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[None, Tensor, Tensor]:
        """Nats, predicted tokens and their bytes of each row [B, 3]: the logits are dropped at once."""
        labels = inputs["labels"]
        logits = model(**{k: v for k, v in inputs.items() if k != "labels"}, use_cache=False).logits
        nats, counted = row_nats(logits, labels)
        known = self.bytes.to(labels.device)[labels[:, 1:].clamp(min=0)] * counted
        return None, torch.stack([nats, counted.sum(1).to(nats), known.sum(1).to(nats)], 1), labels[:, :1]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        nats, tokens, size = np.asarray(prediction.predictions, dtype=np.float64).sum(0)
        loss = nats / max(tokens, 1)
        bits = nats / math.log(2) / max(size, 1)
        return {
            "loss": loss,
            "perplexity": math.exp(min(loss, 700)),
            "bits_per_byte": bits,
            "tokens": tokens,
            "bytes": size,
        }

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        kept = {name: metrics[f"{prefix}_{name}"] for name in ("loss", "perplexity", "bits_per_byte")}
        return kept | {name: int(metrics[f"{prefix}_{name}"]) for name in ("tokens", "bytes")}

    def facts(self) -> dict[str, Any]:
        return {"model": self.recipe.model.weights or self.recipe.model.preset, "data": self.text.facts}

    def save(self, trainer: Any, folder: Path) -> None:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole tensors also where they are sharded
        if self.model.config.tie_word_embeddings:
            for name in self.model._tied_weights_keys:  # gathered shards no longer share memory
                state.pop(name, None)
        if trainer.args.process_index == 0:
            with publish_files(folder) as staging:
                self.model.save_pretrained(str(staging), state_dict=state)


def row_nats(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of -ln p(label) of each row [B], and which of its labels 1..N-1 are counted [B, N - 1].

    logits: [B, N, V], those at n predict labels[:, n + 1]; labels: [B, N], IGNORE where nothing is predicted.
    """
    shifted = labels[:, 1:]
    nats = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), shifted, ignore_index=IGNORE, reduction="none"
    )
    return nats.double().sum(1), shifted != IGNORE


def build_language_model(recipe: LanguageRecipe, tokenizer: Any) -> ToSTForCausalLM:
    """The model for this tokenizer: fresh weights by the seed, or model.weights."""
    torch.manual_seed(recipe.run.seed)
    if recipe.model.weights:
        model = ToSTForCausalLM.from_pretrained(recipe.model.weights, **recipe.model.options, dtype=torch.float32)
        check_tokenizer(recipe.model.weights, model.config, tokenizer)
        model.config.eos_token_id = model.generation_config.eos_token_id = tokenizer.eos_token_id
    else:
        model = ToSTForCausalLM(language_config(recipe, len(tokenizer), tokenizer.eos_token_id))
        check_tokenizer("the model", model.config, tokenizer)
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def language_config(recipe: LanguageRecipe, vocab_size: int, eos: int | None) -> ToSTConfig:
    """The preset with the tokenizer's vocabulary and tables as long as the context, then the recipe's options."""
    sizes = {"vocab_size": vocab_size, "max_position_embeddings": recipe.data.context, "eos_token_id": eos}
    return preset(recipe.model.preset, **{**sizes, **recipe.model.options})


def check_sizes(recipe: LanguageRecipe) -> None:
    """ValueError for a preset or options that don't fit, before any text is read."""
    if recipe.model.weights:
        return
    if recipe.model.preset not in PRESETS:
        raise ValueError(f"unknown model.preset {recipe.model.preset!r}; choose one of {', '.join(PRESETS)}")
    config = language_config(recipe, 257, None)
    if config.position_mode == "learned" and config.max_position_embeddings < recipe.data.context:
        raise ValueError(
            f"the model has learned positions for {config.max_position_embeddings} tokens and data.context is "
            f"{recipe.data.context}; leave max_position_embeddings out, or lower --data.context"
        )


def check_tokenizer(source: str, config: ToSTConfig, tokenizer: Any) -> None:
    """ValueError if the model doesn't know all ids of the tokenizer, or if another one lies beside its weights."""
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"{source} has a vocabulary of {config.vocab_size}, the tokenizer one of {len(tokenizer)}; set "
            "--data.tokenizer to the one that the weights were trained with"
        )
    if (Path(source) / "tokenizer.json").is_file() and load_tokenizer(source).get_vocab() != tokenizer.get_vocab():
        raise ValueError(f"{source} was trained with another tokenizer; set --data.tokenizer {source}")


def _check_text(path: Path, facts: dict[str, Any]) -> None:
    """ValueError if the text is no longer the one that the run began with."""
    before = json.loads(path.read_text(encoding="utf-8"))
    if before.get("fingerprint") != facts["fingerprint"]:
        raise ValueError(
            f"{path.parent} was started with another text ({before['train']['tokens']:,} training tokens, now "
            f"{facts['train']['tokens']:,}); restore it, choose another --run.name, or start over with "
            "--run.overwrite true"
        )
