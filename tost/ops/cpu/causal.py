"""Fused kernels of the causal operator. The letters are those of docs/math.md.

One pass over w: a block of rows is scored against the running energy, its memberships follow in one vectorised softmax,
and the running moment turns them into outputs while the rows are still in the cache. Sums run from zero within a chunk
of rows, in the statistics' type, on top of float64 ones that move once a chunk: ten million tokens don't drift.

A sequence that other threads would wait for is shared: they sum the energies of their rows, then score them and sum
the moments, then write the outputs; each starts from the sums of the workers before it.
"""

# S sequences, R rows = tokens of all sequences, H heads, D features per head, C = H*D, P = H * (D padded to vectors)

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from tost.ops.common import CAUSAL_FLOOR, MASS_EPS
from tost.ops.cpu.blocks import (
    BLOCK,
    FLOAT64,
    INT64,
    NOTHING,
    ONE,
    OWN,
    SCRATCH,
    WORDS,
    clear,
    clear_rows,
    device,
    first_row,
    layer,
    padded,
    real_rows,
    softmax_heads,
)
from tost.ops.cpu.simd import LANES, get, larger, load, pointer, put, read, spread, store, total, widen, write, zero
from tost.ops.cpu.states import hand_over, take_over

CAUSAL_PASSES, EVERYTHING = np.int64(3), np.int64(-1)  # or all passes at once, block by block


@device
def begin_chunk(base, start, run, H, Dp):
    """A chunk's sums start from zero, on top of the float64 sums so far."""
    for i in range(0, H * Dp, LANES):
        store(start, i, load(base, i))
        store(run, i, spread(0.0, get(run, 0)))


@device
def end_chunk(base, run, survive, H, Dp):
    """base <- decay^tokens base + run."""
    for h in range(H):
        for i in range(h * Dp, (h + 1) * Dp, LANES):
            store(base, i, load(base, i) * get(survive, h) + widen(load(run, i)))


@device
def save_part(state, sums, H, D):
    """Keeps [H, P / H] sums as [H, D] for the backward pass."""
    Dp = padded(D)
    for h in range(H):
        for c in range(0, D, LANES):
            write(state, h * D + c, load(sums, h * Dp + c), D - c)


@device
def decay_powers(decay, survive, powers, count, H):
    """powers [H, BLOCK] = decay^(tokens of the chunk up to this one); `survive` [H] goes on from block to block."""
    for h in range(H):
        for k in range(count):
            put(survive, h, get(survive, h) * get(decay, h))
            put(powers, h * LANES + k, get(survive, h))


@device
def score_rows(w, rows, count, H, D, decay, powers, start, run, score):
    """score [H, BLOCK] = sum_d w^2 / max(a, floor), a = decay^k start + run; moves `run` past these rows."""
    Dp = padded(D)
    floor = spread(CAUSAL_FLOOR, get(run, 0))
    for k in range(count):
        row = w + get(rows, k) * H * D
        for h in range(H):
            keep, power = get(decay, h), get(powers, h * LANES + k)
            sums = spread(0.0, power)
            for c in range(0, D, LANES):
                x = read(row, h * D + c, D - c)
                p = x * x
                a = load(run, h * Dp + c) * keep + p
                store(run, h * Dp + c, a)
                sums = sums + p / larger(load(start, h * Dp + c) * power + a, floor)
            put(score, h * LANES + k, total(sums))


@device
def add_energy(w, rows, count, H, D, decay, run):
    """run <- decay run + w^2, row by row."""
    Dp = padded(D)
    for h in range(H):
        for c in range(0, D, LANES):
            a = load(run, h * Dp + c)
            for k in range(count):
                x = read(w, get(rows, k) * H * D + h * D + c, D - c)
                a = a * get(decay, h) + x * x
            store(run, h * Dp + c, a)


@device
def add_moment(w, rows, count, H, D, decay, pi, run):
    """run <- decay run + Pi w^2, row by row."""
    Dp = padded(D)
    for h in range(H):
        for c in range(0, D, LANES):
            S = load(run, h * Dp + c)
            for k in range(count):
                x = read(w, get(rows, k) * H * D + h * D + c, D - c)
                S = S * get(decay, h) + x * x * get(pi, h * LANES + k)
            store(run, h * Dp + c, S)


