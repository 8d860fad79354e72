"""The full operator's backward pass: three passes over w, two over the cotangent g. full.py says how work is shared."""

# S sequences, R rows = tokens of all sequences, H heads, D features per head, C = H*D, P = H * (D padded to vectors)

from __future__ import annotations

from numba.extending import register_jitable

from tost.ops.common import FULL_FLOOR, MASS_EPS
from tost.ops.cpu.blocks import (
    BLOCK,
    FLAG,
    FLOAT64,
    INT64,
    OWN,
    SCRATCH,
    WORDS,
    add_to,
    clear,
    collect,
    device,
    flush,
    padded,
    real_rows,
)
from tost.ops.cpu.full import RUN
from tost.ops.cpu.simd import LANES, get, load, pointer, put, read, spread, store, total, write, zero


@device
def add_pulls(w, g, mask, start, stop, H, D, gate, membership, rows, run, pull, dots):
    """pull [P] += sum_n Pi w g, and dots [R, H] = sum_d w g / (1 + m)."""
    C, Dp = H * D, padded(D)
    for low in range(start, stop, BLOCK):
        count = real_rows(mask, low, min(low + BLOCK, stop), rows)
        for k in range(count):
            r = get(rows, k)
            for h in range(H):
                pi = get(membership, r * H + h)
                sums = spread(0.0, pi)
                for c in range(0, D, LANES):
                    i = r * C + h * D + c
                    xg = read(w, i, D - c) * read(g, i, D - c)
                    sums = sums + xg * load(gate, h * Dp + c)
                    store(run, h * Dp + c, load(run, h * Dp + c) + xg * pi)
                put(dots, r * H + h, total(sums))
        if (low - start) % RUN == RUN - BLOCK:
            flush(run, pull, H * Dp)
    flush(run, pull, H * Dp)


