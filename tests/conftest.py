"""Threads of the tests; Triton kernels run on a GPU where there is one, by Triton's interpreter where there is none."""

import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when a kernel is defined: before any test module is imported


THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)  # before fixtures train anything
def pytest_runtest_setup(item):
    """Every test starts from one seed. Its models are tiny: threads would only wait for each other, so that the
    operators' own tests alone have all of them."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS if "tests/ops/" in item.path.as_posix() else 1)


def pytest_collection_modifyitems(config, items):
    """Without a GPU every third of Triton's repeated cases: an interpreter is slow (`make test-triton` runs all)."""
    if torch.cuda.is_available() or os.environ.get("TOST_EVERY_TEST"):
        return
    every = [item for item in items if "triton" in item.name and "[" in item.name and "tests/ops" in str(item.path)]
    left = {item.nodeid for number, item in enumerate(every) if number % 3}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in left])
    items[:] = [item for item in items if item.nodeid not in left]
