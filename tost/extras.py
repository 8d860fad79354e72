"""Optional packages: imported when needed, with the way to get them when missing."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`, or raise an ImportError that names the extra of this package which brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not (module + ".").startswith(error.name + "."):
            raise  # the package is there and something inside it is broken
        package = module.partition(".")[0]
        raise ImportError(
            f"this needs the package {package}, which is not installed: pip install 'tost-transformer[{extra}]'"
        ) from None
