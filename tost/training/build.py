"""A recipe's images, model and trainer arguments."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainingArguments

from tost.data import ImageSets, load_images
from tost.data.images import ImageOptions, TensorImages, normalise
from tost.models import ToSTVision, create_model, from_official
from tost.models.pretrained import load_strictly, read_tensors
from tost.training.recipe import Recipe
from tost.training.runs import CHECKPOINTS


def build_images(recipe: Recipe) -> ImageSets:
    """The images of recipe.data."""
    data, crop = recipe.data, recipe.augment.random_crop
    if crop is not None and not (len(crop) == 2 and 0 < crop[0] <= crop[1] <= 1):
        raise ValueError(f"augment.random_crop is a range of areas such as [0.08, 1.0], got {crop}")
    options = ImageOptions(
        image_size=data.image_size,
        crop_ratio=data.crop_ratio,
        validation=data.validation,
        random_crop=(crop[0], crop[1]) if crop else None,
        seed=recipe.run.seed,
    )
    images = load_images(data.source, data.path, options)
    normalise(torch.zeros(1, images.channels, 1, 1), data.mean, data.std)  # refuse what doesn't fit before a run begins
    return images


def build_model(recipe: Recipe, images: ImageSets) -> ToSTVision:
    """The model for these images: fresh weights by the seed, or model.weights with a new head where classes differ."""
    torch.manual_seed(recipe.run.seed)
    model = create_model(
        recipe.model.name,
        num_classes=len(images.classes),
        in_chans=images.channels,
        img_size=recipe.data.image_size,
        mixer=recipe.model.mixer,
        drop_path_rate=recipe.model.drop_path_rate,
        **recipe.model.options,
    )
    if recipe.model.weights:
        tensors, own = read_weights(recipe.model.weights), model.state_dict()
        if tensors.get("head.weight", own["head.weight"]).shape != own["head.weight"].shape:
            tensors |= {name: own[name] for name in ("head.weight", "head.bias")}
        load_strictly(model, tensors, recipe.model.weights)
    if recipe.run.gradient_checkpointing:
        model.set_grad_checkpointing(True)
    return model


def read_weights(source: str) -> dict[str, Tensor]:
    """Tensors of a run, a folder of save_pretrained, a file (.safetensors, the released code's .pth), or of the Hub."""
    path = Path(source)
    if path.suffix == ".safetensors":
        return read_tensors(path)
    if path.suffix in (".pth", ".pt"):
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling fails in many ways
            raise ValueError(
                f"{path} holds more than tensors or is damaged, and is not read ({type(error).__name__})"
            ) from None
        return from_official(loaded.get("model", loaded))
    return ToSTVision.from_pretrained(source).state_dict()


def build_arguments(recipe: Recipe, folder: Path, images: ImageSets) -> TrainingArguments:
    """transformers' arguments; making them joins the processes of `accelerate launch`."""
    run, optim = recipe.run, recipe.optim
    micro_batch, epoch = _micro_batch(recipe), len(images.train) // run.batch_size
    if epoch == 0:
        raise ValueError(
            f"run.batch_size {run.batch_size} is more than the {len(images.train)} training images; lower it"
        )
    steps, every = run.steps or max(1, round(run.epochs * epoch)), max(1, round(run.checkpoint_epochs * epoch))
    schedule: dict[str, Any] = {"lr_scheduler_type": "cosine"}
    if optim.final_lr:
        schedule = {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": optim.final_lr}}
    tensorboard = importlib.util.find_spec("tensorboard") is not None
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(folder / "tensorboard")
    arguments = TrainingArguments(
        output_dir=str(folder / CHECKPOINTS),
        per_device_train_batch_size=micro_batch,
        per_device_eval_batch_size=micro_batch,
        gradient_accumulation_steps=run.accumulate,
        max_steps=steps,
        learning_rate=optim.lr,
        warmup_steps=min(round(optim.warmup_epochs * epoch), steps),
        max_grad_norm=optim.clip,
        bf16=run.precision == "bfloat16",
        fp16=run.precision == "float16",
        seed=run.seed,
        data_seed=run.seed,
        save_strategy="steps",
        save_steps=every,
        eval_strategy="no" if images.validation is None else "steps",
        eval_steps=every,
        logging_steps=next(n for n in range(10, 0, -1) if every % n == 0),  # a checkpoint cuts no average short
        logging_nan_inf_filter=False,
        report_to=["tensorboard"] if tensorboard else "none",
        log_level="error",
        disable_tqdm=False,
        use_cpu=os.environ.get("ACCELERATE_USE_CPU", "false").lower() == "true" or not torch.accelerator.is_available(),
        label_names=["labels"],
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        dataloader_num_workers=0 if isinstance(images.train, TensorImages) else recipe.data.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        **schedule,
    )
    if arguments.n_gpu > 1:  # several GPUs without a launcher: train on one, not by torch's old DataParallel
        arguments._n_gpu = 1
    return arguments


def _micro_batch(recipe: Recipe) -> int:
    """Images per forward pass: the batch divided among the launched processes and their micro-batches."""
    run, processes = recipe.run, int(os.environ.get("WORLD_SIZE", 1))
    if run.batch_size < 1 or run.accumulate < 1 or run.batch_size % (processes * run.accumulate):
        raise ValueError(
            f"run.batch_size {run.batch_size} does not divide into {processes} processes x {run.accumulate} "
            f"micro-batches; choose a multiple of {processes * max(1, run.accumulate)}"
        )
    return run.batch_size // (processes * run.accumulate)
