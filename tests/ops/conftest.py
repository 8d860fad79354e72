"""Poisoned memory: what a kernel reads without having written is NaN. And an interpreter quick enough."""

import importlib.util
import os

import pytest
import torch


def pytest_configure():
    if os.environ.get("TRITON_INTERPRET") == "1" and importlib.util.find_spec("triton"):
        _quicken_interpreter()


def _quicken_interpreter():
    """Triton's interpreter scans number by number; by slices of the other axes it is a hundred times faster."""
    import numpy as np
    from triton.runtime import interpreter

    def generic_scan(self, input):
        arrays = [part.handle.data for part in input]
        results = [array.copy() for array in arrays]
        for i in range(1, arrays[0].shape[self.axis]):
            here = tuple(i if axis == self.axis else slice(None) for axis in range(arrays[0].ndim))
            before = tuple(i - 1 if axis == self.axis else slice(None) for axis in range(arrays[0].ndim))
            old = [self.to_tensor(np.atleast_1d(r[before]), part.dtype) for r, part in zip(results, input)]
            new = [self.to_tensor(np.atleast_1d(a[here]), part.dtype) for a, part in zip(arrays, input)]
            for result, combined in zip(results, self.combine_fn.fn(*old, *new)):
                result[here] = combined.handle.data.reshape(result[here].shape)
        return [self.to_tensor(result, part.dtype) for result, part in zip(results, input)]

    interpreter.ScanOps.generic_scan = generic_scan


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch):
    """torch.empty and its kin hand out NaN instead of whatever the allocator kept."""

    def poison(make):
        def made(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(float("nan")) if out.is_floating_point() and out.device.type != "meta" else out

        return made

    for name in ("empty", "empty_like", "empty_strided"):
        monkeypatch.setattr(torch, name, poison(getattr(torch, name)))
    monkeypatch.setattr(torch.Tensor, "new_empty", poison(torch.Tensor.new_empty))
