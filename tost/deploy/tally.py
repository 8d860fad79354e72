"""Bytes of living tensors, counted as they come and go: the same for real tensors and for those without data."""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ASKED = torch.ops.aten._local_scalar_dense.default


class Tally(TorchDispatchMode):
    """Counts storages made within it: `live` bytes now, `peak` at the highest.

    What an operation needs inside itself and gives back is not seen. A tensor without data has no values: a check that
    asks for one is told 1 (true).
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: set[int] = set()

    def restart(self) -> None:
        """Let the peak begin again from here."""
        self.peak = self.live

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is ASKED and isinstance(args[0], FakeTensor):
            kind = args[0].dtype
            return True if kind == torch.bool else 1.0 if kind.is_floating_point else 1
        out = func(*args, **(kwargs or {}))
        for part in tree_leaves(out):
            if isinstance(part, Tensor):
                self._meet(part)
        return out

    def _meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.live += size
        weakref.finalize(storage, self._leave, key, size)
        self.peak = max(self.peak, self.live)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size
