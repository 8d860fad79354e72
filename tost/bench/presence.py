"""Which contestants can run here, and why the others cannot."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch

from tost.bench.contestants import CONTESTANTS, Case, Contestant, Entry, make_inputs
from tost.bench.settings import Settings
from tost.ops import which_backend


def absentees(settings: Settings) -> dict[str, str]:
    """contestant: why it cannot run here, for those that are worth a word."""
    found = {}
    for name, contestant in CONTESTANTS.items():
        reason = obstacle(name, contestant, settings)
        if reason is not None:
            found[name] = reason
    return found


def obstacle(name: str, contestant: Contestant, settings: Settings) -> str | None:
    """Why a contestant cannot run here, or None if it can."""
    if contestant.gpu_only and settings.device == "cpu":
        return "runs on a GPU only"
    if contestant.needs and not any(find_spec(package) for package in contestant.needs):
        return f"{' or '.join(contestant.needs)} is not installed"
    small = [Case(op, True, 2, 128, 16, 64, settings.dtype, settings.device) for op in contestant.ops]
    if name == "compiled":
        return compiler_reason(settings.device)
    if contestant.kind == "ours":
        try:
            which_backend(make_inputs(small[0])[0], name)
        except ValueError as declined:
            return str(declined)
        return None
    try:
        for case in small:
            if not all(part.isfinite().all() for part in Entry(name, case).outputs()):
                return f"gives no finite numbers in {settings.dtype}"
    except Exception as error:  # whatever keeps a rival from working here is the answer
        return f"does not work here ({' '.join(str(error).split())[:120] or type(error).__name__})"
    return None


@lru_cache
def compiler_reason(device: str) -> str | None:
    """Why torch.compile cannot run here, or None if it can."""
    try:
        torch.compile(torch.neg, dynamic=False)(torch.ones(2, device=device))
    except Exception as error:  # whatever keeps the compiler from working is the answer
        return f"torch.compile does not work here ({' '.join(str(error).split())[:120] or type(error).__name__})"
    return None
