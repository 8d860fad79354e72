"""Checkpoints that are either whole or absent: written beside their place, made durable, then renamed."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import safetensors
import torch

from tost.files import sync_folder

STAGING = ".unfinished"
_NAME = re.compile(r"checkpoint-(\d+)")
_WRITE_FAILED = re.compile(r"write|No space|quota|too large|unexpected pos|os error|iostream", re.IGNORECASE)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint in `folder`, or None."""
    found = _checkpoints(folder)
    return found[-1] if found else None


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name tells."""
    match = _NAME.fullmatch(checkpoint.name)
    assert match is not None
    return int(match.group(1))


def check_readable(checkpoint: Path) -> None:
    """ValueError if a file of `checkpoint` is damaged or holds more than tensors and numbers."""
    try:
        for path in sorted(checkpoint.iterdir()):
            if path.suffix == ".safetensors":
                with safetensors.safe_open(path, framework="pt"):
                    pass
            elif path.name in ("optimizer.pt", "scheduler.pt") or path.suffix == ".bin":
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # every format has its own kind
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}); delete the folder {checkpoint} to go on from before it"
        ) from None


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed process left of a checkpoint that it was writing."""
    shutil.rmtree(folder / STAGING, ignore_errors=True)


def publish(folder: Path, keep: int = 2) -> None:
    """Move the staged checkpoint to its place once it is on the disk; then drop all but the newest `keep`."""
    staging = folder / STAGING
    for checkpoint in staging.iterdir():
        for file in checkpoint.rglob("*"):
            if file.is_file():
                _sync_file(file)
        sync_folder(checkpoint)
        target = folder / checkpoint.name
        if target.exists():  # the same step, saved again after an interruption
            shutil.rmtree(checkpoint)
        else:
            os.replace(checkpoint, target)
    shutil.rmtree(staging, ignore_errors=True)
    sync_folder(folder)
    for old in _checkpoints(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def publish_files(folder: Path) -> Iterator[Path]:
    """A staging folder for a library to write files into; each then moves, whole and durable, to `folder`."""
    staging = folder / STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        for file in sorted(staging.iterdir()):
            _sync_file(file)
            os.replace(file, folder / file.name)
        sync_folder(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turn the many ways in which libraries report a failed write into one OSError in one line."""
    try:
        yield
    except OSError as error:
        raise OSError(_advice(what, error)) from error
    except Exception as error:  # torch raises RuntimeError, safetensors its own kind
        if not _WRITE_FAILED.search(str(error)):
            raise
        raise OSError(_advice(what, error)) from error


def _advice(what: str, error: BaseException) -> str:
    reason = "the disk did not take the whole file (is it full?)"
    if isinstance(error, OSError) and error.errno and error.errno != errno.ENOSPC:
        reason = os.strerror(error.errno)
    return f"cannot write {what}: {reason}; nothing was left half-written; make room, then the same command goes on"


def _checkpoints(folder: Path) -> list[Path]:
    found = [p for p in folder.glob("checkpoint-*") if _NAME.fullmatch(p.name) and p.is_dir()]
    return sorted(found, key=step_of)


def _sync_file(path: Path) -> None:
    with open(path, "r+b") as file:
        os.fsync(file.fileno())
