"""How large the blocks of each kernel are, and how many warps share one: a rule, or what the tuner found (tune.py)."""

# B batch, N tokens, H heads, D features per head, C = H*D, P tiles

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import torch
import triton
from torch import Tensor

from tost.ops.triton.sizes import padded
from tost.ops.triton.tiles import Tiles, units

TILES_PER_UNIT = 4  # programs that a multiprocessor should have, so that one computes while others wait for memory
SEQUENCES_PER_UNIT = 4  # from here on nothing is gained by cutting sequences into tiles
ONE_LAUNCH = 64  # tokens up to which one launch beats five
TUNABLE = {"ROWS": (4, 8, 16), "num_warps": (2, 4, 8)}  # all that a file of the tuner may set

tried: dict[str, dict[str, int]] = {}  # by key, while the tuner is at work


def tile(w: Tensor) -> int:
    """Tokens a tile: a power of two that gives every multiprocessor some tiles, and few partial sums."""
    wanted = TILES_PER_UNIT * units(w.device)
    return min(1024, max(16, padded(triton.cdiv(w.shape[0] * w.shape[1], wanted))))


def causal(w: Tensor, cu_seqlens: Tensor | None, kept: int | None) -> tuple[bool, int]:
    """Whether one program takes each sequence whole, and the tokens of a tile (`kept`, where that must be its size)."""
    B, N = w.shape[:2]
    S, chip = (B if cu_seqlens is None else cu_seqlens.shape[0] - 1), units(w.device)
    whole = N <= ONE_LAUNCH or chip * SEQUENCES_PER_UNIT <= S
    if kept is not None or whole:
        return whole, kept or 64
    return False, min(64, max(16, padded(B * N // (TILES_PER_UNIT * chip) + 1) // 2))


def columns(kernel: str, w: Tensor, tiles: Tiles) -> tuple[dict, tuple[int, ...]]:
    """Blocks [ROWS, COLUMNS] of kernels that need not know heads, and their grid."""
    C = w.shape[2] * w.shape[3]
    COLUMNS = min(128, padded(C))
    options = _options(kernel, w, COLUMNS=COLUMNS, ROWS=max(1, min(tiles.T, 2048 // COLUMNS)), num_warps=4)
    return options, (tiles.P, triton.cdiv(C, COLUMNS))


def heads(kernel: str, w: Tensor, tiles: Tiles, size: int = 4096) -> tuple[dict, tuple[int, ...]]:
    """Blocks [ROWS, HP, DP] of kernels that need all heads of a token, and their grid."""
    HP, DP = padded(w.shape[2]), padded(w.shape[3])
    ROWS = max(1, min(tiles.T, size // (HP * DP)))
    return _options(kernel, w, HP=HP, DP=DP, ROWS=ROWS, num_warps=warps(ROWS * HP * DP, size // 4)), (tiles.P,)


def tile_columns(kernel: str, w: Tensor, tiles: Tiles) -> tuple[dict, tuple[int, ...]]:
    """Blocks [T, COLUMNS] of kernels that hold a whole tile, and their grid."""
    C = w.shape[2] * w.shape[3]
    COLUMNS = min(64, padded(C))
    options = _options(kernel, w, COLUMNS=COLUMNS, num_warps=warps(tiles.T * COLUMNS, 1024))
    return options, (tiles.P, triton.cdiv(C, COLUMNS))


def lanes(kernel: str, w: Tensor, tiles: Tiles) -> dict:
    """Blocks [ROWS, LANES, EACH] of kernels that take one head of a tile, a warp each."""
    DP = padded(w.shape[3])
    LANES = min(32, DP)
    options = _options(kernel, w, ROWS=16, LANES=LANES, EACH=DP // LANES, num_warps=1)
    return {**options, "ROWS": min(options["ROWS"], 16, tiles.T)}


def token(kernel: str, w: Tensor) -> dict:
    """Blocks [HP, DP] of kernels that take one token after another."""
    HP, DP = padded(w.shape[2]), padded(w.shape[3])
    return _options(kernel, w, HP=HP, DP=DP, num_warps=warps(HP * DP, 256))


def scan(columns: int) -> dict:
    """Tiles and columns [MANY, BLOCK] that the scan over the tiles takes at once."""
    return _options(None, None, MANY=32, BLOCK=min(64, padded(columns)), num_warps=4)


def totals(D: int) -> dict:
    """Blocks [MANY, DP] of kernels that add up what tiles found."""
    DP = padded(D)
    return _options(None, None, MANY=max(1, min(64, 4096 // DP)), DP=DP, num_warps=4)


def warps(numbers: int, each: int) -> int:
    """Warps for a block of so many numbers, `each` a warp."""
    return min(16, max(1, padded(triton.cdiv(numbers, each))))


def key(kernel: str, w: Tensor) -> str:
    """What a tuned setting holds for: kernel, type, heads, features."""
    return f"{kernel} {str(w.dtype).removeprefix('torch.')} {w.shape[2]} {w.shape[3]}"


def tuned_file(device: torch.device) -> Path:
    """Where the tuner keeps what it found for this kind of device."""
    name = torch.get_device_module(device).get_device_name(device).replace(" ", "-").replace("/", "-")
    root = os.environ.get("TOST_CACHE") or Path.home() / ".cache" / "tost"
    return Path(root) / f"triton-{triton.__version__}-{name}.json"


@cache
def tuned(file: Path) -> dict[str, dict[str, int]]:
    """Settings by key; of a file that is missing, damaged or sets something else, nothing."""
    try:
        found = json.loads(file.read_text())
        return {
            str(name): {option: TUNABLE[option][TUNABLE[option].index(value)] for option, value in settings.items()}
            for name, settings in found.items()
        }
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _options(kernel: str | None, w: Tensor | None, **rule: int) -> dict:
    found: dict[str, int] = {}
    if kernel is not None and w is not None:
        found = tried.get(key(kernel, w)) or (tuned(_file(w.device)) if w.device.type != "cpu" else {}).get(
            key(kernel, w), {}
        )
    # fusion is said, because Triton's own default is about to change
    return {**rule, **{name: value for name, value in found.items() if name in rule}, "enable_fp_fusion": True}


@cache
def _file(device: torch.device) -> Path:
    return tuned_file(device)