@device
def output_rows(w, rows, count, H, D, decay, powers, pi, Q, start, run, y):
    """y = -Pi w Q / (Q + S), S = decay^k start + run; moves `run` past these rows."""
    Dp = padded(D)
    for k in range(count):
        row = get(rows, k) * H * D
        for h in range(H):
            keep, power = get(decay, h), get(powers, h * LANES + k)
            share, mass = get(pi, h * LANES + k), get(Q, h * LANES + k)
            for c in range(0, D, LANES):
                x = read(w, row + h * D + c, D - c)
                S = load(run, h * Dp + c) * keep + x * x * share
                store(run, h * Dp + c, S)
                write(y, row + h * D + c, x * (-share * mass) / (load(start, h * Dp + c) * power + S + mass), D - c)


@device
def score_block(w, temperature, bias, bias_rows, rows, count, H, D, decay, powers, start, run, score):
    """Memberships [H, BLOCK] of a block's rows; lanes behind the last row mean nothing."""
    if count < BLOCK:
        clear(score, H * LANES)
    score_rows(w, rows, count, H, D, decay, powers, start, run, score)
    if bias_rows > 0:
        for k in range(count):
            for h in range(H):  # the published bias is added to each of the D features before their sum
                here = get(score, h * LANES + k) + D * get(bias, get(rows, k) % bias_rows * H + h)
                put(score, h * LANES + k, here)
    softmax_heads(score, temperature, H)


@device
def advance_mass(mass, decay, pi, Q, count, H):
    """mass <- decay mass + Pi in float64; Q [H, BLOCK] = mass + 1e-8 at each row."""
    for h in range(H):
        for k in range(count):
            put(mass, h, get(mass, h) * get(decay, h) + get(pi, h * LANES + k))
            put(Q, h * LANES + k, get(mass, h) + MASS_EPS)


