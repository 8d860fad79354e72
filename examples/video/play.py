"""A clip played through an encoder: once or again and again, every frame timed, the first time painted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from examples.video.clip import CutFinder, Facts, Picture, pictures
from examples.video.compare import timed
from examples.video.encoder import FrameEncoder, step
from examples.video.film import Moment, Painter, film, save_png
from examples.video.latency import Latencies

WARM_UP = 3  # frames before the clock counts: memory is allocated, kernels are loaded


@dataclass(frozen=True)
class Play:
    """What is played: `clip`, sampled at `fps` (0: all frames), scaled to `size` (height, width).

    minutes: length of the stream (0: the clip once).  seconds: of the clip.  cut: the CutFinder's threshold.
    """

    clip: Path
    facts: Facts
    size: tuple[int, int]
    fps: float = 5.0
    seconds: float = float("inf")
    minutes: float = 0.0
    cut: float = 0.12

    @property
    def rate(self) -> float:
        """Frames a second of the stream."""
        return min(self.fps, self.facts.rate) if self.fps else self.facts.rate

    @property
    def total(self) -> int:
        """Frames of the stream: exactly, if it is replayed, else about (0: unknown)."""
        return max(1, round(60 * self.minutes * self.rate)) if self.minutes else self.once

    @property
    def once(self) -> int:
        """Frames of one pass of the clip, about (0: unknown)."""
        return round(min(self.facts.frames / self.facts.rate, self.seconds) * self.rate)

    def frames(self, large: tuple[int, int] | None = None, notice: Any = tqdm.write) -> Iterator[Picture]:
        """The clip's frames, once."""
        return pictures(self.clip, self.fps, self.size, large, self.seconds, notice)

    def endless(self) -> Iterator[Picture]:
        """The clip's frames, again and again. Raises ValueError if there is none."""
        while True:
            empty = True
            for picture in self.frames(notice=lambda text: None):
                empty = False
                yield picture
            if empty:
                raise ValueError(f"{self.clip}: no frame in the first {self.seconds:g} s; ask for more --seconds")


@dataclass
class Run:
    """What came of a play: latencies, numbers of the frames that began a scene, files, whether it came to its end."""

    latencies: Latencies = field(default_factory=Latencies)
    cuts: list[int] = field(default_factory=list)
    written: list[Path] = field(default_factory=list)
    state_bytes: int = 0
    whole: bool = True


class Player:
    """Plays `what` through an encoder; with a painter also the film of the clip's first pass, and one picture of it.

    film: where the film goes, an mp4; the picture beside it.  layer: whose memberships are painted.
    """

    def __init__(self, what: Play, encoder: FrameEncoder, painter: Painter | None, film: Path, layer: int) -> None:
        self.what, self.encoder, self.painter, self.film, self.layer = what, encoder, painter, film, layer
        self.run, self.begins = Run(), CutFinder(what.cut)

    def play(self) -> Run:
        """Time every frame. Ctrl-C ends it, and what was played so far stays whole. ValueError if there is no frame."""
        self._warm_up()
        total = self.what.total or None
        with tqdm(total=total, desc=self.what.clip.name, unit=" frames", leave=False, disable=None) as self.bar:
            self._first_pass()
            if self.what.minutes and self.run.whole:
                self._replay()
        return self.run

    def _warm_up(self) -> None:
        """A few steps that don't count."""
        for _, picture in zip(range(WARM_UP), self.what.endless()):
            step(self.encoder, picture.small)
        self.encoder.reset()

    def _first_pass(self) -> None:
        """The clip once, with the film."""
        painter, wall = self.painter, self.run.latencies.wall
        with film(self.film, self.what.rate) if painter else nullcontext() as append:
            with stoppable(self.run):
                for picture in self.what.frames(None if painter is None else painter.size):
                    self._one(picture)
                    if painter is not None and append is not None and picture.large is not None:
                        append(self._painted(painter, picture.large, picture.time))
                    if self.what.minutes and len(wall) >= self.what.total:
                        break
            if not wall and self.run.whole:
                raise ValueError(f"{self.what.clip}: no frame was played; ask for more --seconds")
            if not wall:
                raise KeyboardInterrupt  # there is nothing to keep
        self.run.written += [self.film] if painter else []

    def _replay(self) -> None:
        """The clip again and again, until the stream is as long as it should be."""
        with stoppable(self.run):
            for _, picture in zip(range(self.what.total - len(self.run.latencies.wall)), self.what.endless()):
                self._one(picture)

    def _one(self, picture: Picture) -> None:
        """One frame: forget if a scene begins, time the step."""
        run = self.run
        if self.begins(picture.small) or picture.resized:
            self.encoder.reset()
            run.cuts.append(len(run.latencies.wall) + 1)
        run.latencies.add(*timed(self.encoder, picture.small))
        run.state_bytes = self.encoder.nbytes
        self.bar.set_postfix_str(f"{run.latencies.wall[-1]:.0f} ms", refresh=False)
        self.bar.update()

    def _painted(self, painter: Painter, picture: np.ndarray, time: float) -> np.ndarray:
        """The film's picture of the frame just played; that of the middle is written too."""
        run, number = self.run, len(self.run.latencies.wall)
        now = Moment(time, number, run.latencies.wall, run.cuts, run.state_bytes)
        painted = painter.paint(picture, self.encoder.mixers[self.layer].membership(), now)
        if number == max(1, self.what.once // 2):
            run.written.append(self.film.with_suffix(".png"))
            save_png(painted, run.written[-1])
        return painted


@contextmanager
def stoppable(run: Run) -> Iterator[None]:
    """Ctrl-C leaves the block, and the run is marked as cut short."""
    try:
        yield
    except KeyboardInterrupt:
        run.whole = False
