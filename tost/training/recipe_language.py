"""What `tost train lm-...` runs: the settings of a language recipe, their types, defaults and meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tost.training.recipe import flatten


@dataclass
class LanguageModelRecipe:
    """The model.

    Args:
        preset: size by name: nano, tiny, base, medium or large
        weights: a run folder, a folder of save_pretrained or a name on the Hub to start from (preset is then not used)
        options: options of ToSTConfig that differ from the preset
    """

    preset: str = "nano"
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class TextRecipe:
    """The text.

    Args:
        source: stdlib (the source of this Python's standard library), files or hub
        path: a file, a folder or a pattern of files; for hub the name of a dataset
        subset: of the dataset on the hub
        split: of the dataset on the hub, from which validation and test are set apart
        column: the field of the dataset, or of JSON lines, that holds the text
        section: cut files into documents of about so many characters, at line ends; 0 = a file is a document
        validation: share of the text (whole documents) set apart to watch progress
        test: share of the text (whole documents) held out to judge the model at the end
        tokenizer: bpe (learned from the training text), bytes, or a folder or a name on the Hub such as gpt2
        vocab_size: of bpe, the 256 bytes and the end of text included
        context: tokens in a row, which is as far back as training looks
        workers: processes that tokenise large sets and read them
    """

    source: Literal["stdlib", "files", "hub"] = "stdlib"
    path: str | None = None
    subset: str | None = None
    split: str = "train"
    column: str = "text"
    section: int = 0
    validation: float = 0.02
    test: float = 0.02
    tokenizer: str = "bpe"
    vocab_size: int = 4096
    context: int = 256
    workers: int = 2


@dataclass
class LanguageOptimRecipe:
    """AdamW under a cosine schedule with linear warm-up.

    Args:
        lr: peak learning rate
        final_lr: last learning rate as a share of the peak
        warmup_steps: length of the linear warm-up
        weight_decay: on matrices alone, the embedding included; never on temperatures and position biases
        betas: AdamW's two averages
        clip: largest gradient norm, 0 = no limit
    """

    lr: float = 1e-3
    final_lr: float = 0.1
    warmup_steps: int = 100
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0


@dataclass
class LanguageRunRecipe:
    """The run and where it is kept.

    Args:
        name: name of the run's folder (default: the recipe's name)
        folder: where runs are kept
        epochs: passes over the training text
        tokens: stop after so many tokens instead
        steps: stop after so many steps instead
        batch_size: rows of data.context tokens per step, over all processes and accumulated micro-batches
        accumulate: micro-batches per step and process
        seed: of initial weights and order
        precision: of matrix products (autocast)
        gradient_checkpointing: recompute activations in the backward pass to save memory
        checkpoint_steps: steps between checkpoints and looks at the validation text
        overwrite: delete what an earlier run of this name left, and start over
    """

    name: str | None = None
    folder: str = "runs"
    epochs: float = 1
    tokens: int | None = None
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    checkpoint_steps: int = 200
    overwrite: bool = False


@dataclass
class LanguageRecipe:
    """Everything a run depends on.

    Args:
        task: language: the settings below
        description: one line for the list of recipes
        model: the model
        data: the text
        optim: the optimiser
        run: the run
    """

    task: Literal["language"] = "language"
    description: str = ""
    model: LanguageModelRecipe = field(default_factory=LanguageModelRecipe)
    data: TextRecipe = field(default_factory=TextRecipe)
    optim: LanguageOptimRecipe = field(default_factory=LanguageOptimRecipe)
    run: LanguageRunRecipe = field(default_factory=LanguageRunRecipe)

    def flat(self) -> dict[str, Any]:
        """Every setting under its dotted name, lists and tuples alike."""
        return flatten(asdict(self))
