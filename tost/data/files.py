"""Images packed in single files: IDX (MNIST and its kin) and the binary version of CIFAR."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch

from tost.data.images import ImageOptions, ImageSets, TensorImages, set_apart

IDX_IMAGES, IDX_LABELS = 0x00000803, 0x00000801


def idx(path: Path, options: ImageOptions) -> ImageSets:
    """MNIST, Fashion-MNIST, ...: {train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, in one folder."""
    train, test = (_idx_pair(path, prefix) for prefix in ("train", "t10k"))
    classes = sorted(set(train.labels.tolist()) | set(test.labels.tolist()))
    train, validation = set_apart(train, options.validation)
    return ImageSets(train, validation, test, [str(c) for c in range(max(classes) + 1)], 1, "t10k")


def _idx_pair(folder: Path, prefix: str) -> TensorImages:
    images_path, images = _read_idx(folder, f"{prefix}-images-idx3-ubyte", IDX_IMAGES)
    labels_path, labels = _read_idx(folder, f"{prefix}-labels-idx1-ubyte", IDX_LABELS)
    if len(images) != len(labels):
        raise ValueError(f"{images_path} holds {len(images)} images, {labels_path} {len(labels)} labels")
    return TensorImages(torch.from_numpy(images)[:, None], labels)


def _read_idx(folder: Path, name: str, magic: int) -> tuple[Path, np.ndarray]:
    """The array of one IDX file: big-endian magic number, one size per dimension, then uint8."""
    path = next((p for p in (folder / f"{name}.gz", folder / name) if p.exists()), None)
    if path is None:
        raise ValueError(f"{folder}: expected {name} or {name}.gz in it")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a whole gzip file ({error}); get it again") from None
    rank = magic & 0xFF
    header = np.frombuffer(data[: 4 * (rank + 1)], dtype=">u4")
    if len(header) != rank + 1 or header[0] != magic:
        found = f"{int(header[0]):#010x}" if len(header) else "an empty file"
        raise ValueError(f"{path} is not an IDX file of rank {rank}: expected magic number {magic:#010x}, got {found}")
    shape = tuple(int(size) for size in header[1:])
    body = np.frombuffer(data, dtype=np.uint8, offset=4 * (rank + 1))
    if body.size != np.prod(shape) or body.size == 0:
        raise ValueError(
            f"{path}: expected {int(np.prod(shape))} bytes for shape {shape}, got {body.size}; get it again"
        )
    return path, body.reshape(shape).copy()


def cifar(path: Path, options: ImageOptions) -> ImageSets:
    """CIFAR-10 and CIFAR-100 in their binary versions (cifar-10-batches-bin, cifar-100-binary); never the pickles."""
    if (path / "data_batch_1").exists() or (path / "meta").exists():
        raise ValueError(
            f"{path} is CIFAR's Python version, pickles that could run any code and are not read; get the binary "
            "version (cifar-10-binary.tar.gz or cifar-100-binary.tar.gz) from its publisher's page"
        )
    if (path / "train.bin").exists():
        train, test, labels, names = ["train.bin"], "test.bin", 2, "fine_label_names.txt"
    else:
        train, test, labels, names = (
            [f"data_batch_{i}.bin" for i in range(1, 6)],
            "test_batch.bin",
            1,
            "batches.meta.txt",
        )
    parts = [_read_cifar(path / name, labels) for name in train]
    whole = TensorImages(torch.cat([part.pixels for part in parts]), torch.cat([part.labels for part in parts]))
    kept, validation = set_apart(whole, options.validation)
    held_out = _read_cifar(path / test, labels)
    count = int(max(whole.labels.max(), held_out.labels.max())) + 1
    return ImageSets(kept, validation, held_out, _class_names(path / names, count), 3, "test")


def _read_cifar(path: Path, labels: int) -> TensorImages:
    """Records of `labels` label bytes (the last one counts) and 3 x 32 x 32 pixels."""
    if not path.exists():
        raise ValueError(f"{path.parent}: expected {path.name} in it (the binary version of CIFAR)")
    data, record = np.fromfile(path, dtype=np.uint8), labels + 3072
    if data.size == 0 or data.size % record:
        raise ValueError(f"{path}: expected whole records of {record} bytes, got {data.size} bytes; get it again")
    rows = data.reshape(-1, record)
    return TensorImages(torch.from_numpy(rows[:, labels:].reshape(-1, 3, 32, 32).copy()), rows[:, labels - 1])


def _class_names(path: Path, count: int) -> list[str]:
    names = path.read_text(encoding="utf-8").split() if path.exists() else []
    return names if len(names) == count else [str(i) for i in range(count)]
