"""What `tost train lra-...` and its like run: the settings of a sequence recipe, their types, defaults and meaning."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tost.data.sources import SequenceOptions
from tost.training.recipe import flatten


@dataclass
class SequenceModelRecipe:
    """The model.

    Args:
        dim: features of a token
        num_layers: blocks
        num_heads: heads of the mixer
        mlp_dim: hidden features of the MLP
        mixer: what mixes tokens in every block: tssa, softmax, linear, none or another name in tost.nn.MIXERS; of a
            causal model tssa, softmax, none or token
        positions: sinusoidal, learned (up to the longest sequence) or none
        pool: how the tokens of a sequence become one vector: mean, max or last
        norm_first: norms before mixer and MLP, not after the sums
        causal: a token sees those before it, so that the model can stream
        decay: causal tssa: what of the statistics survives a token (default: all)
        layer_scale_init: initial LayerScale (default: none)
        drop: dropout after the embedding, in projections and MLPs
        attn_drop: dropout of the mixer
        weights: a run folder or a folder of save_pretrained to start from
    """

    dim: int = 128
    num_layers: int = 4
    num_heads: int = 4
    mlp_dim: int = 256
    mixer: str = "tssa"
    positions: Literal["sinusoidal", "learned", "none"] = "sinusoidal"
    pool: Literal["mean", "max", "last"] = "mean"
    norm_first: bool = True
    causal: bool = False
    decay: float | None = None
    layer_scale_init: float | None = None
    drop: float = 0.1
    attn_drop: float = 0.0
    weights: str | None = None


@dataclass
class SequenceOptimRecipe:
    """AdamW with linear warm-up.

    Args:
        lr: peak learning rate
        schedule: what follows the warm-up: cosine (to final_lr), linear (to 0), inverse_sqrt or constant
        final_lr: cosine: last learning rate as a share of the peak
        warmup_steps: length of the linear warm-up
        weight_decay: on weight matrices alone
        betas: AdamW's two averages
        clip: largest gradient norm, 0 = no limit
    """

    lr: float = 1e-3
    schedule: Literal["cosine", "linear", "inverse_sqrt", "constant"] = "cosine"
    final_lr: float = 0.0
    warmup_steps: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.98)
    clip: float = 1.0


@dataclass
class SequenceRunRecipe:
    """The run and where it is kept.

    Args:
        name: name of the run's folder (default: the recipe's name)
        folder: where runs are kept
        epochs: passes over the training sequences
        steps: stop after so many steps instead
        batch_size: items per step, over all processes and accumulated micro-batches
        accumulate: micro-batches per step and process
        seed: of initial weights and order, not of the data
        precision: of matrix products (autocast)
        gradient_checkpointing: recompute activations in the backward pass to save memory
        checkpoint_steps: steps between checkpoints and looks at the validation sequences
        overwrite: delete what an earlier run of this name left, and start over
    """

    name: str | None = None
    folder: str = "runs"
    epochs: float = 10
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    checkpoint_steps: int = 200
    overwrite: bool = False


@dataclass
class SequenceRecipe:
    """Everything a run depends on.

    Args:
        task: sequence: the settings below
        description: one line for the list of recipes
        model: the model
        data: the sequences
        optim: the optimiser
        run: the run
    """

    task: Literal["sequence"] = "sequence"
    description: str = ""
    model: SequenceModelRecipe = field(default_factory=SequenceModelRecipe)
    data: SequenceOptions = field(default_factory=SequenceOptions)
    optim: SequenceOptimRecipe = field(default_factory=SequenceOptimRecipe)
    run: SequenceRunRecipe = field(default_factory=SequenceRunRecipe)

    def flat(self) -> dict[str, Any]:
        """Every setting under its dotted name, lists and tuples alike."""
        return flatten(asdict(self))
