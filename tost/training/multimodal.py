"""The task of images and text: answers to questions about an image, or its caption.

B rows, N tokens, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.trainer_utils import EvalPrediction

from tost.data.image_text import Batches, ImageTextOptions, load_image_text
from tost.data.tokens import byte_tokenizer, load_tokenizer, token_bytes, train_bpe
from tost.models.language import PRESETS
from tost.models.multimodal import (
    IMAGE_TOKEN,
    ToSTForImageTextToText,
    ToSTImageProcessor,
    ToSTMultimodalConfig,
    ToSTProcessor,
)
from tost.training.checkpoints import publish_files
from tost.training.language import row_nats
from tost.training.recipe_multimodal import MultimodalRecipe
from tost.training.task import Task


def answer_scores(logits: Tensor, labels: Tensor, size: Tensor) -> Tensor:
    """[B, 4] float64: 1 where every token of the answer is the likeliest, its tokens, nats and bytes.

    logits: [B, N, V], those at n predict labels[:, n + 1].  size: bytes of every token of the vocabulary [V].
    The likeliest tokens after the right ones are the right ones exactly where greedy decoding writes the answer.
    """
    nats, counted = row_nats(logits, labels)
    after = labels[:, 1:]
    right = ((logits[:, :-1].argmax(-1) == after) | ~counted).all(1)
    written = (size.to(after.device)[after.clamp(min=0)] * counted).sum(1)
    return torch.stack([right.double(), counted.sum(1).double(), nats, written.double()], 1)


class MultimodalTask(Task):
    """Answers about images."""

    warmup = "optim.warmup_steps"

    def __init__(self, recipe: MultimodalRecipe, folder: Path) -> None:
        self.recipe, self.callbacks = recipe, []
        self.sets = load_image_text(recipe.data)
        self.train, self.validation, self.test = self.sets.train, self.sets.validation, self.sets.test
        tokenizer = make_tokenizer(recipe.data, self.sets.texts)
        begun = folder / "tokenizer.json"
        if (
            begun.exists()
            and not recipe.run.overwrite
            and load_tokenizer(str(folder)).get_vocab() != tokenizer.get_vocab()
        ):
            raise ValueError(
                f"{folder} was started with another text; restore it, choose another --run.name, or start over with "
                "--run.overwrite true"
            )
        self.model = build_multimodal_model(recipe, tokenizer)
        self.processor = make_processor(recipe.data, self.sets.size, tokenizer, self.model.config.patch_size)
        self.collate = Batches(self.processor, recipe.data.hide)
        self.bytes = torch.from_numpy(token_bytes(tokenizer))

    def build(self) -> nn.Module:
        return self.model

    @property
    def optimised(self) -> nn.Module:
        return self.model

    def prepare(self, folder: Path) -> None:
        """The processor: a run that is killed can be looked at, and goes on with the same tokens."""
        if not (folder / "tokenizer.json").exists():
            with publish_files(folder) as staging:
                self.processor.save_pretrained(str(staging))

    def predict(self, model: nn.Module, inputs: dict[str, Any]) -> tuple[None, Tensor, Tensor]:
        logits = model(inputs["input_ids"], inputs["pixel_values"], use_cache=False).logits
        return None, answer_scores(logits, inputs["labels"], self.bytes), inputs["labels"][:, :1]

    def metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return summed(np.asarray(prediction.predictions, dtype=np.float64), self.sets.kinds)

    def score(self, metrics: dict[str, float], prefix: str) -> dict[str, Any]:
        found = {name.removeprefix(f"{prefix}_"): value for name, value in metrics.items()}
        watched = prefix == "eval"
        split, items = ("validation", self.sets.validation) if watched else (self.sets.held_out, self.test)
        kept = {"split": split, "questions": len(items), "loss": found["loss"], "perplexity": found["perplexity"]}
        if self.sets.kinds == ["caption"]:
            return kept | {"bits_per_byte": found["bits_per_byte"], "bytes": int(found["bytes"])}
        kinds = {kind: found[f"accuracy of {kind}"] for kind in self.sets.kinds}
        return kept | {"accuracy": found["accuracy"], "kinds": kinds}

    def facts(self) -> dict[str, Any]:
        model = self.recipe.model
        return {"model": model.weights or model.preset, "kinds": self.sets.kinds, "data": self.sets.facts}

    def save(self, trainer: Any, folder: Path) -> None:
        state = trainer.accelerator.get_state_dict(trainer.model_wrapped)  # whole tensors also where they are sharded
        if self.model.config.tie_word_embeddings:
            for name in self.model._tied_weights_keys:  # gathered shards no longer share memory
                state.pop(name, None)
        if trainer.args.process_index == 0:
            with publish_files(folder) as staging:
                self.model.save_pretrained(str(staging), state_dict=state)


def summed(scores: np.ndarray, kinds: list[str]) -> dict[str, float]:
    """Figures of a whole set from answer_scores [rows, 4]; row i is of kind i % len(kinds)."""
    right, tokens, nats, size = scores.T
    loss = nats.sum() / max(tokens.sum(), 1)
    found = {
        "accuracy": right.mean(),
        "loss": loss,
        "perplexity": math.exp(min(loss, 700)),
        "bits_per_byte": nats.sum() / math.log(2) / max(size.sum(), 1),
        "bytes": size.sum(),
    }
    for number, name in enumerate(kinds):
        found[f"accuracy of {name}"] = right[number :: len(kinds)].mean() if number < len(right) else 0.0
    return {name: float(value) for name, value in found.items()}


def make_tokenizer(data: ImageTextOptions, texts: Any) -> Any:
    """The tokenizer of the recipe with a token for an image's places."""
    if data.tokenizer == "bpe":
        tokenizer = train_bpe(texts, data.vocab_size)
    else:
        tokenizer = byte_tokenizer() if data.tokenizer == "bytes" else load_tokenizer(data.tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


def make_processor(data: ImageTextOptions, size: tuple[int, int], tokenizer: Any, patch_size: int) -> ToSTProcessor:
    """The processor for images of `size`, (H, W)."""
    look = ToSTImageProcessor(
        size={"height": size[0], "width": size[1]}, image_mean=list(data.mean), image_std=list(data.std)
    )
    if size[0] % patch_size or size[1] % patch_size:
        raise ValueError(
            f"images of {size[0]} x {size[1]} pixels are not divisible into patches of {patch_size}; choose another "
            "--data.image_size, or --model.options.patch_size"
        )
    return ToSTProcessor(look, tokenizer, patch_size)


def build_multimodal_model(recipe: MultimodalRecipe, tokenizer: Any) -> ToSTForImageTextToText:
    """The model for this tokenizer: fresh weights by the seed, or model.weights."""
    torch.manual_seed(recipe.run.seed)
    if recipe.model.weights:
        model = ToSTForImageTextToText.from_pretrained(
            recipe.model.weights, **recipe.model.options, dtype=torch.float32
        )
        beside = Path(recipe.model.weights) / "tokenizer.json"
        if beside.is_file() and load_tokenizer(recipe.model.weights).get_vocab() != tokenizer.get_vocab():
            raise ValueError(
                f"{recipe.model.weights} was trained with another tokenizer; set --data.tokenizer to that folder"
            )
    else:
        model = ToSTForImageTextToText(multimodal_config(recipe, tokenizer))
    if recipe.run.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    return model


def multimodal_config(recipe: MultimodalRecipe, tokenizer: Any) -> ToSTMultimodalConfig:
    """The preset with the tokenizer's vocabulary and the images' channels, then the recipe's options."""
    if recipe.model.preset not in PRESETS:
        raise ValueError(f"unknown model.preset {recipe.model.preset!r}; choose one of {', '.join(PRESETS)}")
    known = ToSTMultimodalConfig().to_dict()
    for option in recipe.model.options:
        if option not in known:
            raise ValueError(f"ToSTMultimodalConfig has no option {option!r}; docs/api/multimodal.md lists them")
    sizes = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "in_chans": len(recipe.data.mean),
    }
    return ToSTMultimodalConfig(**{**PRESETS[recipe.model.preset], **sizes, **recipe.model.options})
