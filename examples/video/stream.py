"""The command: play a clip once or for hours, time every frame, paint the film, measure the rivals."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from examples.video.clip import facts
from examples.video.compare import Comparison, compare
from examples.video.encoder import grid_for, rival_named, streaming
from examples.video.film import Painter
from examples.video.play import Play, Player, stoppable
from examples.video.report import headline, report, write

DESCRIPTION = """A transformer over video, frame by frame: it remembers token statistics, a few kB, for hours.

Writes overlay.mp4 and .png (which head holds which place), latency.png and .csv, and summary.json into --out."""
GIB = 2**30


def stream(
    clip: Path,
    out: Path = Path("runs/video"),
    model: str = "flowers",
    tokens: int = 2304,
    fps: float = 5.0,
    seconds: float = float("inf"),
    minutes: float = 0.0,
    statistics: Literal["frame", "token"] = "frame",
    half_life: float = 1.0,
    cut: float = 0.12,
    overlay: bool = True,
    layer: int = -2,
    against: str = "",
    limit: float = 120.0,
    memory: float = 4.0,
    threads: int = 1,
) -> int:
    """Play a clip through a vision model whose token statistics are carried from frame to frame.

    Args:
        clip: a video file, whatever FFmpeg reads
        out: folder for what is written
        model: flowers (trained, ships with the package), or a vision model of `tost models` with random weights
        tokens: about how many patches a frame has; 2304 are 64 x 36 of a 16:9 frame
        fps: frames a second to take from the clip (0: all)
        seconds: how much of the clip to take
        minutes: length of the stream, the clip is played again and again (0: once)
        statistics: frame: those of the whole frame, added to those of earlier frames; token: causal, row by row
        half_life: of the statistics, in frames (0: each frame alone; inf: nothing is forgotten)
        cut: forget everything where the luminance differs by more than this from the frame before, on average over
            cells of a twelfth of the height (of 1; 0: never)
        overlay: write overlay.mp4 while the clip plays for the first time
        layer: whose memberships to paint, from 1, or from the end with -1
        against: rivals of the same size, separated by commas: cache-8, cache-32, cache-all (softmax attention to the
            frames in a cache of keys and values), recompute-8 (softmax over the last 8 frames), tost-recompute-8
        limit: seconds for each rival
        memory: GiB for the cache of each rival
        threads: of torch
    """
    at_least(1, tokens=tokens, threads=threads)
    at_least(0, fps=fps, seconds=seconds, half_life=half_life, cut=cut, limit=limit, memory=memory)
    at_least(0, minutes=minutes if minutes < float("inf") else -minutes)
    torch.set_num_threads(threads)
    rivals = [rival_named(name.strip()) for name in against.split(",") if name.strip()]
    make = partial(streaming, model, statistics, half_life)
    encoder, told = make(), facts(clip)
    grid, patch = grid_for(told.aspect, tokens), encoder.model.config.patch_size
    what = Play(clip, told, (grid[0] * patch, grid[1] * patch), fps, seconds, minutes, cut)
    index = layer_index(layer, len(encoder.mixers))
    painter = None
    if overlay:
        title = f"{model}, layer {index + 1} of {len(encoder.mixers)}: which head holds which place"
        painter = Painter(title, clip.name, grid, told.aspect, encoder.model.config.num_heads)
    print(headline(what, encoder, model, grid))
    run = Player(what, encoder, painter, out / "overlay.mp4", index).play()
    chosen = {"clip": clip.name, "model": model, "tokens": grid[0] * grid[1], "statistics": statistics}
    chosen["half_life"] = f"{half_life:g} frames"
    found: list[Comparison] = []
    summary = write(out, chosen, what, run, found)
    with stoppable(run):
        for kind in rivals if run.whole else []:
            with tqdm(what.endless(), desc=kind.name, unit=" frames", leave=False, disable=None) as bar:
                pictures, contestant = (frame.small for frame in bar), kind.build(model, memory * GIB)
                found.append(compare(kind, contestant, make(), pictures, limit))
            summary = write(out, chosen, what, run, found)
    print(report(out, summary, run, found))
    return 0 if run.whole else 130


def at_least(least: float, **options: float) -> None:
    """ValueError for an option below it."""
    for name, value in options.items():
        if not value >= least:
            raise ValueError(f"--{name}: expected a number from {least}, got {value:g}")


def layer_index(layer: int, count: int) -> int:
    """From 1 to count, or from the end with -1, as an index from 0."""
    index = layer - 1 if layer > 0 else count + layer
    if layer == 0 or not 0 <= index < count:
        raise ValueError(f"--layer: expected 1 to {count}, or -1 to -{count} from the end, got {layer}")
    return index
