"""Put a finished run into the package: `python -m benchmarks.ship runs/vision-flowers flowers`."""

from __future__ import annotations

import shutil
from pathlib import Path

import yaml
from jsonargparse import auto_cli

from tost.files import atomic_write
from tost.shipped import SHIPPED, shipped
from tost.training import load_run

LIMIT = 8 * 10**6  # bytes of all shipped models together


def ship(run: Path, name: str) -> None:
    """Copy what a finished run needs to be read; its paths, checkpoints and metrics stay behind, the model card stays.

    Args:
        run: folder of a finished run
        name: of a shipped model
    """
    load_run(run)
    folder = shipped(name)
    folder.mkdir(exist_ok=True)
    for file in sorted(run.iterdir()):
        if file.is_file() and file.name not in ("README.md", "metrics.jsonl"):
            shutil.copyfile(file, folder / file.name)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config["data"]["path"], config["run"]["folder"], config["run"]["name"] = None, "runs", name
    with atomic_write(folder / "config.yaml", "w") as out:
        yaml.safe_dump(config, out, sort_keys=False, allow_unicode=True)
    load_run(folder)
    size = sum(file.stat().st_size for other in SHIPPED for file in shipped(other).glob("*") if file.is_file())
    if size > LIMIT:
        raise SystemExit(f"the shipped models take {size:,} bytes, more than {LIMIT:,}")
    print(f"{folder}: all shipped models together {size:,} bytes")


if __name__ == "__main__":
    auto_cli(ship, prog="python -m benchmarks.ship")
