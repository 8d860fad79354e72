"""What `tost train NAME` runs: the settings of a recipe, their types, defaults and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass
class ModelRecipe:
    """The model.

    Args:
        name: one of `tost models`
        mixer: what mixes tokens in every block, a name in tost.nn.MIXERS: tssa, softmax, xca, linear, none, cbsa, or
            TSSA with a part changed (tssa-unscaled, tssa-uniform, tssa-orthonormal, tssa-decoupled)
        drop_path_rate: share of residual branches dropped while training
        weights: a run folder, a folder of save_pretrained, a .safetensors file or a name on the Hub to start from
        options: further arguments of tost.create_model
    """

    name: str = "tost_nano_6_p1"
    mixer: str = "tssa"
    drop_path_rate: float = 0.0
    weights: str | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class DataRecipe:
    """The images.

    Args:
        source: auto (told from the files at data.path), digits, idx, cifar, folder, flowers102, pets or hub
        path: folder of the images, or for hub the name of a dataset
        image_size: side in pixels that the model sees
        crop_ratio: share of the short side that the evaluation's centre crop keeps
        validation: share of the training images set apart to watch progress
        mean: per channel, of pixels in 0 to 1
        std: per channel, of pixels in 0 to 1
        workers: processes that decode image files
    """

    source: Literal["auto", "digits", "idx", "cifar", "folder", "flowers102", "pets", "hub"] = "auto"
    path: str | None = None
    image_size: int = 224
    crop_ratio: float = 0.875
    validation: float = 0.1
    mean: list[float] = field(default_factory=lambda: [0.485, 0.456, 0.406])
    std: list[float] = field(default_factory=lambda: [0.229, 0.224, 0.225])
    workers: int = 2


@dataclass
class AugmentRecipe:
    """Changes made to training batches on the device; 0 turns one off.

    Args:
        random_crop: range of areas of a random resized crop (image files only), such as [0.08, 1.0]
        padding: random crop after padding by so many pixels (small images)
        flip: probability of a horizontal flip
        affine: small random turns (degrees), and shifts and scalings in proportion (10 = 10 degrees, 10 percent)
        rand_augment: magnitude of two random RandAugment operations, up to 30
        rand_augment_p: probability that a batch gets them
        mixup: alpha of mixup
        cutmix: alpha of cutmix; with mixup too, each batch takes one of them
        erasing: probability of erasing a random rectangle
        label_smoothing: share of the target spread over all classes
    """

    random_crop: list[float] | None = None
    padding: int = 0
    flip: float = 0.0
    affine: float = 0.0
    rand_augment: int = 0
    rand_augment_p: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    erasing: float = 0.0
    label_smoothing: float = 0.0


@dataclass
class ObjectiveRecipe:
    """What is learned.

    Args:
        loss: cross-entropy, or mcr2: features whose coding rate reduction is largest, batch by batch (of each process
            and micro-batch), and which the nearest subspace reads
        features: mcr2: how many the head gives; few against the images of a batch, some for each class
        eps: mcr2: distortion of the coding rates
        width: mcr2: principal directions of the features of a class
    """

    loss: Literal["cross-entropy", "mcr2"] = "cross-entropy"
    features: int = 64
    eps: float = 0.5
    width: int = 6


@dataclass
class OptimRecipe:
    """AdamW under a cosine schedule with linear warm-up.

    Args:
        lr: peak learning rate
        final_lr: last learning rate as a share of the peak
        warmup_epochs: length of the linear warm-up
        weight_decay: on weight matrices and filters alone
        betas: AdamW's two averages
        clip: largest gradient norm, 0 = no limit
        layer_decay: learning rate of a block as a share of the next block's (fine-tuning; 1 = the same for all)
        ema: decay of an average of the weights that is then evaluated and saved, 0 = none
    """

    lr: float = 1e-3
    final_lr: float = 0.0
    warmup_epochs: float = 0.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    clip: float = 1.0
    layer_decay: float = 1.0
    ema: float = 0.0


@dataclass
class RunRecipe:
    """The run and where it is kept.

    Args:
        name: name of the run's folder (default: the recipe's name)
        folder: where runs are kept
        epochs: passes over the training images
        steps: stop after so many steps instead
        batch_size: images per step, over all processes and accumulated micro-batches
        accumulate: micro-batches per step and process
        seed: of initial weights, order and augmentation
        precision: of matrix products (autocast)
        gradient_checkpointing: recompute activations in the backward pass to save memory
        checkpoint_epochs: epochs between checkpoints and looks at the validation images
        overwrite: delete what an earlier run of this name left, and start over
    """

    name: str | None = None
    folder: str = "runs"
    epochs: float = 10
    steps: int | None = None
    batch_size: int = 128
    accumulate: int = 1
    seed: int = 0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    gradient_checkpointing: bool = False
    checkpoint_epochs: float = 1
    overwrite: bool = False


@dataclass
class Recipe:
    """Everything a run depends on.

    Args:
        task: vision: the settings below
        description: one line for the list of recipes
        model: the model
        data: the images
        augment: changes made to training batches
        objective: what is learned
        optim: the optimiser
        run: the run
    """

    task: Literal["vision"] = "vision"
    description: str = ""
    model: ModelRecipe = field(default_factory=ModelRecipe)
    data: DataRecipe = field(default_factory=DataRecipe)
    augment: AugmentRecipe = field(default_factory=AugmentRecipe)
    objective: ObjectiveRecipe = field(default_factory=ObjectiveRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    run: RunRecipe = field(default_factory=RunRecipe)

    def flat(self) -> dict[str, Any]:
        """Every setting under its dotted name, lists and tuples alike."""
        return flatten(asdict(self))


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run": {"epochs": 5}} -> {"run.epochs": 5}; tuples become lists."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and f"{prefix}{key}" != "model.options":
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """{"run.epochs": 5} -> {"run": {"epochs": 5}}."""
    tree: dict[str, Any] = {}
    for key, value in settings.items():
        branch = tree
        *path, leaf = key.split(".")
        for step in path:
            branch = branch.setdefault(step, {})
        branch[leaf] = value
    return tree
