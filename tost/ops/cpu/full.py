"""Fused kernels of the full operator. The letters are those of docs/math.md.

The forward reads w three times (energy, memberships with the moment, output), the backward w three times and the
cotangent g twice. Consecutive passes run in opposite directions, so that each begins with the rows that the one before
left in the cache. A sequence is one thread's job, all passes at a stretch, unless the others would wait for it: then
its rows are shared, and every pass is a parallel region. Sums are taken over a few hundred rows in the statistics'
type and added up in float64.
"""

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
    softmax_heads,
)
from tost.ops.cpu.simd import LANES, get, load, pointer, put, read, spread, store, total, write, zero

RUN = 16 * BLOCK  # rows whose sums are taken in the statistics' type
FULL_PASSES = 3


@device
def add_energy(w, mask, start, stop, H, D, rows, run, energy):
    """energy [P] += sum_n w^2."""
    C, Dp = H * D, padded(D)
    for low in range(start, stop, BLOCK):
        count = real_rows(mask, low, min(low + BLOCK, stop), rows)
        for h in range(H):
            for c in range(0, D, LANES):
                sums = load(run, h * Dp + c)
                for k in range(count):
                    x = read(w, get(rows, k) * C + h * D + c, D - c)
                    sums = sums + x * x
                store(run, h * Dp + c, sums)
        if (low - start) % RUN == RUN - BLOCK:
            flush(run, energy, H * Dp)
    flush(run, energy, H * Dp)


@device
def add_moment(w, temperature, mask, start, stop, H, D, inverse, membership, rows, score, run, moment, mass):
    """Memberships of the rows; moment [P] += sum_n Pi w^2, mass [H] += sum_n Pi."""
    C, Dp = H * D, padded(D)
    for block in range((stop - start + BLOCK - 1) // BLOCK - 1, -1, -1):
        low = start + block * BLOCK
        high = min(low + BLOCK, stop)
        count = real_rows(mask, low, high, rows)
        if count < high - low:
            clear(membership + low * H, (high - low) * H)
        for k in range(count):
            row = w + get(rows, k) * C
            for h in range(H):
                sums = spread(0.0, get(temperature, 0))
                for c in range(0, D, LANES):
                    x = read(row, h * D + c, D - c)
                    sums = sums + x * x * load(inverse, h * Dp + c)
                put(score, h * LANES + k, total(sums))
        softmax_heads(score, temperature, H)
        for k in range(count):
            for h in range(H):
                pi = get(score, h * LANES + k)
                put(membership, get(rows, k) * H + h, pi)
                add_to(mass, h, pi)
        for h in range(H):
            for c in range(0, D, LANES):
                sums = load(run, h * Dp + c)
                for k in range(count):
                    x = read(w, get(rows, k) * C + h * D + c, D - c)
                    sums = sums + x * x * get(score, h * LANES + k)
                store(run, h * Dp + c, sums)
        if block % (RUN // BLOCK) == 0:
            flush(run, moment, H * Dp)


@device
def write_output(w, mask, start, stop, H, D, gate, membership, y):
    """y = -Pi w / (1 + m), and 0 for masked rows."""
    C, Dp = H * D, padded(D)
    for r in range(start, stop):
        real = mask == 0 or get(pointer(mask, FLAG), r) != 0
        for h in range(H):
            pi = get(membership, r * H + h)
            for c in range(0, D, LANES):
                i = r * C + h * D + c
                value = load(gate, h * Dp + c) * -pi
                if real:
                    write(y, i, read(w, i, D - c) * value, D - c)
                else:
                    write(y, i, spread(0.0, pi), D - c)


@register_jitable
def forward_words(H, D):
    """float64 slots of scratch for one worker."""
    return 5 * H * padded(D) + 2 * padded(H) + H * LANES + BLOCK


def forward(storage):
    """The kernel for w stored as `storage`, a tag and the version of the source, says.

    Its numbers: H, D, addresses of w, y [R, H, D], temperature [H], mask [R] (or 0), membership [R, H], and of energy,
    mass, moment [S, H, D].
    """

    def kernel(address, number, s, start, stop, worker, group, members):
        call, tag = pointer(address, INT64), storage[0]
        H, D, mask = get(call, OWN), get(call, OWN + 1), get(call, OWN + 5)
        one = zero(tag)
        w, y = pointer(get(call, OWN + 2), tag), pointer(get(call, OWN + 3), tag)
        temperature, membership = pointer(get(call, OWN + 4), one), pointer(get(call, OWN + 6), one)
        energy, mass, moment = (
            pointer(get(call, OWN + 7), one),
            pointer(get(call, OWN + 8), one),
            pointer(get(call, OWN + 9), one),
        )
        Dp, Hp, words, scratch = padded(D), padded(H), get(call, WORDS), get(call, SCRATCH)
        P = H * Dp
        here = scratch + 8 * words * worker
        part_energy = pointer(here, FLOAT64)
        part_moment, part_mass, sums, sums_mass = (
            part_energy + P,
            part_energy + 2 * P,
            part_energy + 2 * P + Hp,
            part_energy + 3 * P + Hp,
        )
        run = pointer(here + 8 * (3 * P + 2 * Hp), one)
        factor, score = run + P, run + 2 * P
        rows = pointer(here + 8 * (words - BLOCK), INT64)
        everyone = pointer(scratch + 8 * words * group, FLOAT64)

        if number == 0:
            clear(part_energy, 2 * P + Hp)
            clear(run, 2 * P)
            add_energy(w, mask, start, stop, H, D, rows, run, part_energy)
        elif number == 1:
            collect(sums, everyone, words, P, members)
            clear(score, H * LANES)
            for h in range(H):
                for d in range(D):
                    a = get(sums, h * Dp + d)
                    put(factor, h * Dp + d, 1 / max(a, FULL_FLOOR))
                    if worker == group:
                        put(energy, (s * H + h) * D + d, a)
            add_moment(
                w, temperature, mask, start, stop, H, D, factor, membership, rows, score, run, part_moment, part_mass
            )
        else:
            collect(sums, everyone + P, words, P, members)
            collect(sums_mass, everyone + 2 * P, words, H, members)
            for h in range(H):
                for d in range(D):
                    m = get(sums, h * Dp + d) / (get(sums_mass, h) + MASS_EPS)
                    put(factor, h * Dp + d, 1 / (1 + m))
                    if worker == group:
                        put(moment, (s * H + h) * D + d, m)
                if worker == group:
                    put(mass, s * H + h, get(sums_mass, h))
            write_output(w, mask, start, stop, H, D, factor, membership, y)

    return kernel
