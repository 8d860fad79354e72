"""Results as files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tost.files import atomic_write


def write_json(result: Mapping[str, Any], path: str | Path) -> None:
    """A result as JSON, whole or not at all."""
    with atomic_write(path, "w") as file:
        json.dump(result, file, indent=1)
        file.write("\n")
