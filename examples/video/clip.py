"""A clip as a stream of pictures: decoded by PyAV one frame at a time, sampled, scaled, turned upright."""

# H, W pixels

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tost.extras import require

Notice = Callable[[str], object]
MOST_DAMAGED = 1000  # packets, before a file is given up


@dataclass(frozen=True)
class Facts:
    """What a file says about its picture: upright size in pixels, frames per second, how many frames (0: unknown)."""

    width: int
    height: int
    rate: float
    frames: int

    @property
    def aspect(self) -> float:
        """Width over height."""
        return self.width / self.height


@dataclass(frozen=True)
class Picture:
    """A sampled frame: small [H, W, 3] for the model, large for the eye (None: not asked for), uint8, when (s)."""

    small: np.ndarray
    large: np.ndarray | None
    time: float
    resized: bool  # the clip's frames are of another size from here on


def facts(path: str | Path) -> Facts:
    """The clip's facts. Raises ValueError if it is no video, has no picture, or no frame of it can be decoded."""
    with _opened(path) as container:
        stream = container.streams.video[0]
        frame, _ = next(_whole_frames(container, stream, lambda text: None), (None, 0.0))
        if frame is None:
            raise ValueError(f"{path}: not one whole frame of the video can be decoded")
        width, height = round(frame.width * float(stream.sample_aspect_ratio or 1)), frame.height
        if _quarter_turns(frame) % 2:
            width, height = height, width
        rate = _rate(stream)
        seconds = (container.duration or 0) / 1e6  # FFmpeg counts microseconds
        return Facts(width, height, rate, stream.frames or round(seconds * rate))


def pictures(
    path: str | Path,
    fps: float,
    small: tuple[int, int],
    large: tuple[int, int] | None = None,
    seconds: float = float("inf"),
    notice: Notice = print,
) -> Iterator[Picture]:
    """The clip's frames, `fps` of them a second (0: all), scaled to `small` and `large` (height, width).

    Damaged packets are left out, frames of another size are scaled like the others; `notice` is told of both.
    """
    with _opened(path) as container:
        stream = container.streams.video[0]
        due, size = 0, (0, 0)
        for frame, time in _whole_frames(container, stream, notice):
            if time > seconds:
                return
            if fps and time * fps < due - 1e-6:
                continue
            due = int(time * fps + 1e-6) + 1
            before, size = size, (frame.width, frame.height)
            resized = before not in ((0, 0), size)
            if resized:
                notice(
                    f"{Path(path).name}: from {time:.1f} s on frames are {size[0]} x {size[1]} pixels, not {before[0]} "
                    f"x {before[1]}; they are scaled to the same grid, and the statistics start anew"
                )
            yield Picture(_scaled(frame, small), None if large is None else _scaled(frame, large), time, resized)


def luminance(picture: np.ndarray, rows: int = 12) -> np.ndarray:
    """Means of the luminance, 0 to 1, of [H, W, 3] uint8 over a grid of square cells, `rows` of them high."""
    light = picture @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    height, width = light.shape
    rows = min(rows, height)
    columns = min(max(1, round(rows * width / height)), width)
    light = light[: height // rows * rows, : width // columns * columns]
    return light.reshape(rows, height // rows, columns, width // columns).mean((1, 3))


class CutFinder:
    """A scene begins where the luminance differs from the frame before's by more than `threshold`, averaged over cells.

    Cells are a twelfth of the height, so that motion within a scene matters little.
    """

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.before: np.ndarray | None = None

    def __call__(self, picture: np.ndarray) -> bool:
        """Whether `picture` begins a scene (the first one doesn't; threshold 0: none does)."""
        if not self.threshold:
            return False
        now, before = luminance(picture), self.before
        self.before = now
        return before is not None and float(np.abs(now - before).mean()) > self.threshold


def _opened(path: str | Path) -> Any:
    av = require("av", extra="video")
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; give a video clip")
    try:
        container = av.open(str(path))
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{path} is not a video that can be read, or its end is missing ({_reason(error)})") from None
    if not container.streams.video:
        kinds = sorted({stream.type for stream in container.streams}) or ["nothing"]
        container.close()
        raise ValueError(f"{path} has no picture (it holds {', '.join(kinds)}); give a video clip")
    return container


def _whole_frames(container: Any, stream: Any, notice: Notice) -> Iterator[tuple[Any, float]]:
    """(frame, its time in s) of all frames that decode whole; tells how many didn't, and if the file ends early.

    Times go up: where a file's own go back, as at a seam between two recordings, they are counted on.
    """
    damaged, count, time, shift, length = 0, 0, 0.0, 0.0, 1 / _rate(stream)
    for frame in _decoded(container.demux(stream)):
        if frame is None or frame.is_corrupt:
            damaged += 1
            continue
        own = time + length if frame.time is None else float(frame.time) + shift
        if count and own <= time:
            shift, own = shift + time + length - own, time + length
        count, time = count + 1, own
        yield frame, time
    if damaged:
        notice(f"{Path(container.name).name}: damaged frames left out: {damaged}")
    whole = (container.duration or 0) / 1e6
    if count and time + length < 0.95 * whole - length:
        notice(f"{Path(container.name).name}: it ends at {time + length:.1f} s of {whole:.1f} s; so far it was played")


def _decoded(packets: Iterator[Any]) -> Iterator[Any]:
    """The packets' frames, None for a damaged packet; a file that is damaged all over ends."""
    errors = require("av", extra="video").error
    damaged = 0
    while damaged < MOST_DAMAGED:
        try:
            frames = next(packets).decode()
        except (StopIteration, errors.EOFError):
            return
        except errors.FFmpegError:
            damaged += 1
            yield None
        else:
            yield from frames


def _rate(stream: Any) -> float:
    """Frames per second, 25 where the file doesn't say."""
    return float(stream.average_rate or stream.guessed_rate or 25)


def _scaled(frame: Any, size: tuple[int, int]) -> np.ndarray:
    """[height, width, 3] uint8, upright."""
    turns = _quarter_turns(frame)
    height, width = size if turns % 2 == 0 else size[::-1]
    return np.ascontiguousarray(
        np.rot90(frame.to_ndarray(width=width, height=height, format="rgb24", interpolation="AREA"), turns)
    )


def _quarter_turns(frame: Any) -> int:
    """How often a picture must be turned left, as phones write it beside the frames."""
    return round(getattr(frame, "rotation", 0) / 90) % 4


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())
