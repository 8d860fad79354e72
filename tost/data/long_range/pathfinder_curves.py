"""The curves of Pathfinder images, as line segments in the plane (compiled).

A contour is a chain of dashes. Its joints, halfway between two dashes, are length + 2 margin apart; a dash lies between
two joints and leaves `margin` free at both ends. At a joint the chain turns by d, drawn with the density
cos^2(continuity d), |d| < pi / (2 continuity), from the turns that keep the dash inside the image and `clear` of every
other dash but the one before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tost.data.long_range.chance import below, jit, uniform

# a geometry is (side, padding, length, margin, clear, continuity, seed distance, room)
TRIES, PLACES = 24, 50  # directions tried for a dash, places tried for a distractor


# dashes are named by their place in the table: a row on its own is an object, which costs more than the arithmetic


@jit("float64(float64, float64, float64[:, ::1], int64)")
def to_dash(x: Any, y: Any, dashes: Any, i: Any) -> Any:
    """Distance of the point (x, y) from dash i."""
    along, down = dashes[i, 2] - dashes[i, 0], dashes[i, 3] - dashes[i, 1]
    right, under = x - dashes[i, 0], y - dashes[i, 1]
    share = min(1.0, max(0.0, (right * along + under * down) / (along * along + down * down)))
    return np.sqrt((right - share * along) ** 2 + (under - share * down) ** 2)


@jit("float64(float64[:, ::1], int64, int64, int64)")
def turns(dashes: Any, i: Any, j: Any, end: Any) -> Any:
    """On which side of dash i (the sign) the tail (end 0) or the head (end 2) of dash j lies."""
    across, down = dashes[i, 2] - dashes[i, 0], dashes[i, 3] - dashes[i, 1]
    return across * (dashes[j, end + 1] - dashes[i, 1]) - down * (dashes[j, end] - dashes[i, 0])


@jit("boolean(float64[:, ::1], int64, int64, float64)")
def nearer(dashes: Any, i: Any, j: Any, limit: Any) -> Any:
    """Whether dashes i and j cut each other or come nearer than `limit`."""
    for end in (0, 2):
        if to_dash(dashes[i, end], dashes[i, end + 1], dashes, j) < limit:
            return True
        if to_dash(dashes[j, end], dashes[j, end + 1], dashes, i) < limit:
            return True
    return turns(dashes, i, j, 0) * turns(dashes, i, j, 2) < 0 and turns(dashes, j, i, 0) * turns(dashes, j, i, 2) < 0


@jit("boolean(UniTuple(float64, 8), int64, float64[:, ::1], int64)")
def leaves_circles(geometry: Any, contour: Any, dashes: Any, count: Any) -> Any:
    """Whether dash `count` keeps away from the tips of the other long contours, and its own last tip from theirs.

    The first 2 contour dashes are those of the long contours in turn, so dash i belongs to number i % 2. Any of the
    four tips may be marked, so that the choice of the pair does not change a curve.
    """
    room, last, short = geometry[7], 2 * contour - 2, count >= 2 * contour
    for tip in range(2):
        if not short and count % 2 == tip:
            continue
        if tip < count and to_dash(dashes[tip, 0], dashes[tip, 1], dashes, count) < room:
            return False
        if last + tip < count and to_dash(dashes[last + tip, 2], dashes[last + tip, 3], dashes, count) < room:
            return False
    if short or count < last:
        return True
    x, y = dashes[count, 2], dashes[count, 3]
    for i in range(1 - count % 2, count, 2):
        if to_dash(x, y, dashes, i) < room:
            return False
    return to_dash(x, y, dashes, count % 2) >= room


@jit("boolean(UniTuple(float64, 8), int64, float64[:, ::1], int64, int64, float64, float64, float64)")
def lay(geometry: Any, contour: Any, dashes: Any, count: Any, previous: Any, x: Any, y: Any, angle: Any) -> Any:
    """Puts a dash that leaves joint (x, y) under `angle` at dashes[count]; whether it has the room it needs."""
    low, high = geometry[1], geometry[0] - 1 - geometry[1]
    length, margin, clear = geometry[2], geometry[3], geometry[4]
    across, down = np.cos(angle), np.sin(angle)
    dashes[count, 0], dashes[count, 1] = x + margin * across, y + margin * down
    dashes[count, 2], dashes[count, 3] = x + (margin + length) * across, y + (margin + length) * down
    for i in range(4):
        if dashes[count, i] < low or dashes[count, i] > high:
            return False
    for i in range(count):
        apart = max(abs(dashes[count, 0] - dashes[i, 0]), abs(dashes[count, 1] - dashes[i, 1]))
        if apart < 2 * length + clear and i != previous and nearer(dashes, count, i, clear):
            return False
    return leaves_circles(geometry, contour, dashes, count)


@jit("boolean(uint64[::1], UniTuple(float64, 8), int64, float64[:, ::1], int64, int64)")
def extend(state: Any, geometry: Any, contour: Any, dashes: Any, count: Any, previous: Any) -> Any:
    """Another dash, dashes[count], behind dashes[previous]; False at a dead end."""
    limit, x, y = np.pi / (2 * geometry[5]), dashes[previous, 2], dashes[previous, 3]
    angle = np.arctan2(y - dashes[previous, 1], x - dashes[previous, 0])
    x, y = x + geometry[3] * np.cos(angle), y + geometry[3] * np.sin(angle)
    for _ in range(TRIES):
        turn = (2 * uniform(state) - 1) * limit
        if uniform(state) >= np.cos(geometry[5] * turn) ** 2:
            continue
        if lay(geometry, contour, dashes, count, previous, x, y, angle + turn):
            return True
    return False


@jit("boolean(uint64[::1], UniTuple(float64, 8), int64, float64[:, ::1], int64, float64, float64)")
def begin(state: Any, geometry: Any, contour: Any, dashes: Any, count: Any, x: Any, y: Any) -> Any:
    """The first dash of a contour, its tail at (x, y), in any direction; False where there is no room."""
    angle = (2 * uniform(state) - 1) * np.pi
    x, y = x - geometry[3] * np.cos(angle), y - geometry[3] * np.sin(angle)
    return lay(geometry, contour, dashes, count, -1, x, y, angle)


@jit("boolean(uint64[::1], UniTuple(float64, 8), int64, float64[:, ::1])")
def targets(state: Any, geometry: Any, contour: Any, dashes: Any) -> Any:
    """Two contours of `contour` dashes, taking turns from dashes[0] on; False where they get stuck again and again.

    They begin near the middle, `seed distance` apart, and go back a few dashes from a dead end.
    """
    side, seed_distance = geometry[0], geometry[6]
    inset = min(2 * seed_distance, 0.45 * side)
    x = inset + uniform(state) * (side - 2 * inset)
    y = inset + uniform(state) * (side - 2 * inset)
    angle = uniform(state) * 2 * np.pi
    if not begin(state, geometry, contour, dashes, 0, x, y):
        return False
    x, y = x + seed_distance * np.cos(angle), y + seed_distance * np.sin(angle)
    if not begin(state, geometry, contour, dashes, 1, x, y):
        return False
    count = 2
    for _ in range(40 * contour):
        if count == 2 * contour:
            break
        if extend(state, geometry, contour, dashes, count, count - 2):
            count += 1
        else:
            count = max(2, count - 1 - below(state, 4))
    return count == 2 * contour


@jit("int64(uint64[::1], UniTuple(float64, 8), UniTuple(int64, 3), float64[:, ::1])")
def distractors(state: Any, geometry: Any, numbers: Any, dashes: Any) -> Any:
    """As many distractors as find room, behind the two long contours; returns the number of all dashes."""
    contour, number, short = numbers
    count = 2 * contour
    for _ in range(number):
        for _ in range(PLACES):
            x, y = uniform(state) * geometry[0], uniform(state) * geometry[0]
            if not begin(state, geometry, contour, dashes, count, x, y):
                continue
            made = 1
            while made < short and extend(state, geometry, contour, dashes, count + made, count + made - 1):
                made += 1
            if made == short:
                count += short
                break
    return count


@jit("int64(uint64[::1], UniTuple(float64, 8), UniTuple(int64, 3), float64[:, ::1])")
def curves(state: Any, geometry: Any, numbers: Any, dashes: Any) -> Any:
    """The dashes [n, 4] of one image; returns n, or 0 after 100,000 failures.

    numbers: (dashes of a long contour, number of distractors, dashes of a distractor).
    """
    for _ in range(100_000):
        if targets(state, geometry, numbers[0], dashes):
            return distractors(state, geometry, numbers, dashes)
    return 0


@jit("UniTuple(float64, 4)(uint64[::1], float64[:, ::1], int64, int64)")
def circles(state: Any, dashes: Any, contour: Any, label: Any) -> Any:
    """Centres (x0, y0, x1, y1) of the circles: where a target contour begins, where it (1) or the other (0) ends."""
    first = below(state, 2)
    last = 2 * contour - 2 + (first if label else 1 - first)
    return dashes[first, 0], dashes[first, 1], dashes[last, 2], dashes[last, 3]


@jit("void(float64[:, ::1], UniTuple(float64, 4), float64, float64, float64, uint8[:, ::1])")
def draw(dashes: Any, marks: Any, thickness: Any, contrast: Any, radius: Any, image: Any) -> Any:
    """Dashes and circles, antialiased, into image [side, side] uint8; a circle is 255."""
    side, reach = image.shape[0], thickness / 2 + 0.5
    for i in range(len(dashes)):
        left, right = min(dashes[i, 0], dashes[i, 2]) - reach, max(dashes[i, 0], dashes[i, 2]) + reach
        top, bottom = min(dashes[i, 1], dashes[i, 3]) - reach, max(dashes[i, 1], dashes[i, 3]) + reach
        for y in range(max(0, int(top)), min(side, int(bottom) + 2)):
            for x in range(max(0, int(left)), min(side, int(right) + 2)):
                covered = min(max(reach - to_dash(x, y, dashes, i), 0.0), min(1.0, thickness))
                image[y, x] = max(image[y, x], np.uint8(255 * min(1.0, contrast * covered) + 0.5))
    for mark in range(2):
        across, down = marks[2 * mark], marks[2 * mark + 1]
        for y in range(max(0, int(down - radius) - 1), min(side, int(down + radius) + 2)):
            for x in range(max(0, int(across - radius) - 1), min(side, int(across + radius) + 2)):
                covered = radius + 0.5 - np.sqrt((x - across) ** 2 + (y - down) ** 2)
                if covered > 0:
                    image[y, x] = max(image[y, x], np.uint8(255 * min(1.0, covered) + 0.5))
