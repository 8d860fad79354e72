"""A clip played through an encoder: once or again and again, every frame timed, the first time painted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from examples.video.clip import CutFinder, Facts, Picture, pictures
from examples.video.compare import timed
from examples.video.encoder import FrameEncoder, step
from examples.video.film import Moment, Painter, film
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
        if self.minutes:
            return max(1, round(60 * self.minutes * self.rate))
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
    """What came of a play: latencies, the numbers of the frames that began a scene, whether it came to its end."""

    latencies: Latencies = field(default_factory=Latencies)
    cuts: list[int] = field(default_factory=list)
    film: Path | None = None
    state_bytes: int = 0
    whole: bool = True


def play(what: Play, encoder: FrameEncoder, painter: Painter | None, film_path: Path, layer: int) -> Run:
    """Time every frame of the stream, paint the clip's first pass. Ctrl-C ends it; what was played so far stays whole.

    Raises ValueError if there is no frame.
    """
    warm_up(what, encoder)
    run, forget = Run(), CutFinder(what.cut)
    bar = tqdm(total=what.total or None, desc=what.clip.name, unit=" frames", leave=False, disable=None)

    def one(picture: Picture) -> None:
        if forget(picture.small) or picture.resized:
            encoder.reset()
            run.cuts.append(len(run.latencies.wall) + 1)
        run.latencies.add(*timed(encoder, picture.small))
        run.state_bytes = encoder.nbytes
        bar.set_postfix_str(f"{run.latencies.wall[-1]:.0f} ms", refresh=False)
        bar.update()

    with bar:
        _first_pass(what, encoder, painter, film_path, layer, run, one)
        if what.minutes and run.whole:
            _replay(what, run, one)
    return run


def warm_up(what: Play, encoder: FrameEncoder) -> None:
    """A few steps that don't count."""
    for _, picture in zip(range(WARM_UP), what.endless()):
        step(encoder, picture.small)
    encoder.reset()


def _first_pass(
    what: Play,
    encoder: FrameEncoder,
    painter: Painter | None,
    film_path: Path,
    layer: int,
    run: Run,
    one: Callable[[Picture], None],
) -> None:
    """The clip once, with the film."""
    with film(film_path, what.rate) if painter else nullcontext() as append, stoppable(run):
        for picture in what.frames(None if painter is None else painter.size):
            one(picture)
            if painter is not None and append is not None and picture.large is not None:
                now = Moment(picture.time, len(run.latencies.wall), run.latencies.wall, run.cuts, run.state_bytes)
                append(painter.paint(picture.large, encoder.mixers[layer].membership(), now))
            if what.minutes and len(run.latencies.wall) >= what.total:
                break
    run.film = film_path if painter else None


def _replay(what: Play, run: Run, one: Callable[[Picture], None]) -> None:
    """The clip again and again, until the stream is as long as it should be."""
    with stoppable(run):
        for _, picture in zip(range(what.total - len(run.latencies.wall)), what.endless()):
            one(picture)


@contextmanager
def stoppable(run: Run) -> Iterator[None]:
    """Ctrl-C leaves the block, and the run is marked as cut short."""
    try:
        yield
    except KeyboardInterrupt:
        run.whole = False