@layer
def forward_rows(number, origin, start, stop, tensors, sizes, sums, floats, rows):
    """One pass (or EVERYTHING) over rows start..stop of a sequence, from the sums before them to those behind them."""
    w, temperature, bias, mask, y, membership, states = tensors
    H, D, bias_rows, chunk, saving = sizes
    energy, moment, mass, survive, factors = sums
    decay, start_a, run_a, start_S, run_S, powers, pi, Q = floats
    Dp, C = padded(D), H * D
    whole = number == EVERYTHING
    for low in range(start, stop, chunk):
        begin_chunk(energy, start_a, run_a, H, Dp)
        begin_chunk(moment, start_S, run_S, H, Dp)
        if saving and low > origin:
            state = states + (origin // chunk + (low - origin) // chunk - 1) * (2 * C + H)
            if whole or number == 1:
                save_part(state, start_a, H, D)
            if whole or number == 2:
                save_part(state + C, start_S, H, D)
                for h in range(H):
                    put(state, 2 * C + h, get(mass, h))
        for h in range(H):
            put(survive, h, 1.0)
        for first in range(low, min(low + chunk, stop), BLOCK):
            last = min(first + BLOCK, low + chunk, stop)
            count = real_rows(mask, first, last, rows)
            decay_powers(decay, survive, powers, count, H)
            if number == 0:
                add_energy(w, rows, count, H, D, decay, run_a)
                continue
            if whole or number == 1:
                score_block(w, temperature, bias, bias_rows, rows, count, H, D, decay, powers, start_a, run_a, pi)
                if saving or not whole:
                    if count < last - first:
                        clear(membership + first * H, (last - first) * H)
                    for k in range(count):
                        for h in range(H):
                            put(membership, get(rows, k) * H + h, get(pi, h * LANES + k))
            else:
                for k in range(count):
                    for h in range(H):
                        put(pi, h * LANES + k, get(membership, get(rows, k) * H + h))
            advance_mass(mass, decay, pi, Q, count, H)
            if number == 1:
                add_moment(w, rows, count, H, D, decay, pi, run_S)
            else:
                output_rows(w, rows, count, H, D, decay, powers, pi, Q, start_S, run_S, y)
                if count < last - first:
                    clear_rows(y, mask, first, last, C, get(run_S, 0))
        end_chunk(energy, run_a, survive, H, Dp)
        end_chunk(moment, run_S, survive, H, Dp)
        for h in range(H):
            put(factors, h, get(factors, h) * get(survive, h))


@register_jitable
def forward_words(H, D):
    """float64 slots of scratch for one worker."""
    return 8 * H * padded(D) + 6 * padded(H) + 3 * H * LANES + BLOCK


def forward(storage):
    """The kernel for w stored as `storage`, a tag and the version of the source, says.

    Its numbers: H, D, bias_rows, chunk, addresses of w, y [R, H, D], temperature [H], mask [R] (or 0),
    bias [bias_rows, H], decay [H] (or 0), the incoming float64 state energy, moment, mass (or 0) and the outgoing one,
    membership [R, H] and the sums at every `chunk` rows, states [R // chunk, H (2 D + 1)], and whether the backward
    pass wants these two.
    """

    def kernel(address, number, s, start, stop, worker, group, members):
        call, tag = pointer(address, INT64), storage[0]
        H, D, chunk, mask, decays = (
            get(call, OWN),
            get(call, OWN + 1),
            get(call, OWN + 3),
            get(call, OWN + 7),
            get(call, OWN + 9),
        )
        one = zero(tag)
        sizes = (H, D, get(call, OWN + 2), chunk, get(call, OWN + 18) != 0)
        tensors = (
            pointer(get(call, OWN + 4), tag),
            pointer(get(call, OWN + 6), one),
            pointer(get(call, OWN + 8), one),
            mask,
            pointer(get(call, OWN + 5), tag),
            pointer(get(call, OWN + 16), one),
            pointer(get(call, OWN + 17), one),
        )
        Dp, Hp, words, scratch = padded(D), padded(H), get(call, WORDS), get(call, SCRATCH)
        P = H * Dp
        parts = pointer(scratch + 8 * words * group, FLOAT64)
        part_energy = pointer(scratch + 8 * words * worker, FLOAT64)
        part_moment, part_mass = part_energy + P, part_energy + 2 * P
        factors = part_mass + Hp
        own_energy = factors + Hp
        own_moment, own_mass, survive = own_energy + P, own_energy + 2 * P, own_energy + 2 * P + Hp
        decay = pointer(scratch + 8 * (words * worker + 4 * P + 4 * Hp), one)
        edges = decay + Hp
        powers = edges + 4 * P
        floats = (
            decay,
            edges,
            edges + P,
            edges + 2 * P,
            edges + 3 * P,
            powers,
            powers + H * LANES,
            powers + 2 * H * LANES,
        )
        rows = pointer(scratch + 8 * (words * (worker + 1) - BLOCK), INT64)
        for h in range(H):
            put(decay, h, 1.0 if decays == 0 else get(pointer(decays, one), h))
            if number == 0:
                put(factors, h, 1.0)

        before, all_at_once = worker - group, number == EVERYTHING
        energy, moment, mass, product = own_energy, own_moment, own_mass, survive
        if number == 0:
            clear(part_energy, 2 * P + Hp)
            energy, moment, mass, product = part_energy, part_moment, part_mass, factors
        if number == 1:
            clear(part_moment, P + Hp)
            moment, mass = part_moment, part_mass
        if number == 1 or all_at_once:
            take_over(energy, get(call, OWN + 10), s, H, D, Dp, parts, words, 2 * P + Hp, NOTHING, before)
        if number == 2 or all_at_once:
            take_over(moment, get(call, OWN + 11), s, H, D, Dp, parts, words, 2 * P + Hp, P, before)
            take_over(mass, get(call, OWN + 12), s, H, ONE, ONE, parts, words, 2 * P + Hp, 2 * P, before)
        sums = (energy, moment, mass, survive, product)
        forward_rows(number, first_row(call, s), start, stop, tensors, sizes, sums, floats, rows)
        if before == members - 1:
            if number == 1 or all_at_once:
                hand_over(energy, pointer(get(call, OWN + 13), FLOAT64) + s * H * D, H, D, Dp)
            if number == 2 or all_at_once:
                hand_over(moment, pointer(get(call, OWN + 14), FLOAT64) + s * H * D, H, D, Dp)
                hand_over(mass, pointer(get(call, OWN + 15), FLOAT64) + s * H, H, ONE, ONE)

    return kernel