@device
def add_energy_gradient(w, temperature, mask, start, stop, H, D, factors, membership, rows, blocks, run, dots, E, dt):
    """Gradients f = t e [R, H] of the scores (they replace the dots), E [P] += sum_n f w^2, dt [H] += sum_n e s."""
    C, Dp = H * D, padded(D)
    A, inverse, offset = factors
    u, s, pi = blocks
    for block in range((stop - start + BLOCK - 1) // BLOCK - 1, -1, -1):
        low = start + block * BLOCK
        count = real_rows(mask, low, min(low + BLOCK, stop), rows)
        if count < BLOCK:
            clear(u, 3 * H * LANES)
        for k in range(count):
            r = get(rows, k)
            for h in range(H):
                moved, score = spread(0.0, get(temperature, 0)), spread(0.0, get(temperature, 0))
                for c in range(0, D, LANES):
                    x = read(w, r * C + h * D + c, D - c)
                    p = x * x
                    moved = moved + p * load(A, h * Dp + c)
                    score = score + p * load(inverse, h * Dp + c)
                put(u, h * LANES + k, total(moved) - get(dots, r * H + h) - get(offset, h))
                put(s, h * LANES + k, total(score))
                put(pi, h * LANES + k, get(membership, r * H + h))
        mean = spread(0.0, get(temperature, 0))
        for h in range(H):
            mean = mean + load(pi, h * LANES) * load(u, h * LANES)
        for h in range(H):
            e = load(pi, h * LANES) * (load(u, h * LANES) - mean)
            add_to(dt, h, total(e * load(s, h * LANES)))
            store(u, h * LANES, e * get(temperature, h))
        for k in range(count):
            for h in range(H):
                put(dots, get(rows, k) * H + h, get(u, h * LANES + k))
        for h in range(H):
            for c in range(0, D, LANES):
                sums = load(run, h * Dp + c)
                for k in range(count):
                    x = read(w, get(rows, k) * C + h * D + c, D - c)
                    sums = sums + x * x * get(u, h * LANES + k)
                store(run, h * Dp + c, sums)
        if block % (RUN // BLOCK) == 0:
            flush(run, E, H * Dp)


@device
def write_gradient(w, g, mask, start, stop, H, D, factors, membership, f, dw):
    """dw = -Pi g / (1 + m) + 2 w (Pi A + f / c - E), and 0 for masked rows. `factors` holds 2 A, 2 / c and 2 E."""
    C, Dp = H * D, padded(D)
    A, inverse, E, gate = factors
    for r in range(start, stop):
        real = mask == 0 or get(pointer(mask, FLAG), r) != 0
        for h in range(H):
            if real:
                pi, slope = get(membership, r * H + h), get(f, r * H + h)
                for c in range(0, D, LANES):
                    i, j = r * C + h * D + c, h * Dp + c
                    through = load(A, j) * pi + load(inverse, j) * slope - load(E, j)
                    direct = load(gate, j) * pi * read(g, i, D - c)
                    write(dw, i, read(w, i, D - c) * through - direct, D - c)
            else:
                for c in range(0, D, LANES):
                    write(dw, r * C + h * D + c, spread(0.0, get(gate, 0)), D - c)


@register_jitable
def backward_words(H, D):
    """float64 slots of scratch for one worker."""
    return 8 * H * padded(D) + 3 * padded(H) + 3 * H * LANES + BLOCK


def backward(storage):
    """The kernel for w stored as `storage`, a tag and the version of the source, says.

    Its numbers: H, D, addresses of w, g [R, H, D], temperature, mask, membership, energy, mass, moment as in the
    forward pass, dots [R, H] (scratch), dw [R, H, D], dt [S, H] float64.
    """

    def kernel(address, number, s, start, stop, worker, group, members):
        call, tag = pointer(address, INT64), storage[0]
        H, D, mask = get(call, OWN), get(call, OWN + 1), get(call, OWN + 5)
        one = zero(tag)
        w, g, dw = pointer(get(call, OWN + 2), tag), pointer(get(call, OWN + 3), tag), pointer(get(call, OWN + 11), tag)
        temperature, membership = pointer(get(call, OWN + 4), one), pointer(get(call, OWN + 6), one)
        energy, mass = pointer(get(call, OWN + 7), one) + s * H * D, pointer(get(call, OWN + 8), one) + s * H
        moment, dots = pointer(get(call, OWN + 9), one) + s * H * D, pointer(get(call, OWN + 10), one)
        dt = pointer(get(call, OWN + 12), FLOAT64) + s * H
        Dp, Hp, words, scratch = padded(D), padded(H), get(call, WORDS), get(call, SCRATCH)
        P = H * Dp
        here = scratch + 8 * words * worker
        part_pull = pointer(here, FLOAT64)
        part_E, part_dt, sums = part_pull + P, part_pull + 2 * P, part_pull + 2 * P + Hp
        run = pointer(here + 8 * (3 * P + Hp), one)
        A, inverse, E, gate, offset = run + P, run + 2 * P, run + 3 * P, run + 4 * P, run + 5 * P
        blocks = (offset + Hp, offset + Hp + H * LANES, offset + Hp + 2 * H * LANES)
        rows = pointer(here + 8 * (words - BLOCK), INT64)
        everyone = pointer(scratch + 8 * words * group, FLOAT64)

        if number == 0:
            clear(part_pull, 2 * P + Hp)
            clear(run, 5 * P)
            for h in range(H):
                for d in range(D):
                    put(gate, h * Dp + d, 1 / (1 + get(moment, h * D + d)))
            add_pulls(w, g, mask, start, stop, H, D, gate, membership, rows, run, part_pull, dots)
        elif number == 1:
            collect(sums, everyone, words, P, members)
            for h in range(H):
                Q, B = get(mass, h) + MASS_EPS, 0.0
                for d in range(D):
                    i, j = h * D + d, h * Dp + d
                    a = get(sums, j) * get(gate, j) * get(gate, j) / Q
                    B += a * get(moment, i)
                    put(A, j, a)
                    put(inverse, j, 1 / max(get(energy, i), FULL_FLOOR))
                put(offset, h, B)
            add_energy_gradient(
                w,
                temperature,
                mask,
                start,
                stop,
                H,
                D,
                (A, inverse, offset),
                membership,
                rows,
                blocks,
                run,
                dots,
                part_E,
                part_dt,
            )
        else:
            collect(sums, everyone + P, words, P, members)
            for h in range(H):
                for d in range(D):
                    j = h * Dp + d
                    live = get(energy, h * D + d) >= FULL_FLOOR  # a clamped energy passes no gradient on
                    put(E, j, 2 * get(sums, j) * get(inverse, j) * get(inverse, j) if live else 0.0)
                    put(A, j, 2 * get(A, j))
                    put(inverse, j, 2 * get(inverse, j))
            write_gradient(w, g, mask, start, stop, H, D, (A, inverse, E, gate), membership, dots, dw)
            if worker == group:
                collect(dt, everyone + 2 * P, words, H, members)

    return kernel
